"""One stream at a simulated provider that goes away and comes back; in virtual time.

Everything of the worker is real, also its governor; nothing but the bus and the sockets is missing.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec

from speechbus_contracts import (
    AnyEvent,
    AudioChunk,
    ChunkKind,
    SegmentFinal,
    SegmentPartial,
    StreamOpened,
    decode_event,
    encode_chunk,
)
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.telemetry import Telemetry
from speechbus_simulator.actions import SimulatedStream
from speechbus_simulator.kotoba import KotobaStream
from speechbus_simulator.palabra import PalabraStream
from speechbus_simulator.script import parse_script
from speechbus_transcriber.checkpoint import Checkpoint
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.driver import Connection, ConnectionEvents
from speechbus_transcriber.governor.governor import Governor
from speechbus_transcriber.measures import Measures
from speechbus_transcriber.providers.interface import (
    EngineConnect,
    HttpExchange,
    HttpResponse,
    WebSocketConnect,
)
from speechbus_transcriber.providers.kotoba import KotobaAccount
from speechbus_transcriber.providers.palabra import PalabraAccount
from speechbus_transcriber.providers.registry import Accounts, build_providers
from speechbus_transcriber.stream import StreamRun
from speechbus_transcriber.stream_context import StreamContext
from speechbus_wire import palabra
from tests.support.conversation import build_conversation
from tests.support.fake_bus import FakeBus
from tests.support.frame_numbers import FRAME_MS

__all__ = ["FRAMES_PER_S", "CloudName", "Outage", "play_outage"]

RATE_HZ: Final = 16_000
FRAMES_PER_CHUNK: Final = 5
FRAMES_PER_S: Final = 1000 // FRAME_MS
CHUNK_S: Final = FRAMES_PER_CHUNK * FRAME_MS / 1000
HANDSHAKE_S: Final = 0.05
PLAIN: Final = "segment_ms = 3000"
ACK_S: Final = 0.002
ON_TIME_S: Final = 1.0
"""Something this much later than the quickest of its stream is late."""
AUDIO: Final = b"speech.v1.audio.0.acme.s1"
URL: Final = "ws://provider.example/stream"
ACCOUNTS: Final = Accounts(
    palabra=(PalabraAccount(stt_url=URL, api_url="http://provider.example", api_key="any"),),
    kotoba=(KotobaAccount(url=URL, api_key="any"),),
)


CloudName = Literal["palabra", "kotoba"]


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the stream."""

    log: Sequence[AnyEvent]
    """As it was stored."""
    asked_at_s: Sequence[float]
    """When the provider was asked for a session, after it had gone away; probes included."""
    caught_up_s: float
    """From the outage's beginning until what was said was told on time again, and ever since."""

    @property
    def finals(self) -> list[SegmentFinal]:
        """Finals in order."""
        return [event for event in self.log if isinstance(event, SegmentFinal)]


class _Provider:
    """Its servers: nobody is there while it is away."""

    def __init__(
        self, name: CloudName, *, from_s: float, to_s: float, script: str, handshake_s: float
    ) -> None:
        self.asked_at_s: list[float] = []
        self._name = name
        self._script = parse_script(script.encode(), provider=name)
        self._handshake_s = handshake_s
        self._from_s, self._to_s = from_s, to_s
        self._links: list[_Link] = []
        self._loop = asyncio.get_running_loop()
        self._loop.call_at(from_s, self._go)

    def _go(self) -> None:
        for link in self._links:
            link.cut()

    async def connect(
        self, request: EngineConnect | WebSocketConnect, events: ConnectionEvents
    ) -> Connection:
        now_s = self._loop.time()
        if now_s >= self._from_s:
            self.asked_at_s.append(now_s)
        await asyncio.sleep(self._handshake_s)
        if self._from_s <= self._loop.time() < self._to_s:
            raise ConnectionRefusedError
        assert isinstance(request, WebSocketConnect)
        link = _Link(self._open(request.url), events)
        self._links.append(link)
        return link

    def _open(self, url: str) -> SimulatedStream:
        now_s = self._loop.time()
        session = len(self._links) + 1
        if self._name == "kotoba":
            return KotobaStream(self._script, session=session, now_s=now_s)
        query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
        parameters = palabra.parse_stream_parameters(query)
        return PalabraStream(self._script, session=session, parameters=parameters, now_s=now_s)

    async def exchange(self, request: HttpExchange) -> HttpResponse:
        raise AssertionError(request)

    def part(self, requests: Sequence[HttpExchange]) -> None:
        raise AssertionError(requests)


class _Link:
    """One connection to it."""

    def __init__(self, stream: SimulatedStream, events: ConnectionEvents) -> None:
        self._stream = stream
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = True
        self._plan()

    def send(self, messages: Sequence[str | bytes]) -> None:
        if self._is_open:
            for message in messages:
                self._stream.receive(message, now_s=self._loop.time())
            self._plan()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.call_soon(self._events.receive_end)

    def cut(self) -> None:
        if self._is_open:
            self._is_open = False
            self._events.receive_close(None)
            self._events.receive_end()

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due_s = self._stream.next_due_s()
        self._timer = None if due_s is None else self._loop.call_at(due_s, self._act)

    def _act(self) -> None:
        for action in self._stream.take_due(now_s=self._loop.time()):
            if not self._is_open:
                return
            if isinstance(action, str):
                self._events.receive_message(action)
            else:
                self.cut()
        self._plan()


