"""Tells the provider's time from the stream's, where an adapter sends silence of its own. Pure."""

from bisect import bisect_right
from typing import Final

__all__ = ["SessionClock"]

INSERTIONS_MAX: Final = 4_096
"""Pauses remembered, each 16 bytes; no provider answers about audio this many pauses ago."""


class SessionClock:
    """Counts the samples of one session: those of the stream, and the silence put between them.

    Args:
        sample_rate_hz: of both.
    """

    def __init__(self, *, sample_rate_hz: int) -> None:
        self._rate_hz = sample_rate_hz
        self._given = 0
        self._inserted = 0
        # Where silence begins, in samples of the session, and all silence before and in it.
        self._starts: list[int] = []
        self._totals: list[int] = []
        self._forgotten = 0

    @property
    def given_ms(self) -> int:
        """Audio of the stream so far."""
        return self._given * 1000 // self._rate_hz

    def give(self, n_samples: int) -> None:
        """Samples of the stream are sent."""
        self._given += n_samples

    def insert(self, n_samples: int) -> None:
        """Samples of silence are sent."""
        start = self._given + self._inserted
        self._inserted += n_samples
        if self._starts and start == self._starts[-1] + self._last_length(n_samples):
            self._totals[-1] = self._inserted  # goes on with the pause before
            return
        self._starts.append(start)
        self._totals.append(self._inserted)
        if len(self._starts) > INSERTIONS_MAX:
            self._forgotten = self._totals[0]
            del self._starts[0], self._totals[0]

    def to_stream_ms(self, session_ms: int) -> int:
        """Return the stream's time for one of the provider's; inside silence: where it begins.

        Never later than the audio so far: what a final claims beyond it would never be heard.
        """
        # In samples, rounded up and then down: whole milliseconds survive at every rate, and order
        # is kept across the borders of silence, which lie inside milliseconds at some.
        sample = -(-session_ms * self._rate_hz // 1000)
        return min(self._to_stream(sample) * 1000 // self._rate_hz, self.given_ms)

    def _to_stream(self, sample: int) -> int:
        found = bisect_right(self._starts, sample) - 1
        if found < 0:
            return sample - self._forgotten
        before = self._totals[found - 1] if found else self._forgotten
        return max(self._starts[found] - before, sample - self._totals[found])

    def _last_length(self, n_new: int) -> int:
        before = self._totals[-2] if len(self._totals) > 1 else self._forgotten
        return self._inserted - n_new - before
