"""How fast new sessions are asked for where a credential has no room. Pure.

A limit is nobody's failure. After a refusal nobody asks for a while; then one session is tried,
and each that is accepted admits one more than before, as congestion control starts.
"""

import math
from typing import Final

__all__ = ["LIMITED_MAX_S", "LIMITED_MIN_S", "RETRY_AFTER_MAX_S", "Throttle"]

LIMITED_MIN_S: Final = 1.0
LIMITED_MAX_S: Final = 16.0
"""Pauses: from one to the other, doubling (providers.md, case 11). Palabra's session of a broken
connection may stay active for some 30 to 60 s."""
RETRY_AFTER_MAX_S: Final = 60.0
"""Longest pause that a provider may ask for: less than AUDIO retains."""
TRIAL_S: Final = 0.5
"""A session that was opened, and not refused within this, is accepted: some providers refuse in
words, right after they have taken the connection."""
TRIALS_MAX: Final = 64
"""So many accepted in one turn: there is no limit in sight any more."""


class Throttle:
    """Limits of one credential, as this worker has met or heard of them."""

    def __init__(self) -> None:
        self._n_refusals = 0
        self._until_s = 0.0
        self._asked_until_s = 0.0
        """The pause that the provider has asked for; a free place does not shorten that."""
        self._refused_at_s = -math.inf
        self._trials_max = math.inf
        self._trials: dict[int, float] = {}
        """Number of each session on trial, and when it counts as accepted."""

    @property
    def n_refusals(self) -> int:
        """Pauses in a row without an accepted session between."""
        return self._n_refusals

    def has_room(self, *, now_s: float) -> bool:
        """Whether another session may be asked for."""
        for number in [n for n, at_s in self._trials.items() if at_s <= now_s]:
            self.accept(number)
        return now_s >= self._until_s and len(self._trials) < self._trials_max

    def next_at_s(self, *, now_s: float) -> float | None:
        """When there may be room again; None: whenever a session on trial ends."""
        times_s = [at_s for at_s in (self._until_s, *self._trials.values()) if at_s > now_s]
        return min((at_s for at_s in times_s if at_s < math.inf), default=None)

    def begin(self, number: int) -> None:
        """A session is about to be opened."""
        if self._trials_max < math.inf:
            self._trials[number] = math.inf

    def open(self, number: int, *, now_s: float) -> None:
        """The session's connection stands."""
        if number in self._trials:
            self._trials[number] = now_s + TRIAL_S

    def accept(self, number: int) -> None:
        """The session works."""
        if self._trials.pop(number, None) is None:
            return
        self._n_refusals = 0
        self._trials_max += 1
        if self._trials_max > TRIALS_MAX:
            self._trials_max = math.inf
            self._trials.clear()

    def end(self, number: int, *, has_worked: bool, now_s: float) -> None:
        """The session is over: if it had a place at the provider, that is free now."""
        self._trials.pop(number, None)
        if has_worked:
            self._until_s = min(self._until_s, max(now_s, self._asked_until_s))

    def refuse(self, *, began_at_s: float, retry_after_s: float | None, now_s: float) -> float:
        """A session was refused for want of room.

        Args:
            began_at_s: when it was asked for; before the last refusal, it says nothing new.
            retry_after_s: what the provider asks for; None: nothing.
            now_s: the caller's clock.

        Returns:
            The pause that all workers shall make; 0: none that they do not know of.
        """
        wait_s = 0.0
        if began_at_s >= self._refused_at_s:
            wait_s = min(LIMITED_MAX_S, LIMITED_MIN_S * 2.0 ** min(self._n_refusals, 10))
            self._n_refusals += 1
        if retry_after_s is not None:
            wait_s = min(RETRY_AFTER_MAX_S, retry_after_s)
            self._asked_until_s = max(self._asked_until_s, now_s + wait_s)
        if now_s + wait_s <= self._until_s:
            return 0.0
        self._pause(wait_s, now_s=now_s)
        return wait_s

    def hear_pause(self, wait_s: float, *, n_refusals: int, is_asked: bool, now_s: float) -> None:
        """Another worker was refused; `is_asked`: the provider has named the pause."""
        if wait_s <= 0:
            return
        self._n_refusals = max(self._n_refusals, n_refusals)
        if is_asked:
            self._asked_until_s = max(self._asked_until_s, now_s + wait_s)
        self._pause(wait_s, now_s=now_s)

    def _pause(self, wait_s: float, *, now_s: float) -> None:
        self._refused_at_s = now_s
        self._trials_max = 1
        self._until_s = max(self._until_s, now_s + wait_s)
