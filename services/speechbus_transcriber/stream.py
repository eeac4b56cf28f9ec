"""One stream on one worker: from its claim until it is closed, handed over or lost.

Audio flows through plain calls (received message, tail, driver, provider, segmenter, partial);
the stream's one task does what must wait: guarded writes, one in flight, catching up, and new
sessions.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from speechbus_contracts import (
    AudioChunk,
    AudioSubject,
    ChunkKind,
    ContractError,
    JobOpen,
    SegmentFinal,
    SegmentPartial,
    StreamClosed,
    StreamFlushed,
    TranslationFinal,
    build_dedup_headers,
    decode_chunk,
    encode_event,
    job_dedup_id,
)
from speechbus_contracts import TurnEnded as TurnEndedEvent
from speechbus_contracts import TurnStarted as TurnStartedEvent
from speechbus_contracts.subjects import JOB_OPEN
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.publisher import AckedPublisher, PublishRefusedError, StaleGuardError
from speechbus_transcriber.audio_tail import AudioTail, Lost
from speechbus_transcriber.capture_times import CaptureTimes
from speechbus_transcriber.catch_up import CatchUp
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.driver import Connections, SessionDriver
from speechbus_transcriber.event_log import EventLog, LoggedEvent
from speechbus_transcriber.live_output import LiveOutput
from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Flushed,
    Heard,
    ProviderError,
    ProviderProtocolError,
    Result,
    SessionRequest,
    Translated,
    TurnEnded,
    TurnStarted,
)
from speechbus_transcriber.providers.registry import Provider, default_route, plan_route
from speechbus_transcriber.route import Route
from speechbus_transcriber.segmenter import SegmentContext, SegmentEvent, begin
from speechbus_transcriber.session_finals import SessionFinals

__all__ = ["Outcome", "StreamContext", "StreamRun"]

logger = logging.getLogger(__name__)

Outcome = Literal["closed", "superseded"]

OUTBOX_MAX: Final = 64
"""Events waiting to be stored, beyond which no audio is read: 3 minutes of finals, so only a NATS
that is away fills it; the audio waits in AUDIO meanwhile."""
FLUSHES_MAX: Final = 64
"""Flushes of one session waiting for their answer; a client asks a few times a minute."""
SOURCE_SILENT_S: Final = 2.5
"""Silence in which something may have been missed: the last chunks of a stream have no successor
whose number would tell. Longer than the keep-alive of a source that pauses."""
SOURCE_LOST_S: Final = 10.0
"""An ingest says something at least every 2 s for each stream it holds."""


class StreamContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all streams of a worker share."""

    worker_id: str
    audio_bus: BusConnection
    """Bulk: audio in, nothing else."""
    control_bus: BusConnection
    """Everything small, so that audio never delays it."""
    publisher: AckedPublisher
    connections: Connections
    providers: Mapping[str, Provider]
    """Providers this worker has, in its own order."""
    may_show: Callable[[], bool]
    """False while this worker cannot be sure that it still owns its streams."""
    now_ns: Callable[[], int]
    """Wall clock, ns since 1970."""


class _ProvidersExhaustedError(Exception):
    """Every provider of the route has refused the stream."""


