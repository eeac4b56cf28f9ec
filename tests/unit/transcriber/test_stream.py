"""One stream on one worker, without a server."""

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Never

import msgspec
import pytest

from speechbus_contracts import (
    AnyEvent,
    AudioChunk,
    ChunkKind,
    Gap,
    SegmentFinal,
    StreamClosed,
    StreamOpened,
    decode_event,
    encode_chunk,
)
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.telemetry import Telemetry
from speechbus_transcriber.catch_up import BATCH_CHUNKS
from speechbus_transcriber.checkpoint import Checkpoint
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.driver import ConnectionEvents
from speechbus_transcriber.measures import Measures
from speechbus_transcriber.providers import echo
from speechbus_transcriber.providers.interface import (
    EngineConnect,
    Finished,
    HttpExchange,
    Pace,
    Result,
    SessionRequest,
    WebSocketConnect,
)
from speechbus_transcriber.providers.registry import Provider
from speechbus_transcriber.stream import StreamRun
from speechbus_transcriber.stream_context import StreamContext
from speechbus_transcriber.stream_reader import SOURCE_LOST_S
from tests.support.fake_bus import FakeBus
from tests.support.frame_numbers import build_frames
from tests.support.lone_governor import build_governor, build_provider
from tests.support.virtual_time import run_virtual

AUDIO: Final = "speech.v1.audio.0.acme.s1"
REAL_TIME: Final = build_provider(
    msgspec.structs.replace(echo.CAPABILITIES, pace=Pace(rate=1.0, lead_ms=500)), echo.EchoProtocol
)
OPENED: Final = StreamOpened(
    stream_id="s1", tenant="acme", opened_at=0, sample_rate_hz=16_000, shard=0, skips_silence=False
)


ECHO: Final = build_provider(echo.CAPABILITIES, echo.EchoProtocol)


END: Final = encode_chunk(
    AudioChunk(kind=ChunkKind.END, number=10, first_sample=16_000, captured_at_ns=0, payload=b"{}")
)


