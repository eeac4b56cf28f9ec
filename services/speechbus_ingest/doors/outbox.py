"""Events of one stream on their way to one client."""

import asyncio
from collections import deque
from typing import Final

__all__ = ["Outbox", "OutboxFullError"]

LIVE_MAX: Final = 50
"""Queued events beyond which partials, turns and the like are left out: newer ones replace them."""
EVENTS_MAX: Final = 2_000
"""Queued events beyond which a client is too slow to keep: hours of finals."""
_LIVE_KINDS: Final = frozenset({"partial", "partial_translation", "turn", "lag"})


class OutboxFullError(Exception):
    """The client does not read what it is sent."""


class Outbox:
    """Queue between the bus, which never waits, and a client's socket, which may."""

    def __init__(self) -> None:
        self._events: deque[tuple[str, bytes]] = deque()
        self._is_overrun = False
        self._filled = asyncio.Event()

    def take_event(self, kind: str, payload: bytes) -> None:
        """Queue one event; see `EventSink`."""
        if kind in _LIVE_KINDS and len(self._events) >= LIVE_MAX:
            return
        if len(self._events) >= EVENTS_MAX:
            self._is_overrun = True
        else:
            self._events.append((kind, payload))
        self._filled.set()

    async def next_events(self) -> list[tuple[str, bytes]]:
        """Wait for events and return all that are queued.

        Raises:
            OutboxFullError: some had to be left out.
        """
        await self._filled.wait()
        if self._is_overrun:
            raise OutboxFullError
        self._filled.clear()
        events = list(self._events)
        self._events.clear()
        return events