class StreamRun:
    """One claimed stream."""

    def __init__(self, owned: OwnedStream, context: StreamContext) -> None:
        opened = owned.opened
        self.stream_id = opened.stream_id
        self.epoch = owned.epoch
        self._opened = opened
        self._context = context
        self._rate_hz = opened.sample_rate_hz
        self._segmenter = begin(owned.checkpoint, is_shown=owned.epoch > 1)
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._audio_subject = str(AudioSubject(opened.shard, opened.tenant, opened.stream_id))
        self._route = Route(
            plan_route(
                opened.providers or default_route(tuple(context.providers)),
                available=context.providers,
                language=opened.language,
            )
        )
        self._log = EventLog(owned, context.publisher)
        self._live = LiveOutput(context.control_bus, opened, may_show=context.may_show)
        self._catch_up = CatchUp(context.audio_bus, opened, self._wake.set)
        self._tail = AudioTail(start_sample=self._covered_sample())
        self._times = CaptureTimes(
            started_at_ms=owned.checkpoint.audio_received_at or opened.opened_at
        )
        self._driver: SessionDriver | None = None
        self._session: SegmentContext | None = None
        self._finals = SessionFinals()
        self._outbox: deque[LoggedEvent] = deque()
        # Chunk number and stream position of each flush the provider has not answered yet. One
        # beyond the limit pushes out the oldest, whose asker waits in vain, for a limited time.
        self._flushes: deque[tuple[int, int]] = deque(maxlen=FLUSHES_MAX)
        self._is_reading = False
        self._lost: Lost | None = None
        self._end_reason: str | None = None
        self._is_finished = False
        self._failure: ProviderError | None = None
        self._is_superseded = False
        self._heard_source_s = self._loop.time()

    @property
    def position(self) -> int:
        """Samples of the stream given to a provider."""
        return self._tail.position

    # --- called by the worker ------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Carry the stream to its end."""
        sid = self._context.audio_bus.subscribe_direct(self._audio_subject, self._receive)
        try:
            while not await self._run_session():
                pass
        except (StaleGuardError, _SupersededError):
            return "superseded"
        except _ProvidersExhaustedError:
            await self._close_without_provider()
            return "closed"
        else:
            return "closed"
        finally:
            self._context.audio_bus.unsubscribe_direct(sid)
            self._end_session()
            self._live.close()
            self._catch_up.close()

    def supersede(self) -> None:
        """Somebody else has claimed the stream: stop at once."""
        self._is_superseded = True
        self._is_reading = False
        self._live.close()
        self._wake.set()

    async def hand_over(self, reason: str) -> None:
        """Ask the pool for another owner; this one goes on until the other has claimed."""
        job = JobOpen(
            stream_id=self.stream_id,
            tenant=self._opened.tenant,
            epoch=self.epoch + 1,
            reason=reason,
        )
        headers = build_dedup_headers(job_dedup_id(self.stream_id, job.epoch))
        await self._context.publisher.publish(
            JOB_OPEN, encode_event(job), headers=encode_headers(headers)
        )

    def check_source(self, now_s: float) -> None:
        """Look for audio that came by unseen; end the stream when its ingest is gone."""
        silent_s = now_s - self._heard_source_s
        if not self._is_reading or self._catch_up.is_due or self._tail.is_missing:
            return  # what is known to be stored is read to its end first
        if silent_s > SOURCE_LOST_S:
            self._end(reason="source_lost")
        elif silent_s > SOURCE_SILENT_S and self._catch_up.fetched_at_s < self._heard_source_s:
            self._catch_up.request()

    def excuse_source(self) -> None:
        """The bus was away: silence so far says nothing about the ingest."""
        self._heard_source_s = self._loop.time()
        self._catch_up.restart()

    # --- audio: plain calls, no waiting --------------------------------------------------------

    def _receive(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        self._heard_source_s = self._loop.time()
        try:
            chunk = decode_chunk(payload)
        except ContractError:
            logger.warning("a chunk broke the contract", extra={"stream_id": self.stream_id})
            return
        self._tail.add(chunk)
        if self._is_reading:
            self._read()

    def _read(self) -> bool:
        """Give the provider all audio that is in order; False: it takes no more now."""
        tail = self._tail
        driver = self._driver
        assert driver is not None
        while self._is_reading:
            item = tail.take()
            if item is None:
                break
            if isinstance(item, Lost):
                self._lost = item
                self._is_reading = False
                driver.finish()
            elif item.kind is ChunkKind.AUDIO:
                self._times.note(tail.position, item.captured_at_ns)
                driver.send_audio(memoryview(item.payload))
                if driver.is_congested or len(self._outbox) >= OUTBOX_MAX:
                    self._is_reading = False
            else:
                self._obey(item, driver)
        if tail.is_missing and self._is_reading:
            self._catch_up.request()
        return self._is_reading

    def _obey(self, chunk: AudioChunk, driver: SessionDriver) -> None:
        match chunk.kind:
            case ChunkKind.END:
                self._end(reason=_end_reason(chunk))
            case ChunkKind.FLUSH:
                self._flushes.append((chunk.number, self._tail.position))
                driver.flush()
            case _:
                pass  # silence: the ingest is alive, which `_receive` has noted

    def _end(self, *, reason: str) -> None:
        self._end_reason = reason
        self._is_reading = False
        if self._driver is not None:
            self._driver.finish()

    def _resume_reading(self) -> None:
        driver = self._driver
        if (
            driver is not None
            and not driver.is_congested
            and len(self._outbox) < OUTBOX_MAX
            and self._lost is None
            and self._end_reason is None
            and self._failure is None
            and not self._is_superseded
        ):
            self._is_reading = True
            self._read()

    # --- results: plain calls, no waiting ------------------------------------------------------

    def _take_results(self, results: list[Result]) -> None:
        session = self._session
        assert session is not None
        self._route.hear(now_s=self._heard_source_s)
        for result in results:
            match result:
                case Heard():
                    self._hear(result, session)
                case Translated():
                    self._take_translation(result)
                case Covered():
                    covered_ms = result.covered_ms + session.session_start_ms
                    events, self._segmenter = self._segmenter.cover(
                        covered_ms, session, audio_received_at=self._received_at(covered_ms)
                    )
                    self._put_out(events)
                case TurnStarted() | TurnEnded():
                    kind = TurnStartedEvent if isinstance(result, TurnStarted) else TurnEndedEvent
                    turn = kind(
                        stream_id=self.stream_id,
                        tenant=session.tenant,
                        epoch=self.epoch,
                        at_ms=result.at_ms + session.session_start_ms,
                    )
                    self._live.show_turn(turn)
                case Flushed():
                    self._answer_flushes(n_max=1)
                case Finished():
                    self._answer_flushes(n_max=FLUSHES_MAX)
                    self._is_finished = True
                    self._wake.set()

    def _hear(self, heard: Heard, session: SegmentContext) -> None:
        now_ms = self._context.now_ns() // 1_000_000
        if self._finals.knows(heard):
            last_index = self._segmenter.next_index - 1
            corrected = self._finals.correct(heard, last_index=last_index, now_ms=now_ms)
            if heard.is_final and corrected is not None:
                self._put_out([corrected])
            return
        if heard.is_final:
            covered = heard.end_ms if heard.covered_ms is None else heard.covered_ms
            received_at = self._received_at(covered + session.session_start_ms)
        else:
            received_at = self._times.latest_ms
        events, self._segmenter = self._segmenter.hear(
            heard, session, audio_received_at=received_at, now_ms=now_ms
        )
        self._put_out(events)

    def _take_translation(self, translated: Translated) -> None:
        translation = self._finals.translate(translated)
        if translation is None:
            # Never a wrong pair: better none (providers.md, case 4).
            logger.warning(
                "a translation without its final was dropped", extra={"stream_id": self.stream_id}
            )
            return
        self._outbox.append(translation)
        self._wake.set()

    def _put_out(self, events: list[SegmentEvent]) -> None:
        for event in events:
            if isinstance(event, SegmentPartial):
                self._live.show_partial(event)
            else:
                self._live.drop_partial()
                if isinstance(event, SegmentFinal):
                    self._finals.add(event)
                self._outbox.append(event)
                self._wake.set()

    def _answer_flushes(self, *, n_max: int) -> None:
        """Say, behind the finals put out so far, that the oldest flushes have been answered."""
        # Some providers report `Flushed` for a finish as well: then there may be none.
        for _ in range(min(n_max, len(self._flushes))):
            number, position = self._flushes.popleft()
            self._outbox.append(
                StreamFlushed(
                    stream_id=self.stream_id,
                    tenant=self._opened.tenant,
                    epoch=self.epoch,
                    chunk=number,
                    at_ms=position * 1000 // self._rate_hz,
                )
            )
            self._wake.set()

    def _received_at(self, position_ms: int) -> int:
        return self._times.look_up(position_ms * self._rate_hz // 1000)

    # --- the stream's task ---------------------------------------------------------------------

    async def _run_session(self) -> bool:
        """Run one provider session; return True when the stream is closed."""
        try:
            await self._open_session()
        except ProviderError as error:
            await self._recover(error)
            return False
        self._resume_reading()
        while True:
            if self._is_superseded:
                raise _SupersededError
            if self._outbox:
                await self._write(self._outbox[0])
                self._outbox.popleft()
                if not self._is_reading:
                    self._resume_reading()
            elif self._failure is not None:
                await self._recover(self._failure)
                return False
            elif self._is_finished:
                return await self._after_finished()
            elif self._catch_up.is_due and self._is_reading:
                await self._catch_up.fetch(self._tail, self._read, from_ms=self._times.latest_ms)
            else:
                self._wake.clear()
                # Nothing may have come between the checks above and this line: one thread.
                await self._wake.wait()

    async def _open_session(self) -> None:
        name = self._route.current
        if name is None:
            raise _ProvidersExhaustedError
        opened = self._opened
        provider = self._context.providers[name]
        rates_hz = provider.capabilities.sample_rates_hz
        # Resampled only where it must be: every sample that a provider gets is then the client's.
        takes_rate = rates_hz is None or self._rate_hz in rates_hz
        provider_rate_hz = self._rate_hz if takes_rate or rates_hz is None else rates_hz[0]
        protocol = provider.open_protocol(
            SessionRequest(
                sample_rate_hz=provider_rate_hz,
                language=opened.language,
                target_languages=opened.target_languages,
                has_filler_filter=opened.has_filler_filter,
                keywords=opened.keywords,
            )
        )
        self._session = SegmentContext(
            stream_id=self.stream_id,
            tenant=opened.tenant,
            epoch=self.epoch,
            provider=name,
            language=opened.language,
            target_languages=opened.target_languages,
            session_start_ms=self._tail.position * 1000 // self._rate_hz,
            channel=opened.channel,
        )
        self._is_finished = False
        self._failure = None
        self._finals = SessionFinals()
        self._driver = SessionDriver(
            protocol,
            self._context.connections,
            sample_rate_hz=self._rate_hz,
            provider_rate_hz=provider_rate_hz,
            pace=provider.capabilities.pace,
            on_results=self._take_results,
            on_failed=self._note_failure,
            on_room=self._resume_reading,
        )
        self._route.open()
        await self._driver.open()

    def _end_session(self) -> None:
        self._is_reading = False
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _note_failure(self, error: ProviderError) -> None:
        self._failure = error
        self._is_reading = False
        self._wake.set()

    async def _recover(self, error: ProviderError) -> None:
        """Decide who goes on after a failed session, and from where."""
        self._end_session()
        backoff_s = self._route.fail(error, now_s=self._loop.time())
        logger.log(
            logging.ERROR if isinstance(error, ProviderProtocolError) else logging.WARNING,
            "provider session failed",
            extra={
                "stream_id": self.stream_id,
                "epoch": self.epoch,
                "provider": error.provider,
                "code": error.code,
                "next_provider": self._route.current,
            },
        )
        await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 (not a secret)
        self._rewind()

    def _rewind(self) -> None:
        """Read again from what is covered."""
        while self._flushes and self._flushes[0][1] < self._covered_sample():
            self._answer_flushes(n_max=1)  # its finals came; its marker is not read again
        self._flushes.clear()
        self._tail = AudioTail(start_sample=self._covered_sample())
        self._times.rewind()
        self._catch_up.restart()
        self._lost = None
        self._end_reason = None  # an end marker will be read again

    def _covered_sample(self) -> int:
        # Rounded down: at most a sample is read twice, none is skipped.
        return self._segmenter.covered_ms * self._rate_hz // 1000

    async def _after_finished(self) -> bool:
        """The provider has answered everything: close, or go on behind a gap."""
        session = self._session
        assert session is not None
        self._end_session()
        if self._lost is not None:
            lost, self._lost = self._lost, None
            events, self._segmenter = self._segmenter.lose(
                lost.from_sample * 1000 // self._rate_hz,
                lost.to_sample * 1000 // self._rate_hz,
                session,
                reason="audio_lost",
                now_ms=self._context.now_ns() // 1_000_000,
            )
            await self._write_all(events)
            return False
        await self._close(session, self._end_reason or "end")
        return True

    async def _close(self, session: SegmentContext, reason: str) -> None:
        events, self._segmenter = self._segmenter.retract(session)
        await self._write_all(events)
        closed = StreamClosed(
            stream_id=self.stream_id,
            tenant=self._opened.tenant,
            epoch=self.epoch,
            reason=reason,
            audio_ms=self._tail.position * 1000 // self._rate_hz,
            finals=self._segmenter.finals,
            gap_ms=self._segmenter.gap_ms,
        )
        await self._log.write(closed)

    async def _close_without_provider(self) -> None:
        """Say that nobody transcribes what was accepted so far, and close."""
        session = SegmentContext(
            stream_id=self.stream_id,
            tenant=self._opened.tenant,
            epoch=self.epoch,
            provider="none",
            language=self._opened.language,
            target_languages=(),
            session_start_ms=0,
        )
        try:
            await self._catch_up.walk(self._tail)
            to_ms = self._tail.position * 1000 // self._rate_hz
            if to_ms > self._segmenter.covered_ms:
                events, self._segmenter = self._segmenter.lose(
                    self._segmenter.covered_ms,
                    to_ms,
                    session,
                    reason="provider",
                    now_ms=self._context.now_ns() // 1_000_000,
                )
                await self._write_all(events)
            await self._close(session, "no_provider")
        except StaleGuardError:
            return

    async def _write_all(self, events: list[SegmentEvent]) -> None:
        for event in events:
            assert not isinstance(event, SegmentPartial)
            await self._write(event)

    async def _write(self, event: LoggedEvent) -> None:
        """Store an event; one that the store will never take becomes a gap, not a crash loop.

        Raises:
            StaleGuardError: the stream has another owner.
        """
        try:
            if isinstance(event, TranslationFinal):
                event = self._finals.complete(event)
            sequence = await self._log.write(event)
            if isinstance(event, SegmentFinal):
                self._finals.note_stored(event, sequence)
        except StaleGuardError:
            raise
        except PublishRefusedError as error:
            logger.exception(
                "an event was refused", extra={"stream_id": self.stream_id, "code": error.err_code}
            )
            if isinstance(event, SegmentFinal):
                gap, self._segmenter = self._segmenter.disown(event)
                await self._log.write(gap)


class _SupersededError(Exception):
    """A newer claim was seen."""


class _End(msgspec.Struct):
    reason: str = "end"


def _end_reason(chunk: AudioChunk) -> str:
    try:
        return msgspec.json.decode(bytes(chunk.payload), type=_End).reason
    except msgspec.DecodeError:
        return "end"
