"""Which provider a stream's next session is opened at, and how long to wait before it. Pure."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from speechbus_transcriber.providers.interface import (
    ProviderError,
    ProviderRateLimitedError,
    ProviderRejectedError,
)

__all__ = ["Route"]

BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
RATE_LIMITED_MIN_S: Final = 1.0
RATE_LIMITED_MAX_S: Final = 16.0
"""Waits for a provider that has no room: from one to the other, doubling (providers.md, case 11).
Palabra's session of a broken connection may stay active for some 30 to 60 s."""
RETRY_AFTER_MAX_S: Final = 60.0
"""Longest wait that a provider may ask for: less than AUDIO retains."""
FAILURES_MAX: Final = 3
"""Failures in a row of one provider before the next of the route is tried."""
STEADY_S: Final = 10.0
"""A session that lived this long after its first result clears its provider's failures."""


class Route:
    """The providers of one stream, in the order to try.

    Args:
        names: from `plan_route`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = deque(names)
        self._heard_at_s: float | None = None
        self._n_limited = 0
        self.failures = 0
        """Failed sessions in a row at the current provider."""

    @property
    def current(self) -> str | None:
        """Where to open the next session; None: every provider has refused the stream."""
        return self._names[0] if self._names else None

    def open(self) -> None:
        """A session is opened at the current provider."""
        self._heard_at_s = None

    def hear(self, *, now_s: float) -> None:
        """The session has answered; waiting for a silent one proves nothing."""
        if self._heard_at_s is None:
            self._heard_at_s = now_s
            self._n_limited = 0

    def fail(self, error: ProviderError, *, now_s: float) -> float:
        """The session has failed: choose who is next.

        Returns:
            Seconds to wait before the next session, at most; to be shortened by chance.
        """
        if isinstance(error, ProviderRejectedError):
            self._names.popleft()
            self.failures = 0
            return 0.0
        if isinstance(error, ProviderRateLimitedError):
            return self._step_aside(error)
        if self._heard_at_s is not None and now_s - self._heard_at_s > STEADY_S:
            self.failures = 0
        self.failures += 1
        backoff_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 4.0**self.failures)
        if self.failures >= FAILURES_MAX and len(self._names) > 1:
            self._names.rotate(-1)
            self.failures = 0
        return backoff_s

    def _step_aside(self, error: ProviderRateLimitedError) -> float:
        """No room is nobody's failure: the next provider at once, or wait where there is none."""
        if len(self._names) > 1:
            self._names.rotate(-1)
            self.failures = 0
            self._n_limited += 1
            # Every provider of the route has said so: going round faster does not help.
            return 0.0 if self._n_limited % len(self._names) else RATE_LIMITED_MIN_S
        backoff_s = min(RATE_LIMITED_MAX_S, RATE_LIMITED_MIN_S * 2.0**self._n_limited)
        self._n_limited += 1
        wanted_s = backoff_s if error.retry_after_s is None else error.retry_after_s
        return min(RETRY_AFTER_MAX_S, wanted_s)
