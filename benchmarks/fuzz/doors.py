"""Garbage for every door of a real ingest, beside streams that must not notice."""

import asyncio
import random
import struct
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes

import msgspec
import psutil

from benchmarks.fuzz.inputs import damage
from benchmarks.fuzz.parsers import TARGETS
from tests.support.frame_client import stream_frames
from tests.support.frame_numbers import Tiling
from tests.support.mutations import mutate
from tests.support.system import System

__all__ = ["DoorReport", "fuzz_doors"]

ATTACKERS: Final = 8
PATIENCE_S: Final = (2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 20.0)
"""An attempt that was not answered by then is left; the server's own limit is 10 s."""
GOOD_FRAMES: Final = 6 * 50
EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
GROWTH_BYTES_MAX: Final = 64 << 20
"""Of ingest, from its first seconds under fire to its end."""
WARM_S: Final = 5.0
MESSAGES_MAX: Final = 12
FRAME_BYTES_MAX: Final = 60_000

_DOORS: Final = {
    "native": ("/v1/streams", ("native-hello", "native-control")),
    "palabra": (
        "/asr/v1/speech-to-text/stream?language=en&sample_rate=16000&format=pcm_s16le",
        ("palabra-client",),
    ),
    "kotoba": ("/v1/realtime", ("kotoba-client", "kotoba-door", "kotoba-secret")),
    "openai": ("/v1/realtime?intent=transcription", ("kotoba-secret", "kotoba-door")),
}
_POSTS: Final = (
    ("/session-storage/session", "palabra-session"),
    ("/v1/realtime/transcription_sessions", "kotoba-secret"),
    ("/v1/realtime/client_secrets", "kotoba-secret"),
    ("/v1/streams/nobody/viewer_token", "viewer-token"),
)
_GETS: Final = (
    "/",
    "/v1/streams",
    "/v1/streams/events",
    "/v1/streams/nobody/events",
    "/session-storage/sessions?page_size=5&page_token=YWJj",
    "/session-storage/sessions/nobody?ttl_seconds=60",
    "/healthz",
    "/static/page.js",
)
_GOOD_HELLO: Final = (
    b'{"type":"hello","format":"pcm_s16le","sample_rate_hz":16000,"providers":["echo"]}'
)


class DoorReport(msgspec.Struct, kw_only=True):
    """What a run saw."""

    attempts: Counter[str]
    """By door."""
    answers: Counter[str]
    """By HTTP status; `none`: closed without one, or nothing in time."""
    good_streams: int
    problems: list[str]
    first_mib: float
    last_mib: float


