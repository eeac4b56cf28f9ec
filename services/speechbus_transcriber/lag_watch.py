"""How far a stream is behind, and when that is worth a word. Pure."""

from typing import Final

import msgspec

__all__ = ["Lag", "LagWatch"]

BEHIND_S: Final = 3.0
"""Audio waiting for longer than this is worth a warning: a new session alone takes a second."""
CAUGHT_UP_S: Final = 1.0
"""Below this the warning is over; a chunk or two always wait."""


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """What of a stream's audio is not done, in seconds of audio."""

    uncovered_s: float
    """Received, and not yet in finals or gaps or known to hold no speech."""
    waiting_s: float
    """Received, and not yet given to a provider: so much later than usual is what it says."""
    is_behind: bool
    """From `BEHIND_S` of waiting on, until less than `CAUGHT_UP_S` waits."""


class LagWatch:
    """Watches one stream.

    Args:
        sample_rate_hz: of the stream.
    """

    def __init__(self, *, sample_rate_hz: int) -> None:
        self._rate_hz = sample_rate_hz
        self._received = 0
        self._is_behind = False

    @property
    def is_behind(self) -> bool:
        """As the last look found it."""
        return self._is_behind

    def look(self, *, received: int, given: int, covered: int) -> Lag:
        """Return the lag; all positions in samples of the stream.

        Args:
            received: the end of what is known to be there; may go back when it is read again.
            given: to a provider.
            covered: needs no transcribing any more.
        """
        self._received = max(self._received, received)
        waiting_s = (self._received - given) / self._rate_hz
        self._is_behind = waiting_s >= (CAUGHT_UP_S if self._is_behind else BEHIND_S)
        return Lag(
            uncovered_s=(self._received - covered) / self._rate_hz,
            waiting_s=waiting_s,
            is_behind=self._is_behind,
        )
