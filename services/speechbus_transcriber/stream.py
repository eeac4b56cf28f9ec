"""One stream on one worker: from its claim until it is closed, handed over or lost.

Audio flows through plain calls (received message, tail, driver, provider, output, partial); the
stream's one task does what must wait: guarded writes, one in flight, catching up, and sessions that
have to be opened before anything else can be done.
"""

import asyncio
import logging
import random
from contextlib import suppress
from typing import Final, Literal

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
from speechbus_runtime.bus import encode_headers
from speechbus_runtime.publisher import StaleGuardError
from speechbus_transcriber.audio_feed import AudioFeed
from speechbus_transcriber.audio_tail import AudioTail, Lost
from speechbus_transcriber.capture_times import CaptureTimes
from speechbus_transcriber.catch_up import CatchUp
from speechbus_transcriber.chunk_payloads import read_end_reason, read_language
from speechbus_transcriber.claim import OwnedStream, read_changes
from speechbus_transcriber.event_log import EventLog
from speechbus_transcriber.lag_reports import LagReports
from speechbus_transcriber.lag_watch import Lag
from speechbus_transcriber.languages import Languages
from speechbus_transcriber.live_output import LiveOutput
from speechbus_transcriber.provider_session import ProviderSession
from speechbus_transcriber.providers.interface import ProviderError, ProviderProtocolError
from speechbus_transcriber.segmenter import SegmentContext
from speechbus_transcriber.session_builder import ProvidersExhaustedError, SessionBuilder
from speechbus_transcriber.stream_context import StreamContext
from speechbus_transcriber.stream_output import StreamOutput
from speechbus_transcriber.succession import Succession

__all__ = ["Outcome", "StreamRun"]

logger = logging.getLogger(__name__)

Outcome = Literal["closed", "superseded"]

