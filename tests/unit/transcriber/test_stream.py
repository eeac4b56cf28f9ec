"""One stream on one worker, without a server."""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Final, Never

import msgspec

from speechbus_contracts import AudioChunk, ChunkKind, StreamOpened, encode_chunk
from speechbus_runtime.publisher import AckedPublisher
from speechbus_transcriber.checkpoint import Checkpoint
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.driver import ConnectionEvents
from speechbus_transcriber.providers import echo
from speechbus_transcriber.providers.interface import (
    EngineConnect,
    HttpExchange,
    Pace,
    WebSocketConnect,
)
from speechbus_transcriber.providers.registry import Provider
from speechbus_transcriber.stream import StreamContext, StreamRun
from tests.support.fake_bus import FakeBus
from tests.support.frame_numbers import build_frames
from tests.support.virtual_time import run_virtual

AUDIO: Final = "speech.v1.audio.0.acme.s1"
REAL_TIME: Final = Provider(
    msgspec.structs.replace(echo.CAPABILITIES, pace=Pace(rate=1.0, lead_ms=500)), echo.EchoProtocol
)
OPENED: Final = StreamOpened(
    stream_id="s1", tenant="acme", opened_at=0, sample_rate_hz=16_000, shard=0, skips_silence=False
)


class EmptyStore(FakeBus):
    """Answers every look into AUDIO: nothing is stored."""

    def publish_nowait(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> bool:
        """Record, and answer."""
        if subject.startswith(b"$JS.API.DIRECT.GET"):
            nothing = b"NATS/1.0 404 Message Not Found\r\n\r\n"
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: self.deliver(reply, b"", headers=nothing))
        return super().publish_nowait(subject, payload, reply=reply, headers=headers)

    @property
    def n_looks(self) -> int:
        """Looks into AUDIO so far."""
        return sum(sent.subject.startswith(b"$JS.API.DIRECT.GET") for sent in self.sent)


def test_a_look_that_is_due_while_the_provider_has_no_room_is_not_forgotten() -> None:
    """What was missed while NATS was away would never be read, nor would its source be missed."""

    async def run() -> tuple[int, int]:
        bus = EmptyStore()
        stream = _build_stream(bus)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(stream.run())
            await asyncio.sleep(1.0)
            for number in range(20):
                _deliver(bus, number)
            stream.excuse_source()
            await asyncio.sleep(0.1)
            n_before = bus.n_looks
            await asyncio.sleep(3.0)
            running.cancel()
        return n_before, bus.n_looks

    n_before, n_after = run_virtual(run())

    assert n_after > n_before


def _deliver(bus: FakeBus, number: int) -> None:
    pcm = build_frames(1 + 5 * number, 5)
    chunk = AudioChunk(
        kind=ChunkKind.AUDIO,
        number=number,
        first_sample=number * len(pcm) // 2,
        captured_at_ns=0,
        payload=pcm,
    )
    bus.deliver(AUDIO.encode(), encode_chunk(chunk))


def _build_stream(bus: FakeBus) -> StreamRun:
    owned = OwnedStream(opened=OPENED, epoch=1, token=1, checkpoint=Checkpoint())
    return StreamRun(
        owned,
        StreamContext(
            worker_id="w1",
            audio_bus=bus,
            control_bus=bus,
            publisher=AckedPublisher(bus),
            connections=_Unreachable(),
            providers={"echo": REAL_TIME},
            lag_max_s=math.inf,
            may_show=lambda: True,
            now_ns=time.time_ns,
        ),
    )


class _Unreachable:
    """Echo works in this process."""

    async def connect(
        self, request: EngineConnect | WebSocketConnect, events: ConnectionEvents
    ) -> Never:
        """Nobody is there."""
        raise OSError

    async def exchange(self, request: HttpExchange) -> Never:
        """Nobody is there."""
        raise OSError

    def part(self, requests: Sequence[HttpExchange]) -> None:
        """Nobody is there."""
