"""The connection of a client that a stream's audio comes from."""

import asyncio

__all__ = ["Empty", "Seat"]


class Seat:
    """One connection's place at a stream; another connection may take it."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()
        """Set when the connection has to go: its stream goes on elsewhere."""
        self.is_shutdown = False
        """Whether that is so because this process ends."""


class Empty:
    """Sink of a stream whose client is away: what it misses is read from the store later."""

    def take_event(self, kind: str, payload: bytes) -> None:
        """See `EventSink`."""
