"""Which provider a stream's next session is opened at, and how long to wait before it. Pure."""

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from speechbus_transcriber.providers.interface import (
    ProviderError,
    ProviderRateLimitedError,
    ProviderRejectedError,
)

__all__ = ["Route"]

BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 4.0
RATE_LIMITED_MIN_S: Final = 1.0
RATE_LIMITED_MAX_S: Final = 16.0
"""Waits for a provider that has no room: from one to the other, doubling (providers.md, case 11).
Palabra's session of a broken connection may stay active for some 30 to 60 s."""
RETRY_AFTER_MAX_S: Final = 60.0
"""Longest wait that a provider may ask for: less than AUDIO retains."""
FAILURES_MAX: Final = 3
"""Failures in a row of one provider before the next of the route is tried."""
STRETCH_MAX: Final = 4
"""Doublings of a patience of some seconds: about a minute."""
STEADY_S: Final = 10.0
"""A session that lived this long after its first result clears its provider's failures."""


class _Limit(msgspec.Struct, frozen=True):
    """A provider that has no room."""

    n_refusals: int = 0
    """In a row."""
    until_s: float = 0.0
    """When to ask again."""


_NO_LIMIT: Final = _Limit()


class Route:
    """The providers of one stream, in the order to try.

    Args:
        names: from `plan_route`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = deque(names)
        self._heard_at_s: float | None = None
        self._limits: dict[str, _Limit] = {}
        self._n_stuck = 0
        """Failed sessions in a row that began in the same place: some audio may be poison to the
        provider, and then asking more often does not help."""
        self.failures = 0
        """Failed sessions in a row at the current provider."""

    @property
    def current(self) -> str | None:
        """Where to open the next session; None: every provider has refused the stream."""
        return self._names[0] if self._names else None

    def stretch(self, patience_s: float | None) -> float | None:
        """Return how long to wait for a sign of life, longer after each failure in a row.

        Noise that passes for speech, and that the provider rightly says nothing about, then ends
        fewer and fewer sessions.
        """
        return None if patience_s is None else patience_s * 2.0 ** min(self.failures, STRETCH_MAX)

    def open(self) -> None:
        """A session is opened at the current provider."""
        self._heard_at_s = None

    def hear(self, *, now_s: float) -> None:
        """The session has answered; waiting for a silent one proves nothing."""
        if self._heard_at_s is None:
            self._heard_at_s = now_s
            self._limits.pop(self._names[0], None)

    def fail(self, error: ProviderError, *, now_s: float, has_advanced: bool = False) -> float:
        """The session has failed: choose who is next.

        Args:
            error: why.
            now_s: the caller's clock.
            has_advanced: more of the stream is covered than when the session began.

        Returns:
            Seconds to wait before the next session, at least: chance may only add to it, since a
            provider may have asked for it.
        """
        name = self._names[0]
        if isinstance(error, ProviderRejectedError):
            self._names.popleft()
            return self._move_on(now_s=now_s)
        if isinstance(error, ProviderRateLimitedError):
            # No room is nobody's failure: the next provider, or a wait where none has room.
            self._limits[name] = self._limit(name, error, now_s=now_s)
            self._names.rotate(-1)
            return self._move_on(now_s=now_s)
        if has_advanced:
            # It works, if not for long: waiting would only add to the delay.
            self._n_stuck = 0
        if self._heard_at_s is not None and now_s - self._heard_at_s > STEADY_S:
            self.failures = 0
        self.failures += 1
        self._n_stuck += 1
        backoff_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 4.0**self._n_stuck)
        if self.failures >= FAILURES_MAX and len(self._names) > 1:
            self._names.rotate(-1)
            return max(backoff_s, self._move_on(now_s=now_s))
        return backoff_s

    def _limit(self, name: str, error: ProviderRateLimitedError, *, now_s: float) -> _Limit:
        n_before = self._limits.get(name, _NO_LIMIT).n_refusals
        wait_s = min(RATE_LIMITED_MAX_S, RATE_LIMITED_MIN_S * 2.0**n_before)
        if error.retry_after_s is not None:
            wait_s = error.retry_after_s
        return _Limit(n_before + 1, now_s + min(RETRY_AFTER_MAX_S, wait_s))

    def _move_on(self, *, now_s: float) -> float:
        """Go to the next provider in turn that has room, else to the first that may have it."""
        self.failures = self._n_stuck = 0
        if not self._names:
            return 0.0
        # `min` takes the first of equals: the order of the route decides.
        waits_s = {
            name: max(0.0, self._limits.get(name, _NO_LIMIT).until_s - now_s)
            for name in self._names
        }
        soonest = min(waits_s, key=lambda name: waits_s[name])
        self._names.rotate(-self._names.index(soonest))
        return waits_s[soonest]
