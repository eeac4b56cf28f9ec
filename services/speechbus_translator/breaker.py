"""When an engine that fails is asked again. Pure."""

from typing import Final

__all__ = ["Breaker"]

FAILURES_MAX: Final = 3
"""In a row; then the engine is left alone."""
PAUSE_MIN_S: Final = 0.5
PAUSE_MAX_S: Final = 8.0
"""Pauses double from one to the other; after each, one text may try."""
RETRY_AFTER_MAX_S: Final = 30.0
"""Longest pause that an engine may ask for: half of what a final is tried for."""


class Breaker:
    """One engine's failures: they are its budget of retries, for all texts together."""

    def __init__(self) -> None:
        self._failures = 0
        self._closed_until_s = 0.0
        self._is_probing = False

    def wait_s(self, *, now_s: float) -> float:
        """Return how long the engine is left alone; 0: a text may try it."""
        if self._is_probing:
            return PAUSE_MIN_S
        return max(0.0, self._closed_until_s - now_s)

    def begin(self) -> None:
        """A text tries it."""
        self._is_probing = self._failures >= FAILURES_MAX

    def succeed(self) -> None:
        """It has answered."""
        self._failures = 0
        self._is_probing = False

    def give_up(self) -> None:
        """The text was called back; that says nothing."""
        self._is_probing = False

    def fail(self, *, now_s: float, retry_after_s: float | None = None) -> None:
        """It has not answered.

        Args:
            now_s: the caller's clock.
            retry_after_s: what it asked for.
        """
        self._is_probing = False
        self._failures += 1
        pause_s = 0.0
        if self._failures >= FAILURES_MAX:
            doublings = min(self._failures - FAILURES_MAX, 10)
            pause_s = min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0**doublings)
        if retry_after_s is not None:
            pause_s = max(pause_s, min(RETRY_AFTER_MAX_S, retry_after_s))
        self._closed_until_s = max(self._closed_until_s, now_s + pause_s)
