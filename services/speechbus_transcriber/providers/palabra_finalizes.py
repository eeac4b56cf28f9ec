"""What was asked of Palabra by `finalize`, and which question a `<fin>` answers. Pure."""

from collections import deque
from typing import Final, Literal

import msgspec

__all__ = ["Asked", "PalabraFinalizes", "Purpose"]

LATE_MAX: Final = 256
"""Markers that did not come in time and still may; one is asked for in each turn."""

Purpose = Literal["flush", "finish", "probe"]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A finalize without its answer."""

    purpose: Purpose
    given_ms: int
    """Audio of the stream sent before it."""
    n_heard: int
    """Messages received before it."""
    deadline_s: float


class PalabraFinalizes:
    """The finalizes of one session, answered in the order in which they were sent."""

    def __init__(self) -> None:
        self._asked: deque[Asked] = deque()
        self._late: deque[Asked] = deque(maxlen=LATE_MAX)
        self._n_heard = 0
        self._is_known: bool | None = None  # whether the server has `finalize`; None: nobody asked

    @property
    def deadline_s(self) -> float | None:
        """When the oldest one is overdue."""
        return self._asked[0].deadline_s if self._asked else None

    @property
    def is_known(self) -> bool:
        """Whether the server has answered one."""
        return self._is_known is True

    @property
    def may_probe(self) -> bool:
        """Whether one of our own would tell anything new."""
        return not self._asked and self._is_known is not False

    def ask(self, purpose: Purpose, *, given_ms: int, deadline_s: float) -> None:
        """One is sent."""
        asked = Asked(
            purpose=purpose, given_ms=given_ms, n_heard=self._n_heard, deadline_s=deadline_s
        )
        self._asked.append(asked)

    def hear(self) -> None:
        """A message about speech has come."""
        self._n_heard += 1

    def hear_words(self, start_ms: int) -> None:
        """Words that begin at or behind the place of a late marker: it does not come any more."""
        while self._late and self._late[0].given_ms <= start_ms:
            self._late.popleft()

    def take_marker(self) -> tuple[Asked, bool] | None:
        """Return what the marker answers, the oldest without an answer; and whether it is late.

        None: nothing; it came by itself (`finalization_mode=auto`).
        """
        if not self._late and not self._asked:
            return None
        self._is_known = True
        is_late = bool(self._late)
        return (self._late if is_late else self._asked).popleft(), is_late

    def give_up(self, *, is_any_open: bool) -> Asked | None:
        """The oldest one is overdue: return it. Its marker may still come.

        Args:
            is_any_open: whether a segment waits for its final.

        Returns:
            None when nothing at all has come since, and something should have: the session is dead.
        """
        asked = self._asked[0]
        if self._n_heard == asked.n_heard and not self._may_be_quiet(
            asked, is_any_open=is_any_open
        ):
            return None
        if self._is_known is None:
            self._is_known = False
        self._late.append(asked)
        return self._asked.popleft()

    def _may_be_quiet(self, asked: Asked, *, is_any_open: bool) -> bool:
        """Whether a server without `finalize` (the seed has none) would say nothing, either.

        It would when nobody speaks and all it has begun is final. But a session that never spoke
        may always have been deaf: it answers no question of the client's by its silence.
        """
        has_spoken = self._n_heard > 0
        return not self._is_known and not is_any_open and (has_spoken or asked.purpose == "probe")
