"""One stream on one worker: from its claim until it is closed, handed over or lost.

Audio flows through plain calls (received message, tail, driver, provider, output, partial); the
stream's one task does what must wait: guarded writes, one in flight, catching up, and sessions that
have to be opened before anything else can be done.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

import msgspec

from speechbus_contracts import (
    AudioSubject,
    JobOpen,
    StreamWaiting,
    build_dedup_headers,
    encode_event,
    job_dedup_id,
)
from speechbus_contracts.subjects import JOB_OPEN
from speechbus_runtime.bus import encode_headers
from speechbus_runtime.publisher import StaleGuardError
from speechbus_transcriber.capture_times import CaptureTimes
from speechbus_transcriber.catch_up import CatchUp
from speechbus_transcriber.claim import OwnedStream, read_changes
from speechbus_transcriber.event_log import EventLog
from speechbus_transcriber.governor.governor import CHECK_ACCOUNT, CREDENTIALS_REFUSED
from speechbus_transcriber.governor.seats import Lease
from speechbus_transcriber.lag_reports import LagReports
from speechbus_transcriber.lag_watch import Lag
from speechbus_transcriber.languages import Languages
from speechbus_transcriber.live_output import LiveOutput
from speechbus_transcriber.owed_translations import wait_for_translations
from speechbus_transcriber.provider_session import ProviderSession
from speechbus_transcriber.providers.interface import (
    ProviderError,
    ProviderProtocolError,
    ProviderUnavailableError,
)
from speechbus_transcriber.segmenter import SegmentContext
from speechbus_transcriber.session_builder import ProvidersExhaustedError, SessionBuilder
from speechbus_transcriber.stream_context import StreamContext
from speechbus_transcriber.stream_output import StreamOutput
from speechbus_transcriber.stream_reader import StreamReader
from speechbus_transcriber.succession import Succession

__all__ = ["Outcome", "StreamRun"]

logger = logging.getLogger(__name__)

Outcome = Literal["closed", "superseded"]

SILENT: Final = "finalize_unanswered"
"""A session that ends without having answered."""
REST_S: Final = 15.0
"""While all of its providers are dead a stream lets them be so long, unless one is found well: the
pool tries their handshakes more often than that, with one worker for all streams."""
JITTER_MAX_S: Final = 5.0
"""On top of a wait: half of it, up to this. Streams that failed together do not come back
together."""
WAITING_S: Final = 1.0
"""A stream that has no room at any provider for so long tells its client."""
PATIENCE_S: Final = 1.5
"""For the goodbye of a session's connection (1 s at most) and for the ledger."""