def fuzz_doors(seed: str, *, seconds: float, attempts_max: int | None = None) -> DoorReport:
    """Attack a system of its own for a while.

    Args:
        seed: decides what is sent; in which order the sockets bring it, nobody does.
        seconds: how long at most.
        attempts_max: how often at most.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        System(
            Path(folder),
            transcriber_settings={"SESSIONS_MAX": "500"},
            ingest_settings={
                "DECODERS_MAX": "50",
                "STREAMS_PER_KEY_PER_MINUTE_MAX": "100000",
                "API_KEYS": f"acme:{System.key},evil:evil-key",
            },
        ) as system,
    ):
        report = asyncio.run(_Attack(system, seed, seconds, attempts_max).run())
        for service in system.services:
            if not service.is_running:
                report.problems.append(f"{service.name} has ended\n{service.read_log_end()}")
            report.problems += _find_errors(service.log_path)
    return report


def _find_errors(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [
        f"{line[:300]} … {line[-1_500:]}"
        for line in lines
        if '"level":"ERROR"' in line or "Traceback" in line
    ][:5]


class _Attack:
    """Attackers, and a good client beside them."""

    def __init__(self, system: System, seed: str, seconds: float, attempts_max: int | None) -> None:
        self._system = system
        self._seed = seed
        self._seconds = seconds
        self._attempts_left = attempts_max
        self._is_over = False
        self._n_started = 0
        self._corpora = {name: target.corpus() for name, target in TARGETS.items()}
        self._report = DoorReport(
            attempts=Counter(),
            answers=Counter(),
            good_streams=0,
            problems=[],
            first_mib=0.0,
            last_mib=0.0,
        )

    async def run(self) -> DoorReport:
        """Attack until the time is over."""
        async with asyncio.TaskGroup() as tasks:
            attackers = [tasks.create_task(self._attack()) for _ in range(ATTACKERS)]
            tasks.create_task(self._stream_beside())
            measuring = tasks.create_task(self._measure())
            await asyncio.wait(attackers, timeout=self._seconds)
            self._is_over = True
            await asyncio.wait(attackers)
            measuring.cancel()
        self._report.last_mib = self._read_mib()
        if self._report.first_mib and (
            self._report.last_mib - self._report.first_mib > GROWTH_BYTES_MAX >> 20
        ):
            self._report.problems.append(
                f"ingest grew from {self._report.first_mib:.0f} to {self._report.last_mib:.0f} MiB"
            )
        return self._report

    async def _measure(self) -> None:
        await asyncio.sleep(WARM_S)
        self._report.first_mib = self._read_mib()

    def _read_mib(self) -> float:
        return float(psutil.Process(self._system.ingest.pid).memory_full_info().uss) / (1 << 20)

    async def _stream_beside(self) -> None:
        while not self._is_over or self._report.good_streams == 0:
            received = await stream_frames(
                self._system.ingest.url, self._system.key, n_frames=GOOD_FRAMES
            )
            self._report.good_streams += 1
            if received.check_tiling(GOOD_FRAMES) != EXACT:
                self._report.problems.append(
                    f"a good stream is not exact: {received.check_tiling(GOOD_FRAMES)}"
                )

    async def _attack(self) -> None:
        while not self._is_over and self._attempts_left != 0:
            if self._attempts_left is not None:
                self._attempts_left -= 1
            chance = random.Random(f"{self._seed}:doors:{self._n_started}")
            self._n_started += 1
            answer = b""
            try:
                async with asyncio.timeout(chance.choice(PATIENCE_S)):
                    answer = await self._try_once(chance)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                pass
            self._report.answers[answer[9:12].decode(errors="replace") or "none"] += 1

    async def _try_once(self, chance: random.Random) -> bytes:
        kind = chance.choice([*_DOORS, *_DOORS, "http", "bytes"])
        self._report.attempts[kind] += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", self._system.ingest_port)
        try:
            if kind in _DOORS:
                return await self._converse(kind, chance, reader, writer)
            request = self._build_request(chance)
            writer.write(mutate(request, chance) if kind == "bytes" else request)
            await writer.drain()
            return await reader.read(4_096)
        finally:
            if chance.random() < 0.3:
                writer.transport.abort()
            else:
                writer.close()

    def _build_request(self, chance: random.Random) -> bytes:
        if chance.random() < 0.5:
            path, name = chance.choice(_POSTS)
            body = damage(chance.choice(self._corpora[name]), chance)
            head = f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n"
        else:
            path, body = chance.choice(_GETS), b""
            method = chance.choice(["GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS"])
            head = f"{method} {_damage_path(path, chance)} HTTP/1.1\r\n"
        who = "Host: x\r\nConnection: close\r\nAuthorization: Bearer evil-key\r\n"
        return f"{head}{who}ClientId: evil\r\nClientSecret: evil-key\r\n\r\n".encode() + body

    async def _converse(
        self,
        kind: str,
        chance: random.Random,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bytes:
        path, names = _DOORS[kind]
        key = "evil-key" if chance.random() < 0.95 else "wrong"
        path = _damage_path(path, chance) if chance.random() < 0.2 else path
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Authorization: Bearer {key}\r\n\r\n".encode()
        )
        answer = await reader.read(4_096)
        if not answer.startswith(b"HTTP/1.1 101"):
            return answer
        if kind == "native" and chance.random() < 0.7:
            writer.write(_frame(1, _GOOD_HELLO, chance))
        for _ in range(chance.randint(1, MESSAGES_MAX)):
            writer.write(self._build_message(names, chance))
            await writer.drain()
        if chance.random() < 0.5:
            writer.write(
                _frame(8, struct.pack("!H", chance.choice([1000, 1001, 0, 65_535])), chance)
            )
        async with asyncio.timeout(chance.choice([0.05, 0.5, 2.0])):
            while await reader.read(65_536):
                pass
        return answer

    def _build_message(self, names: tuple[str, ...], chance: random.Random) -> bytes:
        if chance.random() < 0.3:
            name = chance.choice(["wav", "chunks"])
            data = damage(chance.choice(self._corpora[name]), chance)[:FRAME_BYTES_MAX]
            message = _frame(2, data, chance)
        else:
            data = damage(chance.choice(self._corpora[chance.choice(names)]), chance)
            message = _frame(1, data[:FRAME_BYTES_MAX], chance)
        return mutate(message, chance) if chance.random() < 0.1 else message


def _damage_path(path: str, chance: random.Random) -> str:
    damaged = mutate(path.encode(), chance)
    return "/" + quote_from_bytes(damaged.lstrip(b"/"), safe="/?&=%")[:8_000]


def _frame(opcode: int, data: bytes, chance: random.Random) -> bytes:
    """Return a masked frame (the mask is zero), now and then in two parts."""
    if opcode in {1, 2} and len(data) > 1 and chance.random() < 0.1:
        at = chance.randrange(len(data))
        return _frame_part(opcode, data[:at]) + _frame_part(0x80, data[at:])
    return _frame_part(0x80 | opcode, data)


def _frame_part(first: int, data: bytes) -> bytes:
    if len(data) < 126:
        head = struct.pack("!BB", first, 0x80 | len(data))
    else:
        head = struct.pack("!BBH", first, 0x80 | 126, len(data))
    return head + bytes(4) + data