CREDENTIALS_REFUSED: Final = frozenset({"http_401", "http_403", "invalid_api_key"})
CHECK_ACCOUNT: Final = "check this provider's variables: PALABRA_…, KOTOBA_… (`speechbus doctor`)"
JITTER_MAX_S: Final = 5.0
"""On top of a wait: half of it, up to this."""
SOURCE_SILENT_S: Final = 2.5
"""Silence in which something may have been missed: the last chunks of a stream have no successor
whose number would tell. Longer than the keep-alive of a source that pauses."""
SOURCE_LOST_S: Final = 10.0
"""An ingest says something at least every 2 s for each stream it holds."""


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
        self._languages = Languages(opened.language)
        for change in owned.changes:
            self._languages.change(change.at_sample, change.language)
        self._live = LiveOutput(context.control_bus, opened, may_show=context.may_show)
        self._catch_up = CatchUp(context.audio_bus, opened, self._wake.set)
        self._times = CaptureTimes(
            started_at_ms=owned.checkpoint.audio_received_at or opened.opened_at
        )
        self._output = StreamOutput(
            owned,
            EventLog(owned, context.publisher, context.measures),
            self._live,
            self._times,
            wake=self._wake.set,
            now_ms=lambda: context.now_ns() // 1_000_000,
        )
        self._tail = AudioTail(start_sample=self._output.covered_sample)
        self._lag = LagReports(opened, epoch=self.epoch, live=self._live)
        self._sessions = Succession(
            SessionBuilder(opened, owned.epoch, context),
            self._output,
            stream_id=self.stream_id,
            sample_rate_hz=self._rate_hz,
            read=self._go_on,
            wake=self._wake.set,
            measures=context.measures,
        )
        self._is_reading = False
        self._is_language_due = False
        self._lost: Lost | None = None
        self._end_reason: str | None = None
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
        async with self._sessions.tasks:
            try:
                while not await self._run_session():
                    pass
            except (StaleGuardError, _SupersededError):
                return "superseded"
            except ProvidersExhaustedError:
                await self._close_without_provider()
                return "closed"
            else:
                return "closed"
            finally:
                self._context.audio_bus.unsubscribe_direct(sid)
                self._is_reading = False
                self._sessions.close()
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

    def check_lag(self) -> Lag:
        """Look how far the stream is behind, and say so where it is."""
        return self._lag.look(
            received=self._tail.end,
            given=self._tail.position,
            covered=self._output.covered_sample,
        )

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
        sessions = self._sessions
        session = sessions.listener
        if session is None:
            return False
        driver = session.driver
        feed = session.feed
        while self._is_reading:
            if feed.waiting:
                feed.send_waiting()
            elif sessions.is_turn_due:
                sessions.turn(tail.position)
                return self._read()
            else:
                item = tail.take()
                if item is None:
                    break
                if isinstance(item, Lost):
                    self._lose(item, feed)
                elif item.kind is ChunkKind.AUDIO:
                    self._give(item, feed)
                else:
                    self._obey(item, session)
            if driver.is_congested or self._output.is_full:
                self._is_reading = False
        if tail.is_missing and self._is_reading:
            self._catch_up.request()
        return self._is_reading

    def _give(self, chunk: AudioChunk, feed: AudioFeed) -> None:
        tail = self._tail
        self._times.note(tail.position, chunk.captured_at_ns)
        n_behind = tail.n_behind
        pcm = memoryview(chunk.payload)
        feed.give(pcm, n_behind=n_behind)
        if self._sessions.is_successor_waiting:
            self._sessions.hear(pcm)
        if n_behind > self._behind_max:
            self._lose(tail.jump(tail.position + n_behind - self._rate_hz), feed)

    def _lose(self, lost: Lost, feed: AudioFeed) -> None:
        """Have the session end before a gap; the next one begins behind it."""
        self._lost = lost
        self._is_reading = False
        feed.finish()

    def _obey(self, chunk: AudioChunk, session: ProviderSession) -> None:
        match chunk.kind:
            case ChunkKind.END:
                self._end(reason=read_end_reason(chunk))
            case ChunkKind.FLUSH:
                session.flushes.append((chunk.number, self._tail.position))
                session.feed.flush()
            case ChunkKind.RECONFIGURE:
                self._change_language(read_language(chunk), session)
            case _:
                pass  # silence: the ingest is alive, which `_receive` has noted

    def _change_language(self, language: str | None, session: ProviderSession) -> None:
        self._languages.forget(self._output.covered_sample)
        self._languages.change(self._tail.position, language)
        if language != session.context.language:
            self._is_language_due = True
            self._is_reading = False
            self._go_on()

    def _end(self, *, reason: str) -> None:
        self._end_reason = reason
        self._is_reading = False
        if self._sessions.listener is not None:
            self._sessions.listener.feed.finish()

    def _go_on(self) -> None:
        """Read audio again, if there is somebody to take it, or do what waits for its turn."""
        sessions = self._sessions
        sessions.listen(self._tail.position)
        listener, speaker = sessions.listener, sessions.speaker
        if (
            listener is None
            or speaker is None
            or listener.failure is not None
            or speaker.failure is not None
            or self._lost is not None
            or self._end_reason is not None
            or self._is_superseded
        ):
            return
        if self._is_language_due:
            # While one session follows another, a third has to wait.
            if listener is speaker:
                self._is_language_due = False
                position = self._tail.position
                sessions.change_language(self._languages.at(position), position)
        elif not listener.driver.is_congested and not self._output.is_full:
            self._is_reading = True
            self._read()
            if self._catch_up.is_due:
                self._wake.set()  # the task has let it be: nothing could be read

    # --- the stream's task ---------------------------------------------------------------------

    async def _run_session(self) -> bool:
        """Run sessions until one has to be opened anew; return True when the stream is closed."""
        sessions = self._sessions
        position = self._tail.position
        try:
            await sessions.open(self._languages.at(position), position)
        except ProviderError as error:
            await self._recover(error)
            return False
        self._go_on()
        while True:
            speaker = sessions.speaker
            assert speaker is not None
            if self._is_superseded:
                raise _SupersededError
            if not self._output.is_empty:
                await self._output.store_next()
                if not self._is_reading:
                    self._go_on()
            elif speaker.failure is not None:
                await self._recover(speaker.failure)
                return False
            elif speaker.is_finished:
                return await self._after_finished(speaker)
            elif self._catch_up.is_due and self._is_reading:
                await self._catch_up.fetch(self._tail, self._read, from_ms=self._times.latest_ms)
            else:
                self._wake.clear()
                # Nothing may have come between the checks above and this line: one thread.
                await self._wake.wait()

    async def _recover(self, error: ProviderError) -> None:
        """Decide who goes on after a failed session, and from where."""
        failed, listener = self._sessions.speaker, self._sessions.listener
        assert failed is not None
        self._is_reading = False
        self._sessions.close(keeps_successor=True)
        self._context.measures.count_failed(error)
        covered = self._output.covered_sample
        backoff_s = failed.route.fail(
            error, now_s=self._loop.time(), has_advanced=covered > failed.start_sample
        )
        logger.log(
            logging.ERROR if isinstance(error, ProviderProtocolError) else logging.WARNING,
            "provider session failed",
            extra={
                "stream_id": self.stream_id,
                "epoch": self.epoch,
                "provider": error.provider,
                "code": error.code,
                "next_provider": failed.route.current,
                **({"advice": CHECK_ACCOUNT} if error.code in CREDENTIALS_REFUSED else {}),
            },
        )
        if not self._sessions.has_successor(self._languages.at(covered)):
            # Streams that failed together do not come back together.
            jitter_s = random.uniform(0, min(JITTER_MAX_S, backoff_s / 2))  # noqa: S311 (no secret)
            await self._pause(backoff_s + jitter_s)
        self._output.rewind(failed)
        if listener is not None and listener is not failed:
            self._output.rewind(listener)
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
        self._tail = AudioTail(start_sample=self._output.covered_sample)
        self._times.rewind()
        self._catch_up.restart()
        self._lost = None
        self._end_reason = None  # an end marker will be read again
        self._is_language_due = False

    async def _after_finished(self, session: ProviderSession) -> bool:
        """The provider has answered everything: close, or go on behind what ended the session."""
        self._is_reading = False
        context = session.context
        if session.end_sample is not None:
            self._sessions.close(keeps_successor=True)
            return False
        self._sessions.close()
        if self._lost is not None:
            lost, self._lost = self._lost, None
            await self._output.lose(lost.from_sample, lost.to_sample, context, reason=lost.reason)
            # A change of language may lie in what is lost.
            for change in await read_changes(self._context.control_bus, self._opened):
                self._languages.change(change.at_sample, change.language)
            return False
        await self._output.close(
            context, reason=self._end_reason or "end", position=self._tail.position
        )
        return True

    async def _close_without_provider(self) -> None:
        """Say that nobody transcribes what was accepted so far, and close."""
        session = SegmentContext(
            stream_id=self.stream_id,
            tenant=self._opened.tenant,
            epoch=self.epoch,
            provider="none",
            language=self._languages.at(self._output.covered_sample),
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
