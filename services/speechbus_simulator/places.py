"""How many sessions may be open at once, and who is refused. Pure."""

import math
from typing import Final

__all__ = ["Places"]

PLACES_MAX: Final = 10_000
"""Ten times the connections that a simulator takes; those that linger beyond are forgotten."""


class Places:
    """Who has a session.

    Args:
        total_max: sessions at once; 0: no limit.
        per_identity_max: the same for one identity.
        linger_s: how long a place stays taken after an unclean end.
    """

    def __init__(self, *, total_max: int, per_identity_max: int, linger_s: float) -> None:
        self._total_max = total_max
        self._per_identity_max = per_identity_max
        self._linger_s = linger_s
        self._taken: dict[int, tuple[str, float]] = {}

    def take(self, session: int, identity: str, *, now_s: float) -> bool:
        """Take a place; False: there is none.

        Args:
            session: its number.
            identity: whose place it is.
            now_s: on a clock that never goes back.
        """
        self._taken = {n: place for n, place in self._taken.items() if place[1] > now_s}
        n_own = sum(owner == identity for owner, _ in self._taken.values())
        if (self._total_max and len(self._taken) >= self._total_max) or (
            self._per_identity_max and n_own >= self._per_identity_max
        ):
            return False
        self._taken[session] = identity, math.inf
        return True

    def leave(self, session: int, *, is_clean: bool, now_s: float) -> None:
        """Give a place back: at once, or after a while if the end was not clean."""
        identity, _ = self._taken.pop(session)
        if self._linger_s and not is_clean and len(self._taken) < PLACES_MAX:
            self._taken[session] = identity, now_s + self._linger_s
