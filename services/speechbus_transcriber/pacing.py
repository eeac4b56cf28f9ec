"""Holds audio to the pace that a provider takes. Pure."""

from typing import Final

from speechbus_transcriber.providers.interface import Pace

__all__ = ["Pacer"]

LONGEST_CHUNK_MS: Final = 340
"""Kept free of the lead: a chunk is let through whole while any room is left (chunks have 320 ms
at most, the setting's limit, and a rest of 20 ms may join one), and the provider's lead must hold
all the same."""


class Pacer:
    """How much audio a provider takes now.

    A bucket that real time fills up to the provider's lead. In all, never more is spent than
    `rate` times the time since the start, plus `lead_ms`.

    Args:
        pace: the provider's.
        now_s: when the session's first audio may go, on the caller's clock.
    """

    def __init__(self, pace: Pace, *, now_s: float) -> None:
        self._ms_per_s = pace.rate * 1000
        self._room_ms_max = max(float(pace.lead_ms - LONGEST_CHUNK_MS), 1.0)
        self._room_ms = self._room_ms_max
        self._at_s = now_s

    def spend(self, ms: float, *, now_s: float) -> None:
        """Audio of this length is sent."""
        self._fill(now_s)
        self._room_ms -= ms

    def wait_s(self, *, now_s: float) -> float:
        """Return after how long the next chunk may go; 0: now."""
        self._fill(now_s)
        return max(0.0, -self._room_ms / self._ms_per_s)

    def _fill(self, now_s: float) -> None:
        self._room_ms = min(
            self._room_ms_max, self._room_ms + (now_s - self._at_s) * self._ms_per_s
        )
        self._at_s = now_s
