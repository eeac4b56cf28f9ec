"""Failed authentications per address: counted in a table that cannot grow. Pure."""

from collections import OrderedDict
from typing import Final

from speechbus_ingest.gate.addresses import find_site

__all__ = ["ADDRESSES_MAX", "WINDOW_S", "AuthenticationFailures"]

WINDOW_S: Final = 60.0
ADDRESSES_MAX: Final = 10_000
"""Some 2 MB. Beyond it the address that failed least recently is forgotten."""


class AuthenticationFailures:
    """Tells which addresses have failed too often within a minute.

    Those of one IPv6 line (a /64) count as one: else each guess would come from a new one, and
    push another out of the table.

    Args:
        per_window_max: so many may fail; what comes after is refused unseen.
    """

    def __init__(self, per_window_max: int) -> None:
        self._per_window_max = per_window_max
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def count(self, address: str, *, now_s: float) -> None:
        """Note that somebody at this address was not known."""
        site = find_site(address)
        started_s, n_failed = self._windows.get(site, (now_s, 0))
        if now_s - started_s >= WINDOW_S:
            started_s, n_failed = now_s, 0
        self._windows[site] = (started_s, n_failed + 1)
        self._windows.move_to_end(site)
        if len(self._windows) > ADDRESSES_MAX:
            self._windows.popitem(last=False)

    def retry_after_s(self, address: str, *, now_s: float) -> float:
        """Return after how many seconds an address may fail again; 0: it may now."""
        window = self._windows.get(find_site(address))
        if window is None or window[1] < self._per_window_max:
            return 0.0
        return max(0.0, window[0] + WINDOW_S - now_s)
