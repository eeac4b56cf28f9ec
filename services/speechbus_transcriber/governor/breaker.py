"""Whether a provider is dead, from what this worker saw and what the pool says. Pure.

Closed: sessions are opened there. Open: nobody opens one who can go elsewhere, and after a pause
one worker of the pool tries a handshake.
"""

from typing import Final

import msgspec

__all__ = ["PROBE_S", "Breaker", "BreakerRecord"]

FAILURES_MAX: Final = 3
"""Sessions in a row that came to nothing, of all streams of a worker."""
STREAMS_MIN: Final = 2
"""Of so many streams, unless the connection itself failed: one stream's audio may be poison."""
EVIDENCE_S: Final = 30.0
"""Older failures say nothing about now."""
PAUSE_MIN_S: Final = 0.25
PAUSE_MAX_S: Final = 3.0
PAUSE_GROWTH: Final = 1.25
"""Between two handshakes: from the least to the most. Streams catch up with what they have waited
for too long, and one handshake of the whole pool in some seconds is no load."""
RELAPSE_S: Final = 60.0
"""Dead again so soon after a good handshake: the pause goes on growing."""
PROBE_S: Final = 15.0
"""What a handshake may take; then its worker has died over it, and another one may try."""


class BreakerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The pool's last word on a provider."""

    is_open: bool
    n_pauses: int = 0
    """Since it was last well for a while."""
    wait_ms: int = 0
    """Until somebody may try it; while one does, until another may."""
    written_at: int = 0
    """ms since 1970, on its worker's clock."""


class Breaker:
    """One provider at one address, as this worker knows it."""

    def __init__(self) -> None:
        self.record = BreakerRecord(is_open=False)
        self.probe_at_s = 0.0
        """When somebody may try it."""
        self._closed_at_s: float | None = None
        self._failures: list[tuple[float, str, bool]] = []

    @property
    def is_open(self) -> bool:
        """Whether the provider is taken for dead."""
        return self.record.is_open

    def is_probe_due(self, *, now_s: float) -> bool:
        """Whether somebody should try a handshake."""
        return self.is_open and now_s >= self.probe_at_s

    def fail(self, stream_id: str, *, is_handshake: bool, now_s: float) -> bool:
        """A session came to nothing; return whether the provider is dead, which is news.

        Args:
            stream_id: whose.
            is_handshake: it failed before any audio was sent.
            now_s: the caller's clock.
        """
        if self.is_open:
            return False
        fresh = [one for one in self._failures if now_s - one[0] < EVIDENCE_S]
        self._failures = [*fresh[-FAILURES_MAX * STREAMS_MIN :], (now_s, stream_id, is_handshake)]
        n_handshakes = sum(was_handshake for _, _, was_handshake in self._failures)
        n_streams = len({stream for _, stream, _ in self._failures})
        return n_handshakes >= FAILURES_MAX or (
            len(self._failures) >= FAILURES_MAX and n_streams >= STREAMS_MIN
        )

    def succeed(self) -> None:
        """A session works: the failures before it were somebody's own."""
        self._failures.clear()

    def next_pause(self, *, now_s: float) -> tuple[int, float]:
        """Return the number and the length, in seconds, of the pause before the next handshake."""
        n_pauses = self.record.n_pauses
        if self._closed_at_s is not None and now_s - self._closed_at_s > RELAPSE_S:
            n_pauses = 0
        return n_pauses + 1, min(PAUSE_MAX_S, PAUSE_MIN_S * PAUSE_GROWTH ** min(n_pauses, 20))

    def take(self, record: BreakerRecord, *, age_s: float, now_s: float) -> None:
        """Take the pool's word.

        Args:
            record: as it was written.
            age_s: since then, at least.
            now_s: the caller's clock.
        """
        if not record.is_open:
            self._closed_at_s = now_s - age_s
        self._failures.clear()
        self.record = record
        self.probe_at_s = now_s + max(0.0, record.wait_ms / 1000 - max(0.0, age_s))
