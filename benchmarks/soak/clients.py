"""The clients of a soak: each plays one planned stream and remembers what it was told."""

import asyncio
import base64
import random
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.soak.plan import StreamPlan
from speechbus_contracts import ContractError, parse_transcription_id
from tests.support.conversation import build_conversation
from tests.support.frame_numbers import FRAME_MS, build_frames
from tests.support.kotoba import COMMIT, build_update

__all__ = ["Told", "play"]

PATIENCE_S: Final = 240.0
"""For the end of a stream; its provider may hear real time only and have been away."""
OPEN_TIMEOUT_S: Final = 20.0
BY_PLAN: Final = "by plan"
SAMPLES_PER_FRAME: Final = 16 * FRAME_MS
AGAIN_S: Final = 0.3
"""Before a client that was refused tries the next ingest."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing a reset."""
_LOST: Final = (OSError, TimeoutError, websockets.WebSocketException)


class Told(msgspec.Struct, kw_only=True):
    """What a client has done and heard; filled while it plays."""

    plan: StreamPlan
    stream_id: str = ""
    sent_frames: int = 0
    heard_ms: int = 0
    """The latest audio that an event has spoken of: so much was accepted."""
    finals: list[tuple[int, int, str]] = msgspec.field(default_factory=list[tuple[int, int, str]])
    has_ended: bool = False
    """It said that this was all, and stayed until the server had closed in order."""
    lost: str = ""
    """Why it was cut off, if it was."""
    tries: int = 0
    next_frame: int = 1
    """Where the audio goes on when the connection has broken."""
    accepted_samples: int = 0
    """What the server said last that is safe."""
    sequence: int = 0
    """Of the last stored event that is no translation."""
    translations: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """By language, of the last translation."""
    resume_within_s: float = 0.0
    """How long the stream waits for its client; 0: it does not."""
    port: int = 0
    """Of the ingest that it tried last."""


async def play(
    plan: StreamPlan, told: Told, ports: Callable[[], Sequence[int]], key: str, stop: asyncio.Event
) -> None:
    """Play one stream to its end.

    Args:
        plan: what to do.
        told: filled.
        ports: of the ingests to try, in turn from the planned one on.
        key: API key.
        stop: end soon, in order.
    """
    loop = asyncio.get_running_loop()
    lost_at_s = 0.0
    while not stop.is_set() or told.lost:
        listening = ports()
        port = listening[(plan.ingest + told.tries) % len(listening)]
        told.tries += 1
        told.port = port
        told.lost = ""
        n_heard = told.heard_ms
        try:
            await _CONVERSE[plan.door](plan, told, port, key, stop)
        except* _LOST as errors:
            told.lost = type(errors.exceptions[0]).__name__
        if told.heard_ms > n_heard or not lost_at_s:
            lost_at_s = loop.time()
        may_resume = told.lost and told.lost != BY_PLAN and not told.has_ended
        if may_resume and loop.time() - lost_at_s < told.resume_within_s:
            await asyncio.sleep(AGAIN_S)
        elif told.stream_id or told.sent_frames or stop.is_set():
            return
        else:
            await asyncio.sleep(AGAIN_S)


# --- the native door ---


async def _speak_native(
    plan: StreamPlan, told: Told, port: int, key: str, stop: asyncio.Event
) -> None:
    hello: dict[str, object] = {
        "type": "hello",
        "format": "pcm_s16le",
        "sample_rate_hz": 16_000,
        "language": "ja",
        "providers": list(plan.route),
        "skip_silence": plan.has_pauses,
        "resumable": plan.number % 2 == 0,
    }
    if told.stream_id:
        hello["resume"] = {
            "stream_id": told.stream_id,
            "samples": told.accepted_samples,
            "sequence": told.sequence,
            "translations": told.translations,
        }
    async with connect(
        f"ws://127.0.0.1:{port}/v1/streams",
        additional_headers={"Authorization": f"Bearer {key}"},
        compression=None,
        proxy=None,
        ping_interval=None,  # a server that holds an upload back answers no pings
        max_queue=1 if plan.manner == "slow" else None,
        open_timeout=OPEN_TIMEOUT_S,
    ) as connection:
        await connection.send(msgspec.json.encode(hello).decode())
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            ready = msgspec.json.decode(await connection.recv(), type=dict[str, Any])
        if ready["type"] != "ready":
            if told.stream_id:
                raise ConnectionRefusedError  # it cannot go on, or not here
            return  # no room, or shutting down: the next ingest
        told.stream_id = ready["stream_id"]
        told.resume_within_s = ready.get("resume_within_s", 0.0)
        told.next_frame = 1 + ready["accepted_samples"] // SAMPLES_PER_FRAME
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(_hear_native(connection, plan, told))
            is_gone = await _send_audio(plan, told, connection.send, stop)
            if is_gone:
                _cut(connection, is_reset=plan.manner == "reset")
                told.lost = BY_PLAN
                hearing.cancel()
                return
            await connection.send('{"type":"end"}')
            async with asyncio.timeout(PATIENCE_S):
                await hearing


async def _hear_native(connection: ClientConnection, plan: StreamPlan, told: Told) -> None:
    draw = random.Random(plan.number)
    async for data in connection:
        event = msgspec.json.decode(data, type=dict[str, Any])
        kind = event["type"]
        _note_sequence(told, event)
        if kind == "accepted":
            told.accepted_samples = event["samples"]
        if kind in {"segment.partial", "segment.final"}:
            told.heard_ms = max(told.heard_ms, event["end_ms"], event["covered_ms"])
        if kind == "segment.final":
            told.finals.append((event["index"], event["revision"], event["text"]))
        elif kind == "stream.closed":
            told.has_ended = event["reason"] == "end"
        if plan.manner == "slow":
            await asyncio.sleep(draw.uniform(0.0, 0.4))


