"""What a stream says: its sessions' results, as live partials and as stored events."""

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from speechbus_contracts import (
    SegmentFinal,
    SegmentPartial,
    StreamClosed,
    StreamFlushed,
    TranslationFinal,
)
from speechbus_contracts import TurnEnded as TurnEndedEvent
from speechbus_contracts import TurnStarted as TurnStartedEvent
from speechbus_runtime.publisher import PublishRefusedError, StaleGuardError
from speechbus_transcriber.capture_times import CaptureTimes
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.event_log import EventLog, LoggedEvent
from speechbus_transcriber.live_output import LiveOutput
from speechbus_transcriber.owed_translations import OwedTranslations
from speechbus_transcriber.provider_session import FLUSHES_MAX, ProviderSession
from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Flushed,
    Heard,
    Result,
    Translated,
    TurnEnded,
    TurnStarted,
)
from speechbus_transcriber.segmenter import SegmentContext, SegmentEvent, begin
from speechbus_transcriber.session_finals import SessionFinals

__all__ = ["StreamOutput"]

logger = logging.getLogger(__name__)

OUTBOX_MAX: Final = 64
"""Events waiting to be stored, beyond which no audio is read: 3 minutes of finals, so only a NATS
that is away fills it; the audio waits in AUDIO meanwhile."""


