"""One stream on workers without a server: audio and changes in, the stored events out.

Workers are killed and followed by others that know the log alone; providers open slowly, break,
answer late or never, as planned. In virtual time.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, Literal

import msgspec

from speechbus_contracts import (
    AnyEvent,
    AudioChunk,
    ChunkKind,
    Gap,
    SegmentFinal,
    StreamCovered,
    StreamOpened,
    StreamReconfigured,
    decode_event,
    encode_chunk,
    encode_event,
)
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.telemetry import Telemetry
from speechbus_transcriber.checkpoint import build_checkpoint
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.driver import Connection, ConnectionEvents, Connections
from speechbus_transcriber.measures import Measures
from speechbus_transcriber.providers.echo import EchoProtocol
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ConnectRequest,
    EngineConnect,
    HttpExchange,
    HttpResponse,
    ProviderError,
    ProviderRateLimitedError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
    WebSocketConnect,
)
from speechbus_transcriber.stream import Outcome, StreamRun
from speechbus_transcriber.stream_context import StreamContext
from tests.support.fake_bus import FakeBus
from tests.support.frame_numbers import FRAME_MS, build_frames
from tests.support.lone_governor import build_governor, build_provider

__all__ = [
    "FRAMES_PER_CHUNK",
    "NOWHERE",
    "Played",
    "SessionPlan",
    "lose_stream",
    "play_stream",
]

RATE_HZ: Final = 8_000
FRAMES_PER_CHUNK: Final = 5
CHUNK_S: Final = FRAMES_PER_CHUNK * FRAME_MS / 1000
CHUNK_SAMPLES: Final = round(CHUNK_S * RATE_HZ)
LANGUAGES: Final[Mapping[str, tuple[str, ...] | None]] = {"a": None, "b": ("en", "ja")}
ACK_S: Final = 0.002
WRITE: Final = "speech.v1.write.acme.s1."


class SessionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How one session of a provider goes; the default works."""

    opens_after_s: float = 0.05
    refusal: Literal["unavailable", "rate_limited"] | None = None
    breaks_after_s: float | None = None
    """After it was opened."""
    last_words: Literal["said", "broken", "never"] = "said"
    """What `finish` brings."""
    latency_s: float = 0.2
    """Between audio and what is said about it."""


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it."""

    log: Sequence[AnyEvent]
    """As it was stored."""
    n_sessions: int
    """That were begun."""
    n_broken: int
    """Of them, those that were opened and broke."""

    @property
    def finals(self) -> list[SegmentFinal]:
        """Finals in order."""
        return [event for event in self.log if isinstance(event, SegmentFinal)]


class _Protocol(EchoProtocol):
    """Echo that answers later, and breaks as planned."""

    def __init__(
        self, name: str, request: SessionRequest, plan: SessionPlan, stage: "_Stage"
    ) -> None:
        super().__init__(request)
        self.name = name
        self.plan = plan
        self._stage = stage
        self._due: list[tuple[float, Result]] = []
        self._breaks_at_s: float | None = None

    def connect_request(self) -> ConnectRequest:
        self._stage.opening = self
        return EngineConnect(engine="stage")

    def messages_to_open(self) -> Sequence[str | bytes]:
        if self.plan.breaks_after_s is not None:
            self._breaks_at_s = asyncio.get_running_loop().time() + self.plan.breaks_after_s
        return ()

    def audio_to_send(self, pcm: memoryview, *, now_s: float) -> Sequence[str | bytes]:
        super().audio_to_send(pcm, now_s=now_s)
        self._delay(now_s)
        return ()

    def flush(self, *, now_s: float) -> Sequence[str | bytes]:
        super().flush(now_s=now_s)
        self._delay(now_s)
        return ()

    def finish(self, *, now_s: float) -> Sequence[str | bytes]:
        match self.plan.last_words:
            case "broken":
                self._stage.n_broken += 1
                raise self._error("at_finish")
            case "never":
                self._stage.n_broken += 1
            case "said":
                super().finish(now_s=now_s)
                self._delay(now_s)
        return ()

    def next_deadline_s(self) -> float | None:
        times_s = [self._breaks_at_s, *(at_s for at_s, _ in self._due[:1])]
        return min((at_s for at_s in times_s if at_s is not None), default=None)

    def handle_deadline(self, *, now_s: float) -> Sequence[str | bytes]:
        if self._breaks_at_s is not None and now_s >= self._breaks_at_s:
            self._stage.n_broken += 1
            raise self._error("planned")
        while self._due and self._due[0][0] <= now_s:
            self._results.append(self._due.pop(0)[1])
        return ()

    def _delay(self, now_s: float) -> None:
        self._due += [(now_s + self.plan.latency_s, result) for result in self._results]
        self._results = []

    def _error(self, code: str) -> ProviderError:
        return ProviderUnavailableError(code, provider=self.name)


class _Stage:
    """The stores, and the way to the providers."""

    def __init__(self, plans: Sequence[SessionPlan]) -> None:
        self.audio: list[AudioChunk] = []
        self.log: list[AnyEvent] = []
        self.changes: list[StreamReconfigured] = []
        self.n_sessions = 0
        self.n_broken = 0
        self.opening: _Protocol | None = None
        self._plans = iter(plans)

    def open_protocol(self, name: str, request: SessionRequest) -> _Protocol:
        self.n_sessions += 1
        return _Protocol(name, request, next(self._plans, SessionPlan()), self)

    # --- Connections ---------------------------------------------------------------------------

    async def connect(
        self, request: EngineConnect | WebSocketConnect, events: ConnectionEvents
    ) -> Connection:
        del request, events
        protocol = self.opening
        assert protocol is not None
        await asyncio.sleep(protocol.plan.opens_after_s)
        match protocol.plan.refusal:
            case "unavailable":
                raise ProviderUnavailableError("refused", provider=protocol.name)
            case "rate_limited":
                raise ProviderRateLimitedError("refused", provider=protocol.name)
            case None:
                return _Nowhere()

    async def exchange(self, request: HttpExchange) -> HttpResponse:
        raise AssertionError(request)

    def part(self, requests: Sequence[HttpExchange]) -> None:
        raise AssertionError(requests)


NOWHERE: Final[Connections] = _Stage(())
"""For sessions that connect to nothing."""


class _Nowhere:
    def send(self, messages: Sequence[str | bytes]) -> None: ...

    def close(self) -> None: ...


class _Bus(FakeBus):
    """Stores what is written, and answers for AUDIO and TRANSCRIPT."""

    def __init__(self, stage: _Stage) -> None:
        super().__init__()
        self._stage = stage

    def publish_nowait(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> bool:
        loop = asyncio.get_running_loop()
        name = subject.decode()
        if name.startswith("$JS.API.DIRECT.GET."):
            asked = msgspec.json.decode(payload)
            found = self._find(name, asked["next_by_subj"])
            loop.call_later(ACK_S, self._answer, reply, found, asked.get("seq", 1))
        elif name.startswith(WRITE):
            loop.call_later(ACK_S, self._store, reply, payload)
        return True

    def _find(self, call: str, subject: str) -> list[bytes]:
        stage = self._stage
        if ".AUDIO_" in call:
            return [encode_chunk(chunk) for chunk in stage.audio]
        assert subject == f"{WRITE}reconfigured"
        return [encode_event(change) for change in stage.changes]

    def _answer(self, reply: bytes, found: list[bytes], start: int) -> None:
        for sequence, payload in list(enumerate(found, 1))[start - 1 :]:
            head = b"NATS/1.0\r\nNats-Subject: x\r\nNats-Sequence: %d\r\n\r\n" % sequence
            self.deliver(reply, payload, headers=head)
        self.deliver(reply, b"", headers=b"NATS/1.0 204 EOB\r\n\r\n")

    def _store(self, reply: bytes, payload: bytes) -> None:
        if self.is_away:
            return
        self._stage.log.append(decode_event(payload))
        self.deliver(reply, b'{"stream":"TRANSCRIPT","seq":%d}' % len(self._stage.log))


OPENED: Final = StreamOpened(
    stream_id="s1",
    tenant="acme",
    opened_at=0,
    sample_rate_hz=RATE_HZ,
    shard=0,
    language="en",
    providers=("b", "a"),
    skips_silence=False,
)


def lose_stream(
    plans: Sequence[SessionPlan], *, after_s: float
) -> Coroutine[Any, Any, tuple[Outcome, float]]:
    """Return the coroutine that has another worker take a stream.

    It returns what became of it here, and for how long it stayed after that.

    Args:
        plans: of the sessions in the order of their openings.
        after_s: from the claim to that of the other.
    """

    async def play() -> tuple[Outcome, float]:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            worker = _Worker(OPENED, _Stage(plans), None, tasks)
            await asyncio.sleep(after_s)
            return await worker.supersede(), loop.time() - after_s

    return play()


def play_stream(
    *,
    n_chunks: int,
    changes: Sequence[tuple[int, str]] = (),
    flushes: Sequence[int] = (),
    plans: Sequence[SessionPlan] = (),
    kills_s: Sequence[float] = (),
    session_limit_s: float | None = None,
) -> Coroutine[Any, Any, Played]:
    """Return the coroutine that plays a stream at two providers and returns `Played`.

    Provider `a` takes every language, `b` takes `en` and `ja`, and is first in the route.

    Args:
        n_chunks: of 100 ms of numbered frames, in real time; then the end.
        changes: chunks before which the language changes, and to which.
        flushes: chunks before which a flush comes.
        plans: of the sessions in the order of their openings; then all work.
        kills_s: when the worker is killed, and another one takes over.
        session_limit_s: of both providers.
    """

    async def play() -> Played:
        stage = _Stage(plans)
        loop = asyncio.get_running_loop()
        kills = sorted(kills_s)
        async with asyncio.TaskGroup() as tasks:
            worker = _Worker(OPENED, stage, session_limit_s, tasks)
            for number, chunk in enumerate(_chunks(stage, n_chunks, changes, flushes)):
                stage.audio.append(chunk)
                worker.deliver(chunk)
                if chunk.kind is not ChunkKind.AUDIO:
                    continue
                next_at_s = number * CHUNK_S
                while kills and kills[0] <= next_at_s:
                    await asyncio.sleep(max(0.0, kills.pop(0) - loop.time()))
                    await worker.kill_and_follow()
                await asyncio.sleep(max(0.0, next_at_s - loop.time()))
            for at_s in kills:
                await asyncio.sleep(max(0.0, at_s - loop.time()))
                await worker.kill_and_follow()
            await worker.wait()
        return Played(log=stage.log, n_sessions=stage.n_sessions, n_broken=stage.n_broken)

    return play()


def _chunks(
    stage: _Stage, n_chunks: int, changes: Sequence[tuple[int, str]], flushes: Sequence[int]
) -> Iterator[AudioChunk]:
    number = 0

    def build(kind: ChunkKind, chunk: int, payload: bytes = b"") -> AudioChunk:
        nonlocal number
        number += 1
        return AudioChunk(
            kind=kind,
            number=number - 1,
            first_sample=chunk * CHUNK_SAMPLES,
            captured_at_ns=0,
            payload=payload,
        )

    for chunk in range(n_chunks):
        for at, language in changes:
            if at == chunk:
                stage.changes.append(
                    StreamReconfigured(
                        stream_id="s1",
                        tenant="acme",
                        at_sample=chunk * CHUNK_SAMPLES,
                        at_ms=round(chunk * CHUNK_S * 1000),
                        language=language,
                    )
                )
                yield build(
                    ChunkKind.RECONFIGURE, chunk, msgspec.json.encode({"language": language})
                )
        for at in flushes:
            if at == chunk:
                yield build(ChunkKind.FLUSH, chunk)
        first = chunk * FRAMES_PER_CHUNK + 1
        yield build(ChunkKind.AUDIO, chunk, _build_pcm(first))
    yield build(ChunkKind.END, n_chunks, b'{"reason":"end"}')


@cache
def _build_pcm(first: int) -> bytes:
    return build_frames(first, FRAMES_PER_CHUNK, sample_rate_hz=RATE_HZ)


class _Worker:
    """Whoever carries the stream."""

    def __init__(
        self,
        opened: StreamOpened,
        stage: _Stage,
        session_limit_s: float | None,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._tasks = tasks
        self._opened = opened
        self._stage = stage
        self._limit_s = session_limit_s
        self._epoch = 0
        self._start()

    def _start(self) -> None:
        self._epoch += 1
        stage = self._stage
        bus = self._bus = _Bus(stage)
        loop = asyncio.get_running_loop()
        providers = {
            name: build_provider(
                Capabilities(
                    languages=languages,
                    has_word_times=False,
                    translates=False,
                    session_limit_s=self._limit_s,
                ),
                partial(stage.open_protocol, name),
                name=name,
            )
            for name, languages in LANGUAGES.items()
        }
        context = StreamContext(
            worker_id=f"w{self._epoch}",
            measures=Measures(Telemetry("transcriber"), capacity=1),
            audio_bus=bus,
            control_bus=bus,
            publisher=AckedPublisher(bus),
            connections=stage,
            governor=build_governor(bus, stage, providers),
            providers=providers,
            lag_max_s=float("inf"),
            may_show=lambda: True,
            now_ns=lambda: round(loop.time() * 1e9),
        )
        checkpoint = build_checkpoint({type(event): event for event in stage.log}.values())
        owned = OwnedStream(
            opened=self._opened,
            epoch=self._epoch,
            token=self._epoch,
            checkpoint=checkpoint,
            changes=tuple(stage.changes),
        )
        self._run = StreamRun(owned, context)
        self._task = self._tasks.create_task(self._run.run())

    def deliver(self, chunk: AudioChunk) -> None:
        self._bus.deliver(b"speech.v1.audio.0.acme.s1", encode_chunk(chunk))

    async def wait(self) -> None:
        assert await self._task == "closed"

    async def supersede(self) -> Outcome:
        self._run.supersede()
        return await self._task

    async def kill(self) -> None:
        """Nothing that was not stored by now will be."""
        self._bus.is_away = True
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def kill_and_follow(self) -> None:
        """Let the next worker find no audio that is not needed any more, nor markers in it."""
        if self._task.done():
            return
        await self.kill()
        covered_ms = max(
            (
                event.to_ms if isinstance(event, Gap) else event.covered_ms
                for event in self._stage.log
                if isinstance(event, SegmentFinal | StreamCovered | Gap)
            ),
            default=0,
        )
        covered = covered_ms * RATE_HZ // 1000
        self._stage.audio = [
            chunk for chunk in self._stage.audio if chunk.first_sample + chunk.n_samples >= covered
        ]
        self._start()