class Server(FakeBus):
    """Has the stream's first chunks and its end marker in AUDIO, and acknowledges what is written.

    Args:
        n_chunks: how many there are, 32 of which are handed out per second.
    """

    def __init__(self, *, n_chunks: int = 0) -> None:
        super().__init__()
        self.is_open = True
        """Whether it answers looks into AUDIO."""
        self._n_chunks = n_chunks

    def publish_nowait(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> bool:
        """Record, and answer."""
        loop = asyncio.get_running_loop()
        if subject.startswith(b"speech.v1.write"):
            loop.call_soon(lambda: self.deliver(reply, b'{"seq":1}'))
        elif self.is_open and subject.startswith(b"$JS.API.DIRECT.GET"):
            first = msgspec.json.decode(payload, type=dict[str, Any]).get("seq", 1)
            loop.call_later(1.0, self._answer, reply, first)
        return super().publish_nowait(subject, payload, reply=reply, headers=headers)

    @property
    def n_looks(self) -> int:
        """Looks into AUDIO so far."""
        return sum(sent.subject.startswith(b"$JS.API.DIRECT.GET") for sent in self.sent)

    @property
    def written(self) -> list[AnyEvent]:
        """Events that were stored."""
        return [
            decode_event(sent.payload)
            for sent in self.sent
            if sent.subject.startswith(b"speech.v1.write")
        ]

    def _answer(self, reply: bytes, first: int) -> None:
        last = min(first + BATCH_CHUNKS - 1, self._n_chunks)
        for sequence in range(first, last + 1):
            headers = b"NATS/1.0\r\nNats-Sequence: %d\r\n\r\n" % sequence
            self.deliver(reply, _build_chunk(sequence - 1), headers=headers)
        self.deliver(reply, b"", headers=b"NATS/1.0 204 EOB\r\n\r\n")


def test_a_look_that_is_due_while_the_provider_has_no_room_is_not_forgotten() -> None:
    """What was missed while NATS was away would never be read, nor would its source be missed."""

    async def run() -> tuple[int, int]:
        bus = Server()
        stream = _build_stream(bus, REAL_TIME)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(stream.run())
            await asyncio.sleep(1.0)
            for number in range(20):
                bus.deliver(AUDIO.encode(), _build_chunk(number))
            stream.excuse_source()
            await asyncio.sleep(0.1)
            n_before = bus.n_looks
            await asyncio.sleep(3.0)
            running.cancel()
        return n_before, bus.n_looks

    n_before, n_after = run_virtual(run())

    assert n_after > n_before


@pytest.mark.parametrize("provider", [ECHO, REAL_TIME], ids=["at once", "in real time"])
def test_a_source_is_not_given_up_while_its_audio_is_being_read(provider: Provider) -> None:
    """Between two batches nothing is known to be missing, and the ingest may be long dead."""

    async def run() -> int:
        bus = Server(n_chunks=40)
        bus.is_open = False
        stream = _build_stream(bus, provider)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(stream.run())
            await asyncio.sleep(SOURCE_LOST_S)
            bus.is_open = True
            while stream.position < 40 * 1_600:
                stream.check_source(asyncio.get_running_loop().time())
                await asyncio.sleep(0.5)
            running.cancel()
        return stream.position

    assert run_virtual(run()) == 40 * 1_600


def test_silence_that_two_sessions_say_nothing_about_is_no_gap() -> None:
    """A server of Palabra's without `finalize` confirms no end, and most streams end in silence."""

    async def run() -> list[AnyEvent]:
        bus = Server()
        deaf = partial(DeafEcho, is_deaf=True)
        stream = _build_stream(bus, build_provider(echo.CAPABILITIES, deaf))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(stream.run())
            for _ in range(2):
                await asyncio.sleep(10.0)
                for number in range(10):
                    bus.deliver(AUDIO.encode(), _build_chunk(number, is_silent=True))
                bus.deliver(AUDIO.encode(), END)
            await running
        return bus.written

    (closed,) = run_virtual(run())

    assert isinstance(closed, StreamClosed)
    assert (closed.audio_ms, closed.gap_ms, closed.finals) == (1_000, 0, 0)


def test_a_mute_session_that_another_one_follows_does_not_stand_for_the_streams_end() -> None:
    """Who followed it has read the end marker, and goes with it: it has to be read again."""

    async def run() -> list[AnyEvent]:
        bus = Server()
        capabilities = msgspec.structs.replace(echo.CAPABILITIES, session_limit_s=8.0)
        stream = _build_stream(bus, build_provider(capabilities, SlowDeafEcho))
        chunks = [_build_chunk(number, is_silent=True) for number in range(10)]
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(stream.run())
            await asyncio.sleep(0.1)
            for message in (*chunks, END):
                bus.deliver(AUDIO.encode(), message)
            await asyncio.sleep(SlowDeafEcho.FINISH_S + 0.2)
            for message in chunks[:9]:  # heard again
                bus.deliver(AUDIO.encode(), message)
            await asyncio.sleep(7.5)  # rolled over, and the old session has not finished yet
            for message in (chunks[9], END):
                bus.deliver(AUDIO.encode(), message)
            async with asyncio.timeout(60.0):
                while not running.done():
                    await asyncio.sleep(SlowDeafEcho.FINISH_S)
                    for message in (*chunks, END):
                        bus.deliver(AUDIO.encode(), message)
        return bus.written

    (closed,) = run_virtual(run())

    assert isinstance(closed, StreamClosed)
    assert (closed.audio_ms, closed.gap_ms, closed.finals) == (1_000, 0, 0)


@pytest.mark.parametrize("n_deaf", [1, 2])
def test_an_end_that_the_provider_has_not_confirmed_is_asked_of_another_session(
    n_deaf: int,
) -> None:
    """It may have stopped listening: its audio is heard again, and what nobody hears is named."""
    sessions: list[DeafEcho] = []

    def open_protocol(request: SessionRequest) -> DeafEcho:
        sessions.append(DeafEcho(request, is_deaf=len(sessions) < n_deaf))
        return sessions[-1]

    async def run() -> list[AnyEvent]:
        bus = Server()
        stream = _build_stream(bus, build_provider(echo.CAPABILITIES, open_protocol))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(stream.run())
            for _ in range(2):
                await asyncio.sleep(10.0)
                for number in range(10):
                    bus.deliver(AUDIO.encode(), _build_chunk(number))
                bus.deliver(AUDIO.encode(), END)
            await running
        return bus.written

    events = run_virtual(run())

    texts = [event.text for event in events if isinstance(event, SegmentFinal)]
    gaps = [(g.from_ms, g.to_ms, g.reason) for g in events if isinstance(g, Gap)]
    assert len(sessions) == 2
    assert (texts, gaps) == ((["1-50"], []) if n_deaf == 1 else ([], [(0, 1_000, "provider")]))
    assert isinstance(events[-1], StreamClosed)


def test_audio_that_was_seen_and_has_left_the_store_is_named() -> None:
    """Its session failed, and its ingest, which would have said it again, is dead."""
    sessions: list[DeafEcho] = []

    def open_protocol(request: SessionRequest) -> DeafEcho:
        sessions.append(DeafEcho(request, is_deaf=not sessions))
        return sessions[-1]

    async def run() -> list[AnyEvent]:
        bus = Server()
        stream = _build_stream(bus, build_provider(echo.CAPABILITIES, open_protocol))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(stream.run())
            await asyncio.sleep(10.0)
            for number in range(10):
                bus.deliver(AUDIO.encode(), _build_chunk(number))
            while not running.done():
                stream.check_source(asyncio.get_running_loop().time())
                await asyncio.sleep(0.5)
        return bus.written

    events = run_virtual(run())

    assert [(g.from_ms, g.to_ms, g.reason) for g in events if isinstance(g, Gap)] == [
        (0, 1_000, "audio_lost")
    ]
    closed = events[-1]
    assert isinstance(closed, StreamClosed)
    assert (closed.reason, closed.audio_ms, closed.gap_ms) == ("source_lost", 1_000, 1_000)


class DeafEcho(echo.EchoProtocol):
    """Answers a finish as one that does not know whether its server has listened.

    Args:
        request: of the session.
        is_deaf: hears nothing.
    """

    def __init__(self, request: SessionRequest, *, is_deaf: bool) -> None:
        super().__init__(request)
        self._is_deaf = is_deaf

    def audio_to_send(self, pcm: memoryview, *, now_s: float) -> Sequence[str | bytes]:
        """Hear it, or not."""
        return () if self._is_deaf else super().audio_to_send(pcm, now_s=now_s)

    def results_received(self) -> list[Result]:
        """Be unsure of the end."""
        return [
            Finished(is_sure=False) if isinstance(result, Finished) else result
            for result in super().results_received()
        ]


class SlowDeafEcho(DeafEcho):
    """Hears nothing, and takes its time to say so."""

    FINISH_S: Final = 3.0

    def __init__(self, request: SessionRequest) -> None:
        super().__init__(request, is_deaf=True)
        self._finished_at_s: float | None = None

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        """Do so later."""
        self._finished_at_s = now_s + self.FINISH_S
        return ()

    def next_deadline_s(self) -> float | None:
        """When it has finished."""
        return self._finished_at_s

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        """Finish."""
        self._finished_at_s = None
        return super().finish(now_s=now_s)


def _build_chunk(number: int, *, is_silent: bool = False) -> bytes:
    pcm = build_frames(1 + 5 * number, 5)
    if is_silent:
        pcm = bytes(len(pcm))
    chunk = AudioChunk(
        kind=ChunkKind.AUDIO,
        number=number,
        first_sample=number * len(pcm) // 2,
        captured_at_ns=0,
        payload=pcm,
    )
    return encode_chunk(chunk)


def _build_stream(bus: FakeBus, provider: Provider) -> StreamRun:
    owned = OwnedStream(opened=OPENED, epoch=1, token=1, checkpoint=Checkpoint())
    connections, providers = _Unreachable(), {"echo": provider}
    return StreamRun(
        owned,
        StreamContext(
            worker_id="w1",
            audio_bus=bus,
            control_bus=bus,
            publisher=AckedPublisher(bus),
            connections=connections,
            governor=build_governor(bus, connections, providers),
            providers=providers,
            lag_max_s=math.inf,
            may_show=lambda: True,
            now_ns=time.time_ns,
            measures=Measures(Telemetry("transcriber"), capacity=1),
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