class StreamOutput:
    """The events of one claimed stream: taken from results in plain calls, stored one by one.

    Args:
        owned: the stream.
        log: stores its events.
        live: shows what is not stored.
        times: when ingest had which audio.
        wake: called when there is something to store.
        now_ms: wall clock, ms since 1970.
    """

    def __init__(
        self,
        owned: OwnedStream,
        log: EventLog,
        live: LiveOutput,
        times: CaptureTimes,
        *,
        wake: Callable[[], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._stream_id = owned.opened.stream_id
        self._tenant = owned.opened.tenant
        self._epoch = owned.epoch
        self._rate_hz = owned.opened.sample_rate_hz
        self._log = log
        self._live = live
        self._times = times
        self._wake = wake
        self._now_ms = now_ms
        self._segmenter = begin(owned.checkpoint, is_shown=owned.epoch > 1)
        self.owed = OwedTranslations()
        # Each with the finals of the session that it comes from.
        self._outbox: deque[tuple[LoggedEvent, SessionFinals]] = deque()

    @property
    def covered_sample(self) -> int:
        """Samples of the stream that need no transcribing any more.

        Rounded down: at most a sample is read twice, none is skipped.
        """
        return self._segmenter.covered_ms * self._rate_hz // 1000

    def covers(self, sample: int) -> bool:
        """Whether all audio before this sample needs no transcribing any more."""
        return self._segmenter.covered_ms >= sample * 1000 // self._rate_hz

    @property
    def is_empty(self) -> bool:
        """Whether everything said is stored."""
        return not self._outbox

    @property
    def is_full(self) -> bool:
        """Whether audio has to wait until something is stored."""
        return len(self._outbox) >= OUTBOX_MAX

    # --- results: plain calls, no waiting ------------------------------------------------------

    def take(self, session: ProviderSession, results: list[Result]) -> bool:
        """Turn results of a session into events.

        Returns:
            Whether the session has finished.
        """
        timeline = session.timeline
        is_finished = False
        for result in results:
            match result:
                case Heard():
                    self._hear(timeline.translate(result), session)
                case Translated():
                    self._take_translation(result, session)
                case Covered():
                    covered_ms = timeline.to_stream_ms(result.covered_ms)
                    events, self._segmenter = self._segmenter.cover(
                        covered_ms, session.context, audio_received_at=self._received_at(covered_ms)
                    )
                    self._put_out(events, session.finals)
                case TurnStarted() | TurnEnded():
                    kind = TurnStartedEvent if isinstance(result, TurnStarted) else TurnEndedEvent
                    turn = kind(
                        stream_id=self._stream_id,
                        tenant=self._tenant,
                        epoch=self._epoch,
                        at_ms=timeline.to_stream_ms(result.at_ms),
                    )
                    self._live.show_turn(turn)
                case Flushed():
                    self._answer_flushes(session, n_max=1)
                case Finished():
                    self._answer_flushes(session, n_max=FLUSHES_MAX)
                    session.is_end_sure = result.is_sure
                    is_finished = True
        return is_finished

    def rewind(self, session: ProviderSession) -> None:
        """The session is over and audio is read again from what is covered: so are markers."""
        while session.flushes and session.flushes[0][1] < self.covered_sample:
            self._answer_flushes(session, n_max=1)  # its finals came; its marker is not read again
        session.flushes.clear()

    def _hear(self, heard: Heard, session: ProviderSession) -> None:
        now_ms = self._now_ms()
        finals = session.finals
        if finals.knows(heard):
            last_index = self._segmenter.next_index - 1
            corrected = finals.correct(heard, last_index=last_index, now_ms=now_ms)
            if corrected is not None:
                self._put_out([corrected], finals)
            return
        if heard.is_final:
            covered = heard.end_ms if heard.covered_ms is None else heard.covered_ms
            received_at = self._received_at(covered)
        else:
            received_at = self._times.latest_ms
        events, self._segmenter = self._segmenter.hear(
            heard, session.context, audio_received_at=received_at, now_ms=now_ms
        )
        self._put_out(events, finals)

    def _take_translation(self, translated: Translated, session: ProviderSession) -> None:
        translation = session.finals.translate(translated)
        if translation is None:
            # Never a wrong pair: better none (providers.md, case 4).
            logger.warning(
                "a translation of a final that is not known, or was corrected, was dropped",
                extra={"stream_id": self._stream_id},
            )
            return
        self._put_in_outbox(translation, session.finals)

    def _put_out(self, events: list[SegmentEvent], finals: SessionFinals) -> None:
        for event in events:
            if isinstance(event, SegmentPartial):
                self._live.show_partial(event)
            else:
                self._live.drop_partial()
                if isinstance(event, SegmentFinal):
                    finals.add(event)
                self._put_in_outbox(event, finals)

    def _answer_flushes(self, session: ProviderSession, *, n_max: int) -> None:
        """Say, behind the finals put out so far, that the oldest flushes have been answered."""
        # Some providers report `Flushed` for a finish as well: then there may be none.
        flushes = session.flushes
        for _ in range(min(n_max, len(flushes))):
            number, position = flushes.popleft()
            self._put_in_outbox(
                StreamFlushed(
                    stream_id=self._stream_id,
                    tenant=self._tenant,
                    epoch=self._epoch,
                    chunk=number,
                    at_ms=position * 1000 // self._rate_hz,
                ),
                session.finals,
            )

    def _put_in_outbox(self, event: LoggedEvent, finals: SessionFinals) -> None:
        self._outbox.append((event, finals))
        self._wake()

    def _received_at(self, position_ms: int) -> int:
        return self._times.look_up(position_ms * self._rate_hz // 1000)

    # --- the stream's task ---------------------------------------------------------------------

    async def store_next(self) -> None:
        """Store the oldest event that waits; it stays until it is stored.

        Raises:
            StaleGuardError: the stream has another owner.
        """
        await self._store(*self._outbox[0])
        self._outbox.popleft()

    async def lose(
        self, from_sample: int, to_sample: int, session: SegmentContext, *, reason: str
    ) -> None:
        """Store that nobody will transcribe these samples (`to_sample` exclusive).

        Raises:
            StaleGuardError: the stream has another owner.
        """
        # What is covered is not lost, also where a sample lies within a covered millisecond.
        from_ms = max(from_sample * 1000 // self._rate_hz, self._segmenter.covered_ms)
        to_ms = to_sample * 1000 // self._rate_hz
        if to_ms > from_ms:
            events, self._segmenter = self._segmenter.lose(
                from_ms, to_ms, session, reason=reason, now_ms=self._now_ms()
            )
            await self._store_all(events)

    async def close(self, session: SegmentContext, *, reason: str, position: int) -> None:
        """Store the stream's last event.

        Args:
            session: of what is still open.
            reason: why it ends.
            position: samples of the whole stream.

        Raises:
            StaleGuardError: the stream has another owner.
        """
        events, self._segmenter = self._segmenter.retract(session)
        await self._store_all(events)
        closed = StreamClosed(
            stream_id=self._stream_id,
            tenant=self._tenant,
            epoch=self._epoch,
            reason=reason,
            audio_ms=position * 1000 // self._rate_hz,
            finals=self._segmenter.finals,
            gap_ms=self._segmenter.gap_ms,
        )
        await self._log.write(closed)

    async def _store_all(self, events: list[SegmentEvent]) -> None:
        for event in events:
            assert not isinstance(event, SegmentPartial)
            await self._store(event, SessionFinals())

    async def _store(self, event: LoggedEvent, finals: SessionFinals) -> None:
        """Store an event; one that the store will never take becomes a gap, not a crash loop."""
        if isinstance(event, TranslationFinal):
            completed = finals.complete(event)
            if completed is None:
                return  # of a final that was refused, which a gap or the text before it stands for
            event = completed
        try:
            sequence = await self._log.write(event, parent=finals.traceparent)
        except StaleGuardError:
            raise
        except PublishRefusedError as error:
            logger.exception(
                "an event was refused", extra={"stream_id": self._stream_id, "code": error.err_code}
            )
            if isinstance(event, SegmentFinal) and not finals.forget(event):
                gap, self._segmenter = self._segmenter.disown(event)
                await self._log.write(gap)
        else:
            if isinstance(event, SegmentFinal):
                finals.note_stored(event, sequence)
                self.owed.add(event, sequence)
