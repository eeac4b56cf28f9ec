"""How fast a tenant may open streams and send audio. Pure."""

from collections.abc import Callable
from typing import Final

__all__ = ["Bucket", "Quotas"]

MINUTE_S: Final = 60.0


class Bucket:
    """So much per second, and what was left unused for a while at once (a token bucket).

    Args:
        per_s: how fast it fills.
        size: what fits in; it is full at first.
        now_s: a clock.
    """

    def __init__(self, per_s: float, size: float, now_s: Callable[[], float]) -> None:
        self._per_s = per_s
        self._size = size
        self._now_s = now_s
        self._left = size
        self._seen_at_s = now_s()

    def take(self, amount: float) -> float:
        """Take something out; return after how many seconds nothing will be owed any more."""
        self._fill()
        self._left -= amount
        return max(0.0, -self._left / self._per_s)

    def wait_for(self, amount: float) -> float:
        """Return after how many seconds so much can be taken; 0: now.

        What is larger than the bucket can be taken when it is full, and is owed then.
        """
        self._fill()
        return max(0.0, (min(amount, self._size) - self._left) / self._per_s)

    def _fill(self) -> None:
        now_s = self._now_s()
        self._left = min(self._size, self._left + (now_s - self._seen_at_s) * self._per_s)
        self._seen_at_s = now_s


class Quotas:
    """The buckets of all tenants; there are only as many as have keys.

    Args:
        streams_per_minute: of a tenant.
        bytes_per_s: of a tenant, all its streams together; None: as its sockets are read.
        now_s: a clock.
    """

    def __init__(
        self, *, streams_per_minute: int, bytes_per_s: int | None, now_s: Callable[[], float]
    ) -> None:
        self._streams_per_minute = streams_per_minute
        self._bytes_per_s = bytes_per_s
        self._now_s = now_s
        self._openings: dict[str, Bucket] = {}
        self._audio: dict[str, Bucket] = {}

    def openings(self, tenant: str) -> Bucket:
        """New streams: a minute's worth may be opened at once."""
        size = self._streams_per_minute
        return self._openings.setdefault(tenant, Bucket(size / MINUTE_S, size, self._now_s))

    def audio(self, tenant: str) -> Bucket | None:
        """Bytes as clients send them: a second's worth may come at once; None: no limit."""
        size = self._bytes_per_s
        if size is None:
            return None
        return self._audio.setdefault(tenant, Bucket(size, size, self._now_s))