def _note_sequence(told: Told, event: Mapping[str, Any]) -> None:
    if (sequence := event.get("sequence", 0)) == 0:
        return
    if event["type"].startswith("translation"):
        told.translations[event["language"]] = sequence
    else:
        told.sequence = sequence


def _cut(connection: ClientConnection, *, is_reset: bool) -> None:
    raw: socket.socket = connection.transport.get_extra_info("socket")
    if is_reset:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.transport.abort()


# --- the vendors' doors ---


class _Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """How a vendor's clients speak at our door."""

    path: str
    query: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    key_field: str | None = None
    """Of the query; None: the key is a bearer token."""
    greeting: str | None = None
    encode: Callable[[bytes], bytes | str]
    """Of a piece of audio."""
    finish: str
    """Asks for the rest."""
    is_answer: Callable[[Mapping[str, Any]], bool]
    """Whether a message says that the rest has come."""
    id_field: str
    tells_end: bool
    """Whether the stream is closed with that."""


def _encode_append(pcm: bytes) -> str:
    audio = base64.b64encode(pcm).decode()
    return f'{{"type":"input_audio_buffer.append","audio":"{audio}"}}'


_PALABRA: Final = _Vendor(
    path="/asr/v1/speech-to-text/stream",
    query={"format": "pcm_s16le", "sample_rate": "16000", "language": "en"},
    key_field="token",
    encode=bytes,
    finish='{"message_type":"finalize"}',
    is_answer=lambda message: message["segment"]["text"].endswith("<fin>"),
    id_field="transcription_id",
    tells_end=False,
)
_KOTOBA: Final = _Vendor(
    path="/v1/realtime",
    greeting=msgspec.json.encode(build_update(turns=True)).decode(),
    encode=_encode_append,
    finish=msgspec.json.encode(COMMIT).decode(),
    is_answer=lambda message: message["type"].endswith("committed"),
    id_field="item_id",
    tells_end=True,
)


async def _speak_palabra(
    plan: StreamPlan, told: Told, port: int, key: str, stop: asyncio.Event
) -> None:
    await _speak_as(_PALABRA, plan, told, port, key, stop)


async def _speak_kotoba(
    plan: StreamPlan, told: Told, port: int, key: str, stop: asyncio.Event
) -> None:
    await _speak_as(_KOTOBA, plan, told, port, key, stop)


async def _speak_as(
    vendor: _Vendor, plan: StreamPlan, told: Told, port: int, key: str, stop: asyncio.Event
) -> None:
    by_query = {} if vendor.key_field is None else {vendor.key_field: key}
    query = urlencode({**by_query, **vendor.query})
    async with connect(
        f"ws://127.0.0.1:{port}{vendor.path}" + (f"?{query}" if query else ""),
        additional_headers={} if by_query else {"Authorization": f"Bearer {key}"},
        compression=None,
        proxy=None,
        ping_interval=None,
        max_queue=None,
        open_timeout=OPEN_TIMEOUT_S,
    ) as connection:
        has_answer = asyncio.Event()

        async def hear() -> None:
            async for data in connection:
                message = msgspec.json.decode(data, type=dict[str, Any])
                _note_id(told, message.get(vendor.id_field))
                if vendor.is_answer(message):
                    has_answer.set()
            # An orderly close that was not asked for is a server that goes away.
            raise ConnectionAbortedError

        async def send(pcm: bytes) -> None:
            await connection.send(vendor.encode(pcm))

        if vendor.greeting is not None:
            await connection.send(vendor.greeting)
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(hear())
            await _send_audio(plan, told, send, stop)
            await connection.send(vendor.finish)
            async with asyncio.timeout(PATIENCE_S):
                await has_answer.wait()
            told.has_ended = vendor.tells_end
            hearing.cancel()


def _note_id(told: Told, transcription_id: str | None) -> None:
    if not told.stream_id and transcription_id:
        with suppress(ContractError):
            # Palabra's door answers a finalize of nothing with `<stream>-fin-<n>`.
            told.stream_id = parse_transcription_id(transcription_id)[0].removesuffix("-fin")


# --- audio ---


async def _send_audio(
    plan: StreamPlan, told: Told, send: Callable[[bytes], Any], stop: asyncio.Event
) -> bool:
    """Send the planned frames; return whether the client goes without a word."""
    loop = asyncio.get_running_loop()
    build = build_conversation if plan.has_pauses else build_frames
    vanishes = plan.manner in {"vanish", "reset"}
    started_s = loop.time()
    first = began = told.next_frame
    while first <= plan.n_frames and not stop.is_set():
        if vanishes and first > plan.gone_after_frames:
            return True
        n_now = min(plan.frames_per_message, plan.n_frames + 1 - first)
        told.sent_frames = max(told.sent_frames, first + n_now - 1)
        await send(build(first, n_now))
        first += n_now
        if plan.manner != "fast":
            due_s = started_s + (first - began) * FRAME_MS / 1000
            await asyncio.sleep(max(0.0, due_s - loop.time()))
    return vanishes


_CONVERSE: Final = {
    "native": _speak_native,
    "palabra": _speak_palabra,
    "kotoba": _speak_kotoba,
}