class _Bus(FakeBus):
    """Stores what is written and shows what is said; AUDIO has all audio so far."""

    def __init__(self) -> None:
        super().__init__()
        self.audio: list[bytes] = []
        self.log: list[AnyEvent] = []
        self.shown: list[tuple[float, int]] = []
        """When something was told, and the end of what it tells, in ms."""
        self._n_stored = 0

    def publish_nowait(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> bool:
        loop = asyncio.get_running_loop()
        name = subject.decode()
        if name.startswith("$JS.API.DIRECT.GET.AUDIO_"):
            start = msgspec.json.decode(payload).get("seq", 1)
            loop.call_later(ACK_S, self._answer, reply, start)
        elif name.startswith("speech.v1.write."):
            event = decode_event(payload)
            self.log.append(event)
            self._show(event)
            loop.call_later(ACK_S, self._acknowledge, reply)
        elif name.startswith("speech.v1.live."):
            self._show(decode_event(payload))
        elif reply:
            loop.call_later(ACK_S, self._acknowledge, reply)
        return True

    def _show(self, event: AnyEvent) -> None:
        if isinstance(event, SegmentPartial | SegmentFinal):
            self.shown.append((asyncio.get_running_loop().time(), event.end_ms))

    def _answer(self, reply: bytes, start: int) -> None:
        # As many as fit: the rest is asked for again.
        for sequence, payload in list(enumerate(self.audio, 1))[start - 1 : start + 31]:
            head = b"NATS/1.0\r\nNats-Subject: x\r\nNats-Sequence: %d\r\n\r\n" % sequence
            self.deliver(reply, payload, headers=head)
        self.deliver(reply, b"", headers=b"NATS/1.0 204 EOB\r\n\r\n")

    def _acknowledge(self, reply: bytes) -> None:
        self._n_stored += 1
        self.deliver(reply, b'{"stream":"any","seq":%d}' % self._n_stored)


def play_outage(
    provider: CloudName,
    *,
    n_frames: int,
    from_s: float,
    seconds: float,
    script: str = PLAIN,
    handshake_s: float = HANDSHAKE_S,
) -> Coroutine[Any, Any, Outage]:
    """Return the coroutine that plays a conversation in real time, and returns what came of it.

    Args:
        provider: the only one of the stream.
        n_frames: of the conversation.
        from_s: when the provider goes away.
        seconds: how long it is away.
        script: what its simulator does while it is there.
        handshake_s: of a session.
    """

    async def play() -> Outage:
        there = _Provider(
            provider,
            from_s=from_s,
            to_s=from_s + seconds,
            script=script,
            handshake_s=handshake_s,
        )
        bus = _Bus()
        providers = build_providers([provider], ACCOUNTS)
        loop = asyncio.get_running_loop()
        publisher = AckedPublisher(bus)
        governor = Governor(
            bus,
            publisher,
            there,
            providers,
            worker_id="w1",
            without_slot="next",
            now_ms=lambda: round(loop.time() * 1000),
        )
        context = StreamContext(
            worker_id="w1",
            measures=Measures(Telemetry("transcriber"), capacity=1),
            audio_bus=bus,
            control_bus=bus,
            publisher=publisher,
            connections=there,
            governor=governor,
            providers=providers,
            lag_max_s=float("inf"),
            may_show=lambda: True,
            now_ns=lambda: round(loop.time() * 1e9),
        )
        opened = StreamOpened(
            stream_id="s1",
            tenant="acme",
            opened_at=0,
            sample_rate_hz=RATE_HZ,
            shard=0,
            language="ja",
            providers=(provider,),
            skips_silence=True,
        )
        owned = OwnedStream(opened=opened, epoch=1, token=1, checkpoint=Checkpoint(), changes=())
        async with asyncio.TaskGroup() as tasks:
            governing = tasks.create_task(governor.run())
            running = tasks.create_task(StreamRun(owned, context).run())
            await _speak(bus, n_frames)
            assert await running == "closed"
            governing.cancel()
        return Outage(
            log=bus.log,
            asked_at_s=[at_s - from_s for at_s in there.asked_at_s],
            caught_up_s=_caught_up_s(bus.shown, from_s=from_s),
        )

    return play()


async def _speak(bus: _Bus, n_frames: int) -> None:
    loop = asyncio.get_running_loop()
    firsts = range(1, n_frames + 1, FRAMES_PER_CHUNK)
    for number, first in enumerate(firsts):
        await asyncio.sleep(max(0.0, (number + 1) * CHUNK_S - loop.time()))
        pcm = build_conversation(first, min(FRAMES_PER_CHUNK, n_frames + 1 - first))
        _publish(bus, ChunkKind.AUDIO, number, first - 1, pcm)
    _publish(bus, ChunkKind.END, len(firsts), n_frames, b'{"reason":"end"}')


def _publish(bus: _Bus, kind: ChunkKind, number: int, n_before: int, payload: bytes) -> None:
    chunk = AudioChunk(
        kind=kind,
        number=number,
        first_sample=n_before * FRAME_MS * RATE_HZ // 1000,
        captured_at_ns=round(asyncio.get_running_loop().time() * 1e9),
        payload=payload,
    )
    bus.audio.append(encode_chunk(chunk))
    bus.deliver(AUDIO, bus.audio[-1])


def _caught_up_s(shown: Sequence[tuple[float, int]], *, from_s: float) -> float:
    delays_s = [(at_s, at_s - end_ms / 1000) for at_s, end_ms in shown]
    quickest_s = min(delay_s for _, delay_s in delays_s)
    late = [n for n, (_, delay_s) in enumerate(delays_s) if delay_s > quickest_s + ON_TIME_S]
    if not late:
        return 0.0
    return delays_s[min(late[-1] + 1, len(delays_s) - 1)][0] - from_s
