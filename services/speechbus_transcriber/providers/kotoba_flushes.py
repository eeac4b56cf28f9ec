"""When a flush at Kotoba is answered. Pure.

`commit` would end the session, so a flush is silence behind the audio, and its answer is that the
server has ended the turn, or has heard all audio before it, or has had time enough.
"""

from collections import deque
from typing import Final

import msgspec

from speechbus_transcriber.providers.interface import Flushed, Result
from speechbus_transcriber.providers.kotoba_failures import unavailable
from speechbus_transcriber.providers.kotoba_hearing import KotobaHearing

__all__ = ["KotobaFlushes"]

SETTLE_S: Final = 2.0
"""Silence in which an unfinished turn would have ended, and text would have come."""
TIMEOUT_S: Final = 10.0
FLUSHES_MAX: Final = 64
"""Waiting for their answer, as many as the stream remembers; one more pushes out the oldest, there
and here."""


class _Flush(msgspec.Struct, kw_only=True):
    given_ms: int
    asked_at_s: float
    due_at_s: float
    """When to look at it next."""


class KotobaFlushes:
    """The flushes of one session that are not answered.

    Args:
        hearing: what was heard in the session.
    """

    def __init__(self, hearing: KotobaHearing) -> None:
        self._hearing = hearing
        self._flushes: deque[_Flush] = deque(maxlen=FLUSHES_MAX)

    @property
    def is_any_open(self) -> bool:
        """Whether an answer is missing."""
        return bool(self._flushes)

    @property
    def due_at_s(self) -> float | None:
        """When to check them even if nothing comes."""
        return self._flushes[0].due_at_s if self._flushes else None

    def ask(self, given_ms: int, *, now_s: float) -> None:
        """Audio up to there is to be made final."""
        self._flushes.append(_Flush(given_ms=given_ms, asked_at_s=now_s, due_at_s=now_s + SETTLE_S))

    def restart(self, *, now_s: float) -> None:
        """What is before them is sent only now."""
        for flush in self._flushes:
            flush.asked_at_s, flush.due_at_s = now_s, now_s + SETTLE_S

    def check(self, *, now_s: float, heard_at_s: float) -> list[Result]:
        """Answer those whose audio is all heard; turns that nobody ends are ended for it.

        Args:
            now_s: the driver's clock.
            heard_at_s: when the server last spoke.

        Raises:
            ProviderUnavailableError: it is silent: the audio must be heard again.
        """
        results: list[Result] = []
        while self._flushes:
            flush, turns = self._flushes[0], self._hearing.turns
            is_settled = now_s >= flush.asked_at_s + SETTLE_S
            is_overdue = now_s >= flush.asked_at_s + TIMEOUT_S
            has_spoken = heard_at_s >= flush.asked_at_s
            is_heard = self._hearing.has_heard(flush.given_ms)
            if is_overdue and not has_spoken:
                raise unavailable("flush_unanswered")
            # The server has had its time to end the turn: what it says of the rest comes behind.
            if is_overdue or (is_settled and (is_heard or not self._hearing.ends_turns)):
                results += turns.end_all()
            if is_settled:
                flush.due_at_s = flush.asked_at_s + TIMEOUT_S
            is_silent = is_settled and (has_spoken or not self._hearing.tells_silence)
            if turns.is_any_open or not (is_heard or is_silent):
                break
            self._flushes.popleft()
            results.append(Flushed())
        return results

    def answer_all(self) -> list[Result]:
        """All audio is transcribed, and everything final: the session is over."""
        return [Flushed() for _ in self._flushes]
