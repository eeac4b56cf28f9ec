"""One stream on one worker: from its claim until it is closed, handed over or lost.

Audio flows through plain calls (received message, tail, driver, provider, segmenter, partial);
the stream's one task does what must wait: guarded writes, one in flight, catching up, and new
sessions.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from speechbus_contracts import (
    AudioChunk,
    AudioSubject,
    ChunkKind,
    ContractError,
    Gap,
    JobOpen,
    LiveSubject,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamClosed,
    StreamCovered,
    StreamFlushed,
    WriteKind,
    WriteSubject,
    audio_stream_name,
    build_dedup_headers,
    build_guard_headers,
    decode_chunk,
    encode_event,
    event_dedup_id,
    job_dedup_id,
    segment_dedup_id,
)
from speechbus_contracts import TurnEnded as TurnEndedEvent
from speechbus_contracts import TurnStarted as TurnStartedEvent
from speechbus_contracts.subjects import JOB_OPEN
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.jetstream import JetStreamUnavailableError, StoredMessage, fetch_stored
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from speechbus_transcriber.audio_tail import AudioTail, Lost
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.driver import ConnectFunction, SessionDriver
from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Flushed,
    Heard,
    ProviderError,
    ProviderProtocolError,
    ProviderRejectedError,
    Result,
    SessionRequest,
    TurnEnded,
    TurnStarted,
)
from speechbus_transcriber.providers.registry import PROVIDERS
from speechbus_transcriber.segmenter import SegmentContext, SegmentEvent, begin

__all__ = ["Outcome", "StreamContext", "StreamRun"]

logger = logging.getLogger(__name__)

Outcome = Literal["closed", "superseded"]

OUTBOX_MAX: Final = 64
"""Events waiting to be stored, beyond which no audio is read: 3 minutes of finals, so only a NATS
that is away fills it; the audio waits in AUDIO meanwhile."""
FLUSHES_MAX: Final = 64
"""Flushes of one session waiting for their answer; a client asks a few times a minute."""
PARTIAL_INTERVAL_S: Final = 0.1
"""Partials of one stream are conflated to ten a second: nobody reads faster."""
SOURCE_LOST_S: Final = 10.0
"""An ingest says something at least every 2 s for each stream it holds."""
FETCH_MARGIN_MS: Final = 2_000
"""Clocks of ingest and NATS may differ by this much before a fetch needs a second try."""
FETCH_RETRY_S: Final = 0.5
HOLE_TRIES_MAX: Final = 10
"""Fetches, `FETCH_RETRY_S` apart, before missing audio is lost: ingest repeats what was not
stored within 1 s, and after a NATS restart as soon as it is connected again."""
BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
FAILURES_MAX: Final = 3
"""Failures in a row of one provider before the next of the route is tried."""
STEADY_S: Final = 10.0
"""A session that lived this long clears its provider's failures."""


class StreamContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all streams of a worker share."""

    worker_id: str
    audio_bus: BusConnection
    """Bulk: audio in, nothing else."""
    control_bus: BusConnection
    """Everything small, so that audio never delays it."""
    publisher: AckedPublisher
    connect: ConnectFunction
    providers: tuple[str, ...]
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
        self._owned = owned
        self._opened = opened
        self._context = context
        self._rate_hz = opened.sample_rate_hz
        self._segmenter = begin(owned.checkpoint, is_shown=owned.epoch > 1)
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._audio_subject = str(AudioSubject(opened.shard, opened.tenant, opened.stream_id))
        self._claim_subject = str(WriteSubject(opened.tenant, opened.stream_id, "claim"))
        self._partial_subject = str(
            LiveSubject(opened.tenant, opened.stream_id, "partial")
        ).encode()
        self._turn_subject = str(LiveSubject(opened.tenant, opened.stream_id, "turn")).encode()
        wanted = opened.providers or context.providers
        self._route = deque(name for name in wanted if name in context.providers)

        self._tail = AudioTail(start_sample=self._covered_sample())
        self._driver: SessionDriver | None = None
        self._session: SegmentContext | None = None
        self._session_opened_s = 0.0
        self._failures = 0
        # Stream position and capture time of chunks not covered yet; bounded by what can be
        # uncovered: AUDIO's 90 s.
        self._marks: deque[tuple[int, int]] = deque(maxlen=4_500)
        self._received_at_ms = owned.checkpoint.audio_received_at or opened.opened_at

        self._outbox: deque[SegmentEvent | StreamFlushed] = deque()
        # Chunk number and stream position of each flush the provider has not answered yet. One
        # beyond the limit pushes out the oldest, whose asker waits in vain, for a limited time.
        self._flushes: deque[tuple[int, int]] = deque(maxlen=FLUSHES_MAX)
        self._is_reading = False
        self._fetch_is_due = True
        self._fetch_tries = 0
        self._fetch_timer: asyncio.TimerHandle | None = None
        self._lost: Lost | None = None
        self._end_reason: str | None = None
        self._is_finished = False
        self._failure: ProviderError | None = None
        self._is_superseded = False
        self._held_partial: SegmentPartial | None = None
        self._partial_timer: asyncio.TimerHandle | None = None
        self._shown_at_s = 0.0
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
            for timer in (self._fetch_timer, self._partial_timer):
                if timer is not None:
                    timer.cancel()

    def supersede(self) -> None:
        """Somebody else has claimed the stream: stop at once."""
        self._is_superseded = True
        self._is_reading = False
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
        """End the stream when nothing at all came from its ingest for `SOURCE_LOST_S`."""
        is_silent = now_s - self._heard_source_s > SOURCE_LOST_S
        # What is stored is read to its end first.
        if is_silent and self._is_reading and not self._fetch_is_due and not self._tail.is_missing:
            self._end(reason="source_lost")

    def excuse_source(self) -> None:
        """The bus was away: silence so far says nothing about the ingest."""
        self._heard_source_s = self._loop.time()
        self._fetch_is_due = True
        self._fetch_tries = 0
        self._wake.set()

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

    def _read(self) -> None:
        """Give the provider all audio that is in order."""
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
                self._marks.append((tail.position, item.captured_at_ns))
                driver.send_audio(memoryview(item.payload))
                if driver.is_congested or len(self._outbox) >= OUTBOX_MAX:
                    self._is_reading = False
            else:
                self._obey(item, driver)
        if tail.is_missing and self._is_reading and self._fetch_timer is None:
            self._fetch_is_due = True
            self._wake.set()

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
        for result in results:
            match result:
                case Heard():
                    self._hear(result, session)
                case Covered():
                    covered_ms = result.covered_ms + session.session_start_ms
                    received_at = self._received_at(covered_ms)
                    events, self._segmenter = self._segmenter.cover(
                        covered_ms, session, audio_received_at=received_at
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
                    self._show(self._turn_subject, encode_event(turn))
                case Flushed():
                    self._answer_flushes(n_max=1)
                case Finished():
                    self._answer_flushes(n_max=FLUSHES_MAX)
                    self._is_finished = True
                    self._wake.set()

    def _hear(self, heard: Heard, session: SegmentContext) -> None:
        now_ms = self._context.now_ns() // 1_000_000
        if heard.is_final:
            covered = heard.end_ms if heard.covered_ms is None else heard.covered_ms
            received_at = self._received_at(covered + session.session_start_ms)
        else:
            received_at = self._marks[-1][1] // 1_000_000 if self._marks else now_ms
        events, self._segmenter = self._segmenter.hear(
            heard, session, audio_received_at=received_at, now_ms=now_ms
        )
        self._put_out(events)

    def _put_out(self, events: list[SegmentEvent]) -> None:
        for event in events:
            if isinstance(event, SegmentPartial):
                self._show_partial(event)
            else:
                self._held_partial = None
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

    def _show_partial(self, partial: SegmentPartial) -> None:
        now_s = self._loop.time()
        wait_s = self._shown_at_s + PARTIAL_INTERVAL_S - now_s
        if wait_s <= 0:
            self._shown_at_s = now_s
            self._held_partial = None
            self._show(self._partial_subject, encode_event(partial))
            return
        self._held_partial = partial
        if self._partial_timer is None:
            self._partial_timer = self._loop.call_later(wait_s, self._show_held)

    def _show_held(self) -> None:
        self._partial_timer = None
        if self._held_partial is not None:
            self._show_partial(self._held_partial)

    def _show(self, subject: bytes, payload: bytes) -> None:
        # After a freeze the claim of a new owner may lie unread: say nothing until it would be.
        if self._context.may_show() and not self._is_superseded:
            self._context.control_bus.publish_nowait(subject, payload)

    def _received_at(self, position_ms: int) -> int:
        """Return when ingest had the audio at a stream position, and forget what is before it."""
        sample = position_ms * self._rate_hz // 1000
        marks = self._marks
        while marks:
            self._received_at_ms = marks[0][1] // 1_000_000
            if marks[0][0] >= sample:
                break
            marks.popleft()
        return self._received_at_ms

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
                await self._write_next()
            elif self._failure is not None:
                await self._recover(self._failure)
                return False
            elif self._is_finished:
                return await self._after_finished()
            elif self._fetch_is_due and self._is_reading:
                await self._fetch()
            else:
                self._wake.clear()
                # Nothing may have come between the checks above and this line: one thread.
                await self._wake.wait()

    async def _open_session(self) -> None:
        if not self._route:
            raise _ProvidersExhaustedError
        name = self._route[0]
        opened = self._opened
        protocol = PROVIDERS[name].open_protocol(
            SessionRequest(
                sample_rate_hz=self._rate_hz,
                language=opened.language,
                target_languages=opened.target_languages,
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
        )
        self._is_finished = False
        self._failure = None
        self._driver = SessionDriver(
            protocol,
            on_results=self._take_results,
            on_failed=self._note_failure,
            on_room=self._resume_reading,
        )
        self._session_opened_s = self._loop.time()
        await self._driver.open(self._context.connect)

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
        if self._loop.time() - self._session_opened_s > STEADY_S:
            self._failures = 0
        self._failures += 1
        logger.warning(
            "provider session failed",
            extra={
                "stream_id": self.stream_id,
                "epoch": self.epoch,
                "provider": error.provider,
                "code": error.code,
                "failures": self._failures,
            },
        )
        if isinstance(error, ProviderRejectedError):
            self._route.popleft()
            self._failures = 0
        else:
            if isinstance(error, ProviderProtocolError):
                logger.error("provider protocol broken", extra={"provider": error.provider})
            if self._failures >= FAILURES_MAX:
                self._route.rotate(-1)
                self._failures = 0
            backoff_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 4**self._failures)
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 (not a secret)
        self._rewind()

    def _rewind(self) -> None:
        """Read again from what is covered."""
        while self._flushes and self._flushes[0][1] < self._covered_sample():
            self._answer_flushes(n_max=1)  # its finals came; its marker is not read again
        self._flushes.clear()
        self._tail = AudioTail(start_sample=self._covered_sample())
        self._marks.clear()
        self._fetch_is_due = True
        self._fetch_tries = 0
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
        await self._write(closed, "closed", event_dedup_id(self.stream_id, "closed", 0))

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
            await self._collect_all()
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

    async def _collect_all(self) -> None:
        """Walk over everything stored, to know how much audio there is."""
        start_sequence = 1
        while True:
            try:
                messages = await self._fetch_messages(start_sequence=start_sequence)
            except JetStreamUnavailableError:
                await asyncio.sleep(FETCH_RETRY_S)
                continue
            for message in messages:
                self._add_stored(message)
            self._tail.give_up()
            while self._tail.take() is not None:
                pass
            if not messages:
                return
            start_sequence = messages[-1].sequence + 1

    # --- catching up ---------------------------------------------------------------------------

    async def _fetch(self) -> None:
        """Fetch stored chunks until the tail is whole, or what is missing is given up."""
        self._fetch_is_due = False
        self._fetch_tries += 1
        start_sequence = 1
        position = self._tail.position
        while True:
            # The first try starts where the audio should be by the clocks; a try that did not
            # find it looks at everything that is retained.
            by_time = self._fetch_tries == 1 and start_sequence == 1
            try:
                messages = await self._fetch_messages(
                    start_sequence=None if by_time else start_sequence
                )
            except JetStreamUnavailableError:
                self._fetch_tries -= 1
                self._fetch_later()
                return
            for message in messages:
                self._add_stored(message)
            if self._is_reading:
                self._read()
            if not messages or not self._tail.is_missing or not self._is_reading:
                break
            start_sequence = messages[-1].sequence + 1
        if not self._tail.is_missing or self._tail.position > position:
            self._fetch_tries = 0
        elif self._fetch_tries == 1:
            self._fetch_is_due = True
        elif self._fetch_tries >= HOLE_TRIES_MAX:
            self._fetch_tries = 0
            self._tail.give_up()
            if self._is_reading:
                self._read()
        else:
            self._fetch_later()

    def _fetch_later(self) -> None:
        if self._fetch_timer is not None:
            self._fetch_timer.cancel()
        self._fetch_timer = self._loop.call_later(FETCH_RETRY_S, self._fetch_again)

    def _fetch_again(self) -> None:
        self._fetch_timer = None
        self._fetch_is_due = True
        self._wake.set()

    async def _fetch_messages(self, *, start_sequence: int | None) -> list[StoredMessage]:
        from_ms = (self._marks[-1][1] // 1_000_000) if self._marks else self._received_at_ms
        start = datetime.fromtimestamp((from_ms - FETCH_MARGIN_MS) / 1000, UTC)
        return await fetch_stored(
            self._context.audio_bus,
            audio_stream_name(self._opened.shard),
            self._audio_subject,
            start_time=start.isoformat() if start_sequence is None else None,
            start_sequence=start_sequence or 1,
        )

    def _add_stored(self, message: StoredMessage) -> None:
        try:
            self._tail.add(decode_chunk(message.payload))
        except ContractError:
            logger.warning("a stored chunk broke the contract", extra={"stream_id": self.stream_id})

    # --- guarded writes ------------------------------------------------------------------------

    async def _write_next(self) -> None:
        await self._write_event(self._outbox[0])
        self._outbox.popleft()
        if not self._is_reading:
            self._resume_reading()

    async def _write_all(self, events: list[SegmentEvent]) -> None:
        for event in events:
            await self._write_event(event)

    async def _write_event(self, event: SegmentEvent | StreamFlushed) -> None:
        match event:
            case SegmentFinal():
                await self._write(
                    event, "final", segment_dedup_id(event.transcription_id, event.revision)
                )
            case SegmentRetracted():
                await self._write(
                    event, "retracted", event_dedup_id(self.stream_id, "retracted", event.index)
                )
            case StreamCovered():
                await self._write(
                    event, "covered", event_dedup_id(self.stream_id, "covered", event.covered_ms)
                )
            case Gap():
                await self._write(event, "gap", event_dedup_id(self.stream_id, "gap", event.to_ms))
            case StreamFlushed():
                await self._write(
                    event, "flushed", event_dedup_id(self.stream_id, "flushed", event.chunk)
                )
            case SegmentPartial():
                raise AssertionError("partials are not stored")

    async def _write(
        self, event: SegmentEvent | StreamFlushed | StreamClosed, kind: WriteKind, dedup_id: str
    ) -> None:
        headers = build_guard_headers(
            dedup_id, token=self._owned.token, claim_subject=self._claim_subject
        )
        await self._context.publisher.publish(
            str(WriteSubject(self._opened.tenant, self.stream_id, kind)),
            encode_event(event),
            headers=encode_headers(headers),
        )


class _SupersededError(Exception):
    """A newer claim was seen."""


class _End(msgspec.Struct):
    reason: str = "end"


def _end_reason(chunk: AudioChunk) -> str:
    try:
        return msgspec.json.decode(bytes(chunk.payload), type=_End).reason
    except msgspec.DecodeError:
        return "end"
