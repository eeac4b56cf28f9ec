"""The sessions of a stream, one after the other: who hears its audio, and whose results count.

Usually one session does both. While one follows another there are two: the new one hears the audio
behind the change, and what it says waits until the old one has said its last words.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from speechbus_transcriber.governor.governor import Governor
from speechbus_transcriber.governor.seats import Lease, Ticket
from speechbus_transcriber.measures import Measures
from speechbus_transcriber.provider_session import ProviderSession
from speechbus_transcriber.providers.interface import (
    Finished,
    ProviderError,
    ProviderRateLimitedError,
    ProviderUnavailableError,
    Result,
)
from speechbus_transcriber.rollover import Rollover
from speechbus_transcriber.session_builder import ProvidersExhaustedError, SessionBuilder
from speechbus_transcriber.stream_output import StreamOutput

__all__ = ["Succession"]

logger = logging.getLogger(__name__)

LAST_WORDS_S_MAX: Final = 20.0
"""For the last words of a session that another one follows: what that one says waits for them.
Palabra's adapter needs 15 s at most."""


class Succession:
    """All sessions that one worker runs for one stream.

    Args:
        builder: makes them.
        output: gets what they say.
        stream_id: of the stream.
        sample_rate_hz: of the stream.
        read: called when audio may go on, or must not, or a change of sessions is due.
        wake: called when the stream's task has something to do.
        measures: of the worker.
        governor: of the worker.
    """

    def __init__(
        self,
        builder: SessionBuilder,
        output: StreamOutput,
        *,
        stream_id: str,
        sample_rate_hz: int,
        read: Callable[[], None],
        wake: Callable[[], None],
        measures: Measures,
        governor: Governor,
    ) -> None:
        self.speaker: ProviderSession | None = None
        """Whose results count."""
        self.listener: ProviderSession | None = None
        """Who gets the audio; None: it waits for a session that is being opened."""
        self.is_turn_due = False
        """Whether the listener shall be followed by the successor that waits, wherever this is."""
        self.tasks = asyncio.TaskGroup()
        """Runs what opens a session beside the one that speaks; the stream's to enter."""
        self._builder = builder
        self._output = output
        self._stream_id = stream_id
        self._rate_hz = sample_rate_hz
        self._read = read
        self._wake = wake
        self._measures = measures
        self._governor = governor
        self._loop = asyncio.get_running_loop()
        self._successor: ProviderSession | None = None
        self._ticket: Ticket | None = None
        self._opening: asyncio.Task[None] | None = None
        self.is_successor_waiting = False
        """Whether a session is open and waits to follow the listener."""
        self._rollover: Rollover | None = None
        self._rollover_timer: asyncio.TimerHandle | None = None
        self._last_words_timer: asyncio.TimerHandle | None = None

    # --- for the stream's task -----------------------------------------------------------------

    def is_followed(self, language: str | None) -> bool:
        """Whether a session for what comes is being opened, or waits: `open` takes that one."""
        return self._successor is not None and self._successor.fits(language)

    async def open(self, language: str | None, position: int, lease: Lease | None) -> None:
        """Open the session for the audio behind a position, or take the one that waits for it.

        One that has failed while it waited is taken, too: it is the `speaker` that has failed.

        Args:
            language: of the audio.
            position: samples of the stream before it.
            lease: None if it `is_followed`.

        Raises:
            ProviderError: it could not be opened; it is the `speaker` all the same.
        """
        if lease is None:
            session, opening = self._successor, self._opening
            assert session is not None
            assert opening is not None
            await asyncio.wait({opening})
            self._forget_successor()
            session.route.open(session.context.provider)
            session.begin(position)
            self.speaker = self.listener = session
        else:
            self.drop_successor()
            session = self._builder.build(language, lease, self)
            session.route.open(lease.provider)
            session.begin(position)
            self.speaker = self.listener = session
            await session.open()
            self._measures.count_opened(session.context.provider)
        self._let_speak(session)

    def close(self, *, keeps_successor: bool = False) -> None:
        """End all sessions; what waits to follow may be kept for `open`."""
        for session in (self.speaker, self.listener):
            if session is not None:
                session.close()
        self.speaker = self.listener = None
        self._stop_rollover()
        self._stop_last_words()
        if not keeps_successor:
            self.drop_successor()

    def abandon(self) -> None:
        """Another worker has the stream: end the sessions at once, also one that is being opened.

        Nothing is heard of them; `close` follows when the stream's task has noticed.
        """
        for session in (self.speaker, self.listener):
            if session is not None:
                session.close()
        self.drop_successor()

    # --- for the stream's read loop ------------------------------------------------------------

    def hear(self, pcm: memoryview) -> None:
        """Audio has gone to the listener while a successor waits; see `is_turn_due`."""
        if self._rollover is not None and self._rollover.give(pcm, now_s=self._loop.time()):
            self.is_turn_due = True

    def turn(self, position: int) -> None:
        """The listener's audio ends here; the successor gets what follows, once it is open."""
        leaving = self.listener
        assert leaving is not None
        self._stop_rollover()
        self._last_words_timer = self._loop.call_later(LAST_WORDS_S_MAX, self._end_last_words)
        self.listener = None
        if self.is_successor_waiting:
            self._let_listen(position)
        leaving.finish(position)

    def listen(self, position: int) -> None:
        """Give the audio behind a position to the successor, if nobody gets it and it is open."""
        speaker = self.speaker
        if self.listener is not None or speaker is None or not self.is_successor_waiting:
            return
        self._let_listen(position)
        if speaker.is_finished:
            self._pass_word(speaker)

    def change_language(self, language: str | None, position: int) -> None:
        """Have the listener followed by a session in another language from here on."""
        self.drop_successor()
        with suppress(ProvidersExhaustedError):  # who asks next is told, when this one has finished
            # The slot may be the one that this session gives back.
            self._open_successor(language, patience_s=LAST_WORDS_S_MAX)
        self.turn(position)

    # --- what the sessions tell ----------------------------------------------------------------

    def take_results(self, session: ProviderSession, results: list[Result]) -> None:
        """See `SessionOwner`."""
        session.route.hear(now_s=self._loop.time())
        is_finished = self._output.take(session, results)
        if self._rollover is not None:
            self._rollover.hear(results)
        if is_finished:
            end = session.end_sample
            if end is not None and not session.is_end_sure and not self._output.covers(end):
                # Has it heard nothing, or not listened? Another session tells.
                session.close()
                self._fail(session, "finalize_unanswered")
                return
            session.is_finished = True
            self._pass_word(session)

    def note_failure(self, session: ProviderSession, error: ProviderError) -> None:
        """See `SessionOwner`."""
        if session is self._successor:
            if self.is_successor_waiting:  # else its opening ends with the same error
                self._miss_successor(session, error)
        elif session.end_sample is not None and self._output.covers(session.end_sample):
            # It has said everything: only its goodbye is missing.
            self.take_results(session, [Finished()])
        else:
            self._read()  # not into a dead session
            self._wake()

    def make_room(self) -> None:
        """See `SessionOwner`."""
        self._read()

    def _pass_word(self, session: ProviderSession) -> None:
        """A session has nothing more to say: the one that hears the audio by now speaks."""
        follower = self.listener
        if follower is None or follower is session:
            self._wake()
            return
        session.close()
        self._stop_last_words()
        self.speaker = follower
        follower.route.open(follower.context.provider)
        self._let_speak(follower)
        self._wake()
        self._read()

    def _let_speak(self, session: ProviderSession) -> None:
        if session.limit_s is not None:
            self._rollover = Rollover(
                session.limit_s,
                opened_at_s=session.opened_at_s,
                chance=random.random(),  # noqa: S311 (not a secret)
                sample_rate_hz=self._rate_hz,
            )
            self._plan_rollover()
        held = session.speak()
        if held:
            self.take_results(session, held)

    # --- the successor -------------------------------------------------------------------------

    def _open_successor(
        self, language: str | None, *, patience_s: float = 0.0, at_worst: str | None = None
    ) -> None:
        granted = asyncio.Event()
        self._ticket = self._builder.ask(
            language, wake=granted.set, patience_s=patience_s, at_worst=at_worst
        )
        self._opening = self.tasks.create_task(
            self._wait_for_successor(language, self._ticket, granted),
            name=f"successor:{self._stream_id}",
        )

    async def _wait_for_successor(
        self, language: str | None, ticket: Ticket, granted: asyncio.Event
    ) -> None:
        if ticket.lease is None:
            await granted.wait()
        assert ticket.lease is not None
        session = self._successor = self._builder.build(language, ticket.lease, self)
        self._ticket = None
        try:
            await session.open()
        except ProviderError as error:
            if self.listener is not None or self.speaker is not None:
                self._miss_successor(session, error)
            session.close()
            return
        self._measures.count_opened(session.context.provider)
        self.is_successor_waiting = True
        if self._rollover is not None:
            self._rollover.note_ready(now_s=self._loop.time())
            self._plan_rollover()
        self._read()

    def _miss_successor(self, session: ProviderSession, error: ProviderError) -> None:
        """The one that was to follow cannot: the listener goes on."""
        # Before its lease goes back: the next stream must not run into the same refusal.
        self._governor.fail(session.lease, error, stream_id=self._stream_id)
        session.close()
        self._forget_successor()
        self.is_turn_due = False
        self._measures.count_failed(error)
        retry_after_s = None
        if isinstance(error, ProviderRateLimitedError):
            retry_after_s = error.retry_after_s
        logger.warning(
            "the next session could not be opened yet",
            extra={
                "stream_id": self._stream_id,
                "provider": error.provider,
                "code": error.code,
            },
        )
        if self._rollover is not None:
            self._rollover.note_failed(now_s=self._loop.time(), retry_after_s=retry_after_s)
            self._plan_rollover()

    def _let_listen(self, position: int) -> None:
        session = self._successor
        assert session is not None
        self._forget_successor()
        session.begin(position)
        self.listener = session

    def _forget_successor(self) -> None:
        self._successor = self._opening = None
        self.is_successor_waiting = False

    def drop_successor(self) -> None:
        """Nobody follows: neither who waits, nor who is being opened or wants a slot."""
        if self._opening is not None:
            self._opening.cancel()
        if self._ticket is not None:
            self._builder.withdraw(self._ticket)
            self._ticket = None
        if self._successor is not None:
            self._successor.close()
        self._forget_successor()

    # --- timers --------------------------------------------------------------------------------

    def _plan_rollover(self) -> None:
        if self._rollover_timer is not None:
            self._rollover_timer.cancel()
            self._rollover_timer = None
        if self._rollover is not None and (at_s := self._rollover.next_deadline_s()) is not None:
            self._rollover_timer = self._loop.call_at(at_s, self._roll_over)

    def _stop_rollover(self) -> None:
        self._rollover = None
        self.is_turn_due = False
        self._plan_rollover()

    def _roll_over(self) -> None:
        speaker = self.speaker
        assert self._rollover is not None
        assert speaker is not None
        match self._rollover.handle_deadline(now_s=self._loop.time()):
            case "open":
                try:
                    self._open_successor(
                        speaker.context.language, at_worst=speaker.context.provider
                    )
                except ProvidersExhaustedError:
                    return  # refused since; this session goes on to its end
            case "turn":
                self.is_turn_due = True
                self._read()
                return
            case None:
                pass
        self._plan_rollover()

    def _stop_last_words(self) -> None:
        if self._last_words_timer is not None:
            self._last_words_timer.cancel()
            self._last_words_timer = None

    def _end_last_words(self) -> None:
        self._last_words_timer = None
        speaker = self.speaker
        assert speaker is not None
        speaker.close()
        self._fail(speaker, "last_words_late")

    def _fail(self, session: ProviderSession, code: str) -> None:
        session.failure = ProviderUnavailableError(code, provider=session.context.provider)
        self.note_failure(session, session.failure)
