"""When a session's successor is opened, and where it takes over. Pure.

A provider ends sessions that have reached its limit, wherever the speaker is. So the next one is
opened before, and takes over in a pause; the limit is never reached.
"""

from collections.abc import Iterable
from typing import Final, Literal

from speechbus_transcriber.pauses import PauseFinder
from speechbus_transcriber.providers.interface import Heard, Result

__all__ = ["Rollover"]

LEAD_SHARE: Final = 0.1
"""Of the limit, before it: the successor is opened there at the latest."""
LEAD_S_MIN: Final = 5.0
"""A handshake may take seconds. Of short limits it is half."""
JITTER_SHARE: Final = 0.5
"""Of the lead: streams that began together do not roll over together."""
MARGIN_SHARE: Final = 0.25
"""Of the lead: the rest of it, for flushing the old session."""
SETTLED_S: Final = 15.0
"""The successor waits so long for a pause behind a final, then as long for any pause: it costs as
much as the session that is used."""
RETRY_MIN_S: Final = 3.0
RETRY_MAX_S: Final = 30.0
"""After a successor could not be opened: from one to the other, doubling."""


class Rollover:
    """The change from one session to the next.

    Args:
        limit_s: longest session of the provider.
        opened_at_s: when the session was opened, on the caller's clock.
        chance: 0 to 1, for this stream alone.
        sample_rate_hz: of the stream.
    """

    def __init__(
        self, limit_s: float, *, opened_at_s: float, chance: float, sample_rate_hz: int
    ) -> None:
        lead_s = max(LEAD_SHARE * limit_s, min(LEAD_S_MIN, limit_s / 2))
        ends_at_s = opened_at_s + limit_s
        self._force_at_s = ends_at_s - MARGIN_SHARE * lead_s
        self._open_at_s: float | None = ends_at_s - lead_s * (1 + JITTER_SHARE * chance)
        self._retry_s = RETRY_MIN_S
        self._rate_hz = sample_rate_hz
        self._ready_at_s: float | None = None
        self._pauses: PauseFinder | None = None
        self._is_settled = False

    def next_deadline_s(self) -> float | None:
        """When `handle_deadline` wants to be called; None: something else has to happen first."""
        if self._ready_at_s is not None:
            return min(self._force_at_s, self._ready_at_s + 2 * SETTLED_S)
        return self._open_at_s

    def handle_deadline(self, *, now_s: float) -> Literal["open", "turn"] | None:
        """Return what is due: to open the successor, or to let it take over wherever this is."""
        deadline_s = self.next_deadline_s()
        if deadline_s is None or now_s < deadline_s:
            return None
        if self._ready_at_s is not None:
            return "turn"
        self._open_at_s = None
        return "open"

    def note_ready(self, *, now_s: float) -> None:
        """The successor is open and waits."""
        self._ready_at_s = now_s
        self._pauses = PauseFinder(sample_rate_hz=self._rate_hz)
        self._is_settled = False

    def note_failed(self, *, now_s: float, retry_after_s: float | None) -> None:
        """There is no successor (any more): the session goes on, and another one is tried later."""
        self._ready_at_s = self._pauses = None
        self._open_at_s = now_s + max(self._retry_s, retry_after_s or 0.0)
        self._retry_s = min(RETRY_MAX_S, 2 * self._retry_s)

    def hear(self, results: Iterable[Result]) -> None:
        """The session has said something."""
        for result in results:
            if isinstance(result, Heard):
                self._is_settled = result.is_final

    def give(self, pcm: memoryview, *, now_s: float) -> bool:
        """Audio goes to the session, with the successor ready; return whether it may end there."""
        if self._pauses is None or self._ready_at_s is None or not self._pauses.feed(pcm):
            return False
        return self._is_settled or now_s >= self._ready_at_s + SETTLED_S
