"""The clients of a soak: each plays one planned stream and remembers what it was told."""

import asyncio
import base64
import random
import socket
import struct
from collections.abc import Callable, Sequence
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
    """Of the last stored event."""
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
        sequence = event.get("sequence", 0)
        if sequence and sequence <= told.sequence:
            continue  # said once more, to one that has come back
        told.sequence = max(told.sequence, sequence)
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


def _cut(connection: ClientConnection, *, is_reset: bool) -> None:
    raw: socket.socket = connection.transport.get_extra_info("socket")
    if is_reset:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.transport.abort()


# --- the vendors' doors ---


async def _speak_palabra(
    plan: StreamPlan, told: Told, port: int, key: str, stop: asyncio.Event
) -> None:
    query = urlencode(
        {"token": key, "format": "pcm_s16le", "sample_rate": "16000", "language": "en"}
    )
    async with connect(
        f"ws://127.0.0.1:{port}/asr/v1/speech-to-text/stream?{query}",
        compression=None,
        proxy=None,
        ping_interval=None,
        max_queue=None,
        open_timeout=OPEN_TIMEOUT_S,
    ) as connection:
        has_answer = asyncio.Event()

        def hear(message: dict[str, Any]) -> None:
            _note_id(told, message.get("transcription_id"))
            if message["segment"]["text"].endswith("<fin>"):
                has_answer.set()

        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(_hear_vendor(connection, hear))
            await _send_audio(plan, told, connection.send, stop)
            await connection.send('{"message_type":"finalize"}')
            async with asyncio.timeout(PATIENCE_S):
                await has_answer.wait()
            hearing.cancel()


async def _speak_kotoba(
    plan: StreamPlan, told: Told, port: int, key: str, stop: asyncio.Event
) -> None:
    async with connect(
        f"ws://127.0.0.1:{port}/v1/realtime",
        additional_headers={"Authorization": f"Bearer {key}"},
        compression=None,
        proxy=None,
        ping_interval=None,
        max_queue=None,
        open_timeout=OPEN_TIMEOUT_S,
    ) as connection:
        is_committed = asyncio.Event()

        def hear(message: dict[str, Any]) -> None:
            _note_id(told, message.get("item_id"))
            if message["type"].endswith("committed"):
                is_committed.set()

        async def append(pcm: bytes) -> None:
            audio = base64.b64encode(pcm).decode()
            await connection.send(f'{{"type":"input_audio_buffer.append","audio":"{audio}"}}')

        await connection.send(msgspec.json.encode(build_update(turns=True)).decode())
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(_hear_vendor(connection, hear))
            await _send_audio(plan, told, append, stop)
            await connection.send(msgspec.json.encode(COMMIT).decode())
            async with asyncio.timeout(PATIENCE_S):
                await is_committed.wait()
            told.has_ended = True
            hearing.cancel()


async def _hear_vendor(
    connection: ClientConnection, hear: Callable[[dict[str, Any]], None]
) -> None:
    async for data in connection:
        hear(msgspec.json.decode(data, type=dict[str, Any]))
    # An orderly close that was not asked for is a server that goes away.
    raise ConnectionAbortedError


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
