"""One session of a stream at a provider: its connection, its audio, and what is said about that."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from speechbus_contracts import StreamOpened
from speechbus_transcriber.audio_feed import AudioFeed
from speechbus_transcriber.driver import Connections, SessionDriver
from speechbus_transcriber.governor.governor import Governor
from speechbus_transcriber.governor.seats import Lease
from speechbus_transcriber.providers.interface import (
    Capabilities,
    Heard,
    ProviderError,
    ProviderRateLimitedError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
)
from speechbus_transcriber.route import Route
from speechbus_transcriber.segmenter import SegmentContext
from speechbus_transcriber.session_finals import SessionFinals
from speechbus_transcriber.session_record import SessionRecord
from speechbus_transcriber.session_timeline import SessionTimeline

__all__ = ["ProviderSession", "SessionOwner"]

FLUSHES_MAX: Final = 64
"""Flushes of one session waiting for their answer; a client asks a few times a minute."""
HELD_MAX: Final = 1_024
"""Results that wait for the last words of the session before; they wait some seconds."""


class SessionOwner(Protocol):
    """What a session tells; called in plain calls, like the driver's callbacks."""

    def take_results(self, session: "ProviderSession", results: list[Result]) -> None:
        """Take what a session that `is_speaking` has said; never an empty list."""
        ...

    def note_failure(self, session: "ProviderSession", error: ProviderError) -> None:
        """The session has ended before its time; nothing follows."""
        ...

    def make_room(self) -> None:
        """A session takes audio again."""
        ...


class ProviderSession:
    """A session from before its connection stands until it is closed.

    Args:
        opened: the stream, in the language of this session.
        context: of what it says.
        capabilities: of the provider of `context`.
        lease: the right to the session; given back when the session has ended.
        route: that the provider was taken from.
        governor: that the lease was taken from.
        connections: how to reach the provider.
        owner: hears of it.
        record: tells others of it.
        now_s: the loop's clock.
    """

    def __init__(
        self,
        opened: StreamOpened,
        context: SegmentContext,
        capabilities: Capabilities,
        lease: Lease,
        route: Route,
        governor: Governor,
        connections: Connections,
        owner: SessionOwner,
        record: SessionRecord,
        *,
        now_s: Callable[[], float],
    ) -> None:
        rate_hz = opened.sample_rate_hz
        rates_hz = capabilities.sample_rates_hz
        # Resampled only where it must be: every sample that a provider gets is then the client's.
        takes_rate = rates_hz is None or rate_hz in rates_hz
        provider_rate_hz = rate_hz if takes_rate or rates_hz is None else rates_hz[0]
        self.context = context
        self.route = route
        self.lease = lease
        self.limit_s = capabilities.session_limit_s
        self.finals = SessionFinals()
        self.flushes: deque[tuple[int, int]] = deque(maxlen=FLUSHES_MAX)
        """Chunk number and stream position of each flush the provider has not answered yet. One
        beyond the limit pushes out the oldest, whose asker waits in vain, for a limited time."""
        self.is_speaking = False
        """Whether its results go to the owner as they come; else they are held."""
        self.is_finished = False
        """Whether everything that it was given has been answered."""
        self.is_end_sure = True
        """Whether that is beyond doubt."""
        self.failure: ProviderError | None = None
        """Why it ended before its time."""
        self.opened_at_s = now_s()
        """When its connection stood, on the loop's clock."""
        self.start_sample = 0
        """Samples of the stream before its first."""
        self.end_sample: int | None = None
        """Samples of the stream before those of the next session; None: it is given more."""
        self._owner = owner
        self._record = record
        self._governor = governor
        self._now_s = now_s
        self._rate_hz = rate_hz
        self._turn_pause_ms = capabilities.turn_pause_ms if opened.skips_silence else None
        self._held: deque[Result] = deque()
        self.driver = SessionDriver(
            lease.account.open_protocol(
                SessionRequest(
                    sample_rate_hz=provider_rate_hz,
                    language=opened.language,
                    target_languages=opened.target_languages,
                    has_filler_filter=opened.has_filler_filter,
                    keywords=opened.keywords,
                )
            ),
            connections,
            sample_rate_hz=rate_hz,
            provider_rate_hz=provider_rate_hz,
            pace=capabilities.pace,
            deaf_after_s=route.stretch(capabilities.deaf_after_s),
            on_results=self._take,
            on_failed=self._fail,
            on_room=owner.make_room,
            on_gone=partial(governor.release, lease),
        )
        lease.on_lost = self._lose_slot
        self.begin(0)

    def fits(self, language: str | None) -> bool:
        """Whether it may be used for what is spoken now."""
        return self.context.language == language and self.route.takes(self.context.provider)

    def begin(self, position: int) -> None:
        """Its first sample will be the stream's after so many; nothing has been given yet."""
        self.start_sample = position
        self._held.clear()  # in the silence that kept it alive
        self.timeline = SessionTimeline(start_sample=position, sample_rate_hz=self._rate_hz)
        self.feed = AudioFeed(
            self.driver,
            self.timeline,
            sample_rate_hz=self._rate_hz,
            turn_pause_ms=self._turn_pause_ms,
        )

    async def open(self) -> None:
        """Connect.

        Raises:
            ProviderError: by the provider's answer; `failure` is the same.
        """
        with self._record.opening():
            self.finals.traceparent = self._record.traceparent
            if self.lease.is_lost:  # before this session was there to be told
                self.failure = ProviderRateLimitedError("slot_lost", provider=self.context.provider)
                raise self.failure
            try:
                await self.driver.open()
            except ProviderError as error:
                if self.failure is None:  # else its slot was lost meanwhile, which is why it ended
                    self.failure = error
            if self.failure is not None:  # it may also have been accepted, and ended at once
                raise self.failure
        self._governor.open(self.lease)
        self.opened_at_s = self._now_s()

    def speak(self) -> list[Result]:
        """Its results count from now on; return those that were held."""
        self.is_speaking = True
        held, self._held = list(self._held), deque()
        return held

    def finish(self, position: int) -> None:
        """Ask for its last finals: what lies behind this position is another session's."""
        self.end_sample = position
        self.feed.finish()

    def close(self) -> None:
        """End it at once; nothing is heard of it any more."""
        self.driver.close()
        self._record.end(self.failure)

    def _take(self, results: list[Result]) -> None:
        self._governor.hear(self.lease)
        if self.is_speaking:
            self._owner.take_results(self, results)
            return
        held = self._held
        for result in results:
            if held and isinstance(result, Heard) and _is_replaced(held[-1], result):
                held.pop()
            held.append(result)
        if len(held) > HELD_MAX:
            held.clear()
            self.driver.close()
            self._fail(ProviderUnavailableError("held_too_long", provider=self.context.provider))

    def _lose_slot(self) -> None:
        """The pool has given the session's slot to another worker: end it at once."""
        self.driver.close()
        self._fail(ProviderRateLimitedError("slot_lost", provider=self.context.provider))

    def _fail(self, error: ProviderError) -> None:
        self.failure = error
        self._owner.note_failure(self, error)


def _is_replaced(held: Result, by: Heard) -> bool:
    """Whether nobody will miss what was said before."""
    return (
        isinstance(held, Heard)
        and not held.is_final
        and held.provider_transcription_id == by.provider_transcription_id
    )
