"""Which providers a stream's next session may be opened at, and how long to wait. Pure."""

from collections.abc import Iterable
from typing import Final

from speechbus_transcriber.providers.interface import (
    ProviderError,
    ProviderRateLimitedError,
    ProviderRejectedError,
)

__all__ = ["Route"]

BACKOFF_MIN_S: Final = 0.05
"""After a first failure: what breaks once mostly stands again at once."""
BACKOFF_MAX_S: Final = 4.0
FAILURES_MAX: Final = 3
"""Failures in a row of one provider before the next of the route is tried."""
STRETCH_MAX: Final = 4
"""Doublings of a patience of some seconds: about a minute."""
STEADY_S: Final = 10.0
"""A session that lived this long after its first result clears its provider's failures."""


class Route:
    """The providers of one stream, in the order to try.

    Args:
        names: from `plan_route`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._left: list[str] = []
        """Those that failed the stream too often, in the order in which they did."""
        self._heard_at_s: float | None = None
        self._n_stuck = 0
        """Failed sessions in a row that began in the same place: some audio may be poison to the
        provider, and then asking more often does not help."""
        self.current = self._names[0] if self._names else None
        """Where the last session was opened."""
        self.failures = 0
        """Failed sessions in a row at the current provider."""

    @property
    def order(self) -> tuple[str, ...]:
        """Where the next session may be opened, the best first; empty: all have refused the stream.

        The first of the route comes first again as soon as another one got further with the
        stream, but no running session is ended for that.
        """
        return (*(name for name in self._names if name not in self._left), *self._left)

    def takes(self, name: str) -> bool:
        """Whether a session that was opened at this provider may be used."""
        return name in self._names and (name not in self._left or name == self.order[0])

    def stretch(self, patience_s: float | None) -> float | None:
        """Return how long to wait for a sign of life, longer after each failure in a row.

        Noise that passes for speech, and that the provider rightly says nothing about, then ends
        fewer and fewer sessions.
        """
        return None if patience_s is None else patience_s * 2.0 ** min(self.failures, STRETCH_MAX)

    def open(self, name: str) -> None:
        """A session is opened at a provider."""
        if name != self.current:
            self.current = name
            self.failures = self._n_stuck = 0
        self._heard_at_s = None

    def hear(self, *, now_s: float) -> None:
        """The session has answered; waiting for a silent one proves nothing."""
        if self._heard_at_s is None:
            self._heard_at_s = now_s

    def fail(self, error: ProviderError, *, now_s: float, has_advanced: bool = False) -> float:
        """The session has failed: choose who is next.

        Args:
            error: why.
            now_s: the caller's clock.
            has_advanced: more of the stream is covered than when the session began.

        Returns:
            Seconds to wait before the next session; those that this one lived are counted in: it is
            not asked more often than the waits of one that is down.
        """
        name = self.current
        assert name is not None
        if has_advanced:
            # It works, if not for long: waiting would only add to the delay. And what was poison
            # to others lies behind.
            self._n_stuck = 0
            self._left = [other for other in self._left if other == name]
        if isinstance(error, ProviderRejectedError):
            self._names.remove(name)
            self._left = [other for other in self._left if other != name]
            return 0.0
        if isinstance(error, ProviderRateLimitedError):
            return 0.0  # nobody's failure; the governor knows who has room, and when
        lived_s = 0.0 if self._heard_at_s is None else now_s - self._heard_at_s
        if lived_s > STEADY_S:
            self.failures = 0
        self.failures += 1
        self._n_stuck += 1
        backoff_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 4.0 ** min(self._n_stuck - 1, 10))
        if self.failures >= FAILURES_MAX and len(self._names) > 1:
            self._left = [*(other for other in self._left if other != name), name]
            self.failures = self._n_stuck = 0
        return max(BACKOFF_MIN_S, backoff_s - lived_s)