class StreamRun:
    """One claimed stream."""

    def __init__(self, owned: OwnedStream, context: StreamContext) -> None:
        opened = owned.opened
        self.stream_id = opened.stream_id
        self.epoch = owned.epoch
        self._opened = opened
        self._context = context
        self._rate_hz = opened.sample_rate_hz
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._audio_subject = str(AudioSubject(opened.shard, opened.tenant, opened.stream_id))
        self._languages = Languages(opened.language)
        for change in owned.changes:
            self._languages.change(change.at_sample, change.language)
        self._live = LiveOutput(
            context.control_bus,
            opened,
            may_show=context.may_show,
            count_partial=context.measures.count_partial,
        )
        self._catch_up = CatchUp(context.audio_bus, opened, self._wake.set)
        self._times = CaptureTimes(
            started_at_ms=owned.checkpoint.audio_received_at or opened.opened_at
        )
        self._output = StreamOutput(
            owned,
            EventLog(owned, context.publisher, context.measures, context.tracing),
            self._live,
            self._times,
            wake=self._wake.set,
            now_ms=lambda: context.now_ns() // 1_000_000,
        )
        self._lag = LagReports(opened, epoch=self.epoch, live=self._live)
        self._traceparent = owned.traceparent
        self._builder = SessionBuilder(opened, owned.epoch, context, owned.traceparent)
        self._had_session = owned.epoch > 1
        self._rest_s = 0.0
        """For the next session: how long to let be what is dead."""
        self._sessions = Succession(
            self._builder,
            self._output,
            stream_id=self.stream_id,
            sample_rate_hz=self._rate_hz,
            read=lambda: self._reader.go_on(),
            wake=self._wake.set,
            measures=context.measures,
            governor=context.governor,
        )
        self._reader = StreamReader(
            self._sessions,
            self._output,
            self._times,
            self._catch_up,
            self._languages,
            stream_id=self.stream_id,
            behind_max=context.lag_max_s * opened.sample_rate_hz,
            rate_hz=opened.sample_rate_hz,
        )
        self.check_source = self._reader.check_source
        self.excuse_source = self._reader.excuse_source
        self._is_superseded = False
        self._silent_at: int | None = None

    @property
    def position(self) -> int:
        """Samples of the stream given to a provider."""
        return self._reader.tail.position

    # --- called by the worker ------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Carry the stream to its end."""
        sid = self._context.audio_bus.subscribe_direct(self._audio_subject, self._reader.receive)
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
                self._reader.is_reading = False
                self._sessions.close()
                self._live.close()
                self._catch_up.close()

    def supersede(self) -> None:
        """Somebody else has claimed the stream: stop at once."""
        self._is_superseded = True
        self._reader.is_reading = False
        self._reader.is_stopped = True
        self._sessions.abandon()
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
        span = self._context.tracing.start(
            "place stream",
            kind="producer",
            parent=self._traceparent,
            attributes={"speechbus.stream.id": self.stream_id, "speechbus.reason": reason},
        )
        with span:
            await self._context.publisher.publish(
                JOB_OPEN, encode_event(job), headers=encode_headers(headers | span.headers)
            )

    def check_lag(self) -> Lag:
        """Look how far the stream is behind, and say so where it is."""
        tail = self._reader.tail
        return self._lag.look(
            received=tail.end, given=tail.position, covered=self._output.covered_sample
        )

    # --- the stream's task ---------------------------------------------------------------------

    async def _run_session(self) -> bool:
        """Run sessions until one has to be opened anew; return True when the stream is closed."""
        sessions, reader = self._sessions, self._reader
        position = reader.tail.position
        language = self._languages.at(position)
        lease = None
        if not sessions.is_followed(language):
            sessions.drop_successor()  # or it might have the slot that is waited for
            lease = await self._take_lease(language)
        if not await self._open_session(language, position, lease):
            return False
        reader.go_on()
        while True:
            speaker = sessions.speaker
            assert speaker is not None
            if self._is_superseded:
                raise _SupersededError
            if not self._output.is_empty:
                await self._output.store_next()
                if not self._reader.is_reading:
                    self._reader.go_on()
            elif speaker.failure is not None and not self._is_silent_again(speaker):
                await self._recover(speaker.failure)
                return False
            elif speaker.is_finished or speaker.failure is not None:
                return await self._after_finished(speaker)
            elif self._catch_up.is_due and self._reader.is_reading:
                await self._catch_up.fetch(reader.tail, reader.read, from_ms=self._times.latest_ms)
            else:
                self._wake.clear()
                # Nothing may have come between the checks above and this line: one thread.
                await self._wake.wait()

    async def _open_session(self, language: str | None, position: int, lease: Lease | None) -> bool:
        """Open a session; False: it failed, and it is decided who is next."""
        try:
            await self._sessions.open(language, position, lease)
        except ProviderError as error:
            if self._is_superseded:
                raise _SupersededError from None
            await self._recover(error)
            return False
        return True

    async def _take_lease(self, language: str | None) -> Lease:
        """Wait until a provider has room for a session.

        Raises:
            ProvidersExhaustedError: every provider has refused the stream.
            _SupersededError: another worker has taken it.
        """
        ticket = self._builder.ask(
            language,
            wake=self._wake.set,
            # Its former session may be about to give a slot back, here or at its former owner.
            patience_s=PATIENCE_S if self._had_session else 0.0,
            rest_s=self._rest_s,
        )
        self._had_session, self._rest_s = True, 0.0
        try:
            await self._pause(WAITING_S, until=lambda: ticket.lease is not None)
            if ticket.lease is None:
                waiting = StreamWaiting(
                    stream_id=self.stream_id,
                    tenant=self._opened.tenant,
                    epoch=self.epoch,
                    providers=tuple(ticket.names),
                )
                self._live.show_waiting(waiting)
                await self._pause(None, until=lambda: ticket.lease is not None)
                self._live.show_waiting(msgspec.structs.replace(waiting, is_over=True))
        except BaseException:
            self._builder.withdraw(ticket)
            raise
        assert ticket.lease is not None
        return ticket.lease

    async def _recover(self, error: ProviderError) -> None:
        """Decide who goes on after a failed session, and from where: what is covered."""
        failed = self._sessions.speaker
        assert failed is not None
        self._reader.is_reading = False
        governor, route = self._context.governor, failed.route
        # Before its lease goes back: the next stream must not run into the same refusal.
        is_excused = governor.fail(failed.lease, error, stream_id=self.stream_id)
        self._sessions.close(keeps_successor=True)
        self._context.measures.count_failed(error)
        covered = self._output.covered_sample
        backoff_s = 0.0
        if not is_excused:
            backoff_s = route.fail(
                error, now_s=self._loop.time(), has_advanced=covered > failed.start_sample
            )
        order = route.order
        jitter_s = random.uniform(0, min(JITTER_MAX_S, backoff_s / 2))  # noqa: S311 (no secret)
        if governor.is_dead(failed.lease.provider):
            if all(map(governor.is_dead, order)):
                self._rest_s = REST_S + random.uniform(0, JITTER_MAX_S)  # noqa: S311 (no secret)
            backoff_s = jitter_s = 0.0  # somebody else is asked, or nobody until one is well
        logger.log(
            logging.ERROR if isinstance(error, ProviderProtocolError) else logging.WARNING,
            "provider session failed",
            extra={
                "stream_id": self.stream_id,
                "epoch": self.epoch,
                "provider": error.provider,
                "code": error.code,
                "next_provider": next(iter(order), None),
                **({"advice": CHECK_ACCOUNT} if error.code in CREDENTIALS_REFUSED else {}),
            },
        )
        if not self._sessions.is_followed(self._languages.at(covered)):
            await self._pause(backoff_s + jitter_s)
        self._output.rewind(failed)
        self._reader.rewind(for_sound=error.code == SILENT)

    async def _pause(
        self, seconds: float | None, *, until: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait, unless another worker takes the stream meanwhile.

        Raises:
            _SupersededError: it has.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._is_superseded and not until():
                    self._wake.clear()
                    await self._wake.wait()
        if self._is_superseded:
            raise _SupersededError

    def _is_silent_again(self, session: ProviderSession) -> bool:
        """Whether a second session has said nothing of the same audio, and ends as the first.

        One that another session follows has not heard it all.
        """
        return (
            session.failure is not None
            and session.failure.code == SILENT
            and session.end_sample is None
            and (self._reader.lost is not None or self._reader.end_reason is not None)
            and self._silent_at == self._output.covered_sample
        )

    async def _after_finished(self, session: ProviderSession) -> bool:
        """The provider has answered everything: close, or go on behind what ended the session."""
        self._reader.is_reading = False
        context = session.context
        if session.end_sample is not None:
            self._sessions.close(keeps_successor=True)
            return False
        reader = self._reader
        covered, position = self._output.covered_sample, reader.tail.position
        is_sure = session.is_end_sure and session.failure is None
        if covered < position and not is_sure and self._silent_at != covered:
            # Has it heard nothing, or not listened? Another session tells.
            self._silent_at = covered
            await self._recover(ProviderUnavailableError(SILENT, provider=context.provider))
            return False
        self._sessions.close()
        is_silence = reader.sound is not None and not reader.sound.may_have_speech
        if covered < position and not is_sure and not is_silence:
            await self._output.lose(covered, position, context, reason="provider")
        if reader.lost is not None:
            lost, reader.lost = reader.lost, None
            await self._output.lose(lost.from_sample, lost.to_sample, context, reason=lost.reason)
            # A change of language may lie in what is lost.
            for change in await read_changes(self._context.control_bus, self._opened):
                self._languages.change(change.at_sample, change.language)
            return False
        await wait_for_translations(self._context.control_bus, self._opened, self._output.owed)
        if reader.end_reason == "source_lost" and reader.seen > position:
            # It has left AUDIO before it was heard again, and nobody is there to repeat it.
            await self._output.lose(position, reader.seen, context, reason="audio_lost")
            position = reader.seen
        await self._output.close(context, reason=reader.end_reason or "end", position=position)
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
            await self._catch_up.walk(self._reader.tail)
            position = max(self._reader.tail.position, self._reader.seen)
            await output.lose(output.covered_sample, position, session, reason="provider")
            await output.close(session, reason="no_provider", position=position)
        except StaleGuardError:
            return


class _SupersededError(Exception):
    """A newer claim was seen."""
