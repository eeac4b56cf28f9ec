"""One stream on one worker: from its claim until it is closed, handed over or lost.

Audio flows through plain calls (received message, tail, driver, provider, output, partial); the
stream's one task does what must wait: guarded writes, one in flight, catching up, and new
sessions.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Literal

import msgspec

from speechbus_contracts import (
    AudioChunk,
    AudioSubject,
    ChunkKind,
    ContractError,
    JobOpen,
    build_dedup_headers,
    decode_chunk,
    encode_event,
    job_dedup_id,
)
from speechbus_contracts.subjects import JOB_OPEN
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from speechbus_transcriber.audio_feed import AudioFeed
from speechbus_transcriber.audio_tail import AudioTail, Lost
from speechbus_transcriber.capture_times import CaptureTimes
from speechbus_transcriber.catch_up import CatchUp
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.driver import Connections, SessionDriver
from speechbus_transcriber.event_log import EventLog
from speechbus_transcriber.live_output import LiveOutput
from speechbus_transcriber.providers.interface import (
    ProviderError,
    ProviderProtocolError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
)
from speechbus_transcriber.providers.registry import Provider, default_route, plan_stream
from speechbus_transcriber.route import Route
from speechbus_transcriber.segmenter import SegmentContext
from speechbus_transcriber.session_timeline import SessionTimeline
from speechbus_transcriber.stream_output import StreamOutput

__all__ = ["Outcome", "StreamContext", "StreamRun"]

logger = logging.getLogger(__name__)

Outcome = Literal["closed", "superseded"]

CREDENTIALS_REFUSED: Final = frozenset({"http_401", "http_403", "invalid_api_key"})
CHECK_ACCOUNT: Final = "check this provider's variables: PALABRA_…, KOTOBA_… (`speechbus doctor`)"
SILENT: Final = "finalize_unanswered"
"""A session that ends without having answered."""
JITTER_MAX_S: Final = 5.0
"""On top of a wait: half of it, up to this."""
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
    lag_max_s: float
    """Audio that waits for longer than this is left out; infinite: never."""
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
        self._behind_max = context.lag_max_s * opened.sample_rate_hz
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._audio_subject = str(AudioSubject(opened.shard, opened.tenant, opened.stream_id))
        route = plan_stream(opened, context.providers)
        left_out = [name for name in default_route(tuple(context.providers)) if name not in route]
        if left_out and not opened.providers:
            logger.info(
                "providers left out: they do not take the stream's language, or need to be told it",
                extra={
                    "stream_id": self.stream_id,
                    "providers": left_out,
                    "language": opened.language,
                },
            )
        self._route = Route(route)
        self._live = LiveOutput(context.control_bus, opened, may_show=context.may_show)
        self._catch_up = CatchUp(context.audio_bus, opened, self._wake.set)
        self._times = CaptureTimes(
            started_at_ms=owned.checkpoint.audio_received_at or opened.opened_at
        )
        self._output = StreamOutput(
            owned,
            EventLog(owned, context.publisher),
            self._live,
            self._times,
            wake=self._wake.set,
            now_ms=lambda: context.now_ns() // 1_000_000,
        )
        self._tail = AudioTail(start_sample=self._output.covered_sample)
        self._driver: SessionDriver | None = None
        self._feed: AudioFeed | None = None
        self._session: SegmentContext | None = None
        self._session_start = 0
        self._is_reading = False
        self._lost: Lost | None = None
        self._end_reason: str | None = None
        self._is_finished = False
        self._failure: ProviderError | None = None
        self._is_superseded = False
        self._silent_at: int | None = None
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
        catch_up = self._catch_up
        if not self._is_reading or catch_up.is_due or catch_up.is_looking or self._tail.is_missing:
            return  # what is known to be stored is read to its end first
        if silent_s > SOURCE_LOST_S:
            self._end(reason="source_lost")
        elif silent_s > SOURCE_SILENT_S and catch_up.fetched_at_s < self._heard_source_s:
            catch_up.request()

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
        feed = self._feed
        assert driver is not None
        assert feed is not None
        while self._is_reading:
            if feed.waiting:
                feed.send_waiting()
            else:
                item = tail.take()
                if item is None:
                    break
                if isinstance(item, Lost):
                    self._lose(item, feed)
                elif item.kind is ChunkKind.AUDIO:
                    self._times.note(tail.position, item.captured_at_ns)
                    n_behind = tail.n_behind
                    feed.give(memoryview(item.payload), n_behind=n_behind)
                    if n_behind > self._behind_max:
                        self._lose(tail.jump(tail.position + n_behind - self._rate_hz), feed)
                else:
                    self._obey(item, feed)
            if driver.is_congested or self._output.is_full:
                self._is_reading = False
        if tail.is_missing and self._is_reading:
            self._catch_up.request()
        return self._is_reading

    def _lose(self, lost: Lost, feed: AudioFeed) -> None:
        """Have the session end before a gap; the next one begins behind it."""
        self._lost = lost
        self._is_reading = False
        feed.finish()

    def _obey(self, chunk: AudioChunk, feed: AudioFeed) -> None:
        match chunk.kind:
            case ChunkKind.END:
                self._end(reason=_end_reason(chunk))
            case ChunkKind.FLUSH:
                self._output.expect_flush(chunk.number, self._tail.position)
                feed.flush()
            case _:
                pass  # silence: the ingest is alive, which `_receive` has noted

    def _end(self, *, reason: str) -> None:
        self._end_reason = reason
        self._is_reading = False
        if self._feed is not None:
            self._feed.finish()

    def _resume_reading(self) -> None:
        driver = self._driver
        if (
            driver is not None
            and not driver.is_congested
            and not self._output.is_full
            and self._lost is None
            and self._end_reason is None
            and self._failure is None
            and not self._is_superseded
        ):
            self._is_reading = True
            self._read()
            if self._is_reading and self._catch_up.is_due:
                self._wake.set()  # the task has let it be: nothing could be read

    def _take_results(self, results: list[Result]) -> None:
        self._route.hear(now_s=self._loop.time())
        if self._output.take(results):
            self._is_finished = True
            self._wake.set()

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
            if not self._output.is_empty:
                await self._output.store_next()
                if not self._is_reading:
                    self._resume_reading()
            elif self._failure is not None and not self._is_silent_again(self._failure):
                await self._recover(self._failure)
                return False
            elif self._is_finished or self._failure is not None:
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
            channel=opened.channel,
        )
        self._session_start = self._tail.position
        timeline = SessionTimeline(start_sample=self._session_start, sample_rate_hz=self._rate_hz)
        self._output.begin_session(self._session, timeline)
        self._is_finished = False
        self._failure = None
        self._driver = SessionDriver(
            protocol,
            self._context.connections,
            sample_rate_hz=self._rate_hz,
            provider_rate_hz=provider_rate_hz,
            pace=provider.capabilities.pace,
            deaf_after_s=self._route.stretch(provider.capabilities.deaf_after_s),
            on_results=self._take_results,
            on_failed=self._note_failure,
            on_room=self._resume_reading,
        )
        self._feed = AudioFeed(
            self._driver,
            timeline,
            sample_rate_hz=self._rate_hz,
            turn_pause_ms=provider.capabilities.turn_pause_ms if opened.skips_silence else None,
        )
        self._route.open()
        await self._driver.open()

    def _end_session(self) -> None:
        self._is_reading = False
        if self._driver is not None:
            self._driver.close()
            self._driver = self._feed = None

    def _note_failure(self, error: ProviderError) -> None:
        self._failure = error
        self._is_reading = False
        self._wake.set()

    async def _recover(self, error: ProviderError) -> None:
        """Decide who goes on after a failed session, and from where."""
        self._end_session()
        backoff_s = self._route.fail(
            error,
            now_s=self._loop.time(),
            has_advanced=self._output.covered_sample > self._session_start,
        )
        logger.log(
            logging.ERROR if isinstance(error, ProviderProtocolError) else logging.WARNING,
            "provider session failed",
            extra={
                "stream_id": self.stream_id,
                "epoch": self.epoch,
                "provider": error.provider,
                "code": error.code,
                "next_provider": self._route.current,
                **({"advice": CHECK_ACCOUNT} if error.code in CREDENTIALS_REFUSED else {}),
            },
        )
        # Streams that failed together do not come back together.
        jitter_s = random.uniform(0, min(JITTER_MAX_S, backoff_s / 2))  # noqa: S311 (not a secret)
        await self._pause(backoff_s + jitter_s)
        self._rewind()

    async def _pause(self, seconds: float) -> None:
        """Wait, unless another worker takes the stream meanwhile.

        Raises:
            _SupersededError: it has.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._is_superseded:
                    self._wake.clear()
                    await self._wake.wait()
        if self._is_superseded:
            raise _SupersededError

    def _rewind(self) -> None:
        """Read again from what is covered."""
        self._output.rewind()
        self._tail = AudioTail(start_sample=self._output.covered_sample)
        self._times.rewind()
        self._catch_up.restart()
        self._lost = None
        self._end_reason = None  # an end marker will be read again

    def _is_silent_again(self, error: ProviderError) -> bool:
        """Whether a second session has said nothing of the same audio, and ends as the first."""
        return (
            error.code == SILENT
            and (self._lost is not None or self._end_reason is not None)
            and self._silent_at == self._output.covered_sample
        )

    async def _after_finished(self) -> bool:
        """The provider has answered everything: close, or go on behind a gap."""
        session = self._session
        assert session is not None
        self._end_session()
        covered, position = self._output.covered_sample, self._tail.position
        if covered < position and (not self._output.is_end_sure or self._failure is not None):
            if self._silent_at != covered:
                # Has it heard nothing, or not listened? Another session tells.
                self._silent_at = covered
                await self._recover(ProviderUnavailableError(SILENT, provider=session.provider))
                return False
            await self._output.lose(covered, position, session, reason="provider")
        if self._lost is not None:
            lost, self._lost = self._lost, None
            await self._output.lose(lost.from_sample, lost.to_sample, session, reason=lost.reason)
            return False
        await self._output.close(
            session, reason=self._end_reason or "end", position=self._tail.position
        )
        return True

    async def _close_without_provider(self) -> None:
        """Say that nobody transcribes what was accepted so far, and close."""
        session = SegmentContext(
            stream_id=self.stream_id,
            tenant=self._opened.tenant,
            epoch=self.epoch,
            provider="none",
            language=self._opened.language,
            target_languages=(),
        )
        output = self._output
        try:
            await self._catch_up.walk(self._tail)
            position = self._tail.position
            await output.lose(output.covered_sample, position, session, reason="provider")
            await output.close(session, reason="no_provider", position=position)
        except StaleGuardError:
            return


class _SupersededError(Exception):
    """A newer claim was seen."""


class _End(msgspec.Struct):
    reason: str = "end"


def _end_reason(chunk: AudioChunk) -> str:
    try:
        return msgspec.json.decode(bytes(chunk.payload), type=_End).reason
    except msgspec.DecodeError:
        return "end"
