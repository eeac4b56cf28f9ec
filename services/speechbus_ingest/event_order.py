"""The stored events of one stream, each once and in order, whatever of them came by unseen."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from speechbus_contracts import PREVIOUS_SEQUENCE

__all__ = ["EventOrder", "StoredEvent", "read_event"]

HELD_BACK_MAX: Final = 1_000
"""Events of one stream that wait while missed ones are read; older ones are read again anyway."""
_PREVIOUS: Final = f"{PREVIOUS_SEQUENCE}:".encode()


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as it was republished or read."""

    sequence: int
    """In TRANSCRIPT."""
    previous: int
    """Sequence of its writer's event before it, or of what a claim follows; 0: not known."""
    kind: str
    payload: bytes


def read_event(subject: bytes, payload: bytes, headers: bytes) -> StoredEvent:
    """Return what JetStream has republished."""
    return StoredEvent(
        _read_number(headers, b"Nats-Sequence:"),
        _read_number(headers, _PREVIOUS),
        subject.split(b".", 6)[5].decode(),
        payload,
    )


def _read_number(headers: bytes, name: bytes) -> int:
    text = headers.partition(name)[2].partition(b"\r\n")[0].strip()
    return int(text) if text.isdigit() else 0


class EventOrder:
    """Tells which events to take now, and when some must be read from the store first.

    A JetStream leader that dies between storing an event and republishing it leaves a hole that
    nobody else mends; so does a node that is cut off for a while. Events name the one before them.
    """

    def __init__(self) -> None:
        self.sequence = 0
        """Of the last event taken."""
        self.is_holding = False
        """Whether live events wait for a read from behind `sequence`."""
        self._held: deque[StoredEvent] = deque(maxlen=HELD_BACK_MAX)

    def receive(self, event: StoredEvent) -> bool:
        """Get a live event; True: take it, False: it is known, or waits for a read."""
        if not self.is_holding:
            if self._follows(event):
                return self._take(event)
            self.is_holding = True
        self._held.append(event)
        return False

    def hold(self) -> None:
        """Events may have been missed: those from now on wait for a read."""
        self.is_holding = True

    def go_back(self, sequence: int) -> None:
        """Take what lies behind this sequence again; a read from there is due."""
        self.is_holding = True
        self.sequence = min(self.sequence, sequence)

    def add_stored(self, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
        """Yield those of a read from behind `sequence` that are to be taken."""
        return (event for event in events if self._take(event))

    def release(self, *, is_last: bool = False) -> Iterator[StoredEvent]:
        """Yield the held events that are to be taken after a read that found nothing more.

        Go on live when `is_holding` is False then; else the store that answered lags behind what
        was republished: read again.

        Args:
            is_last: stop waiting for what does not come.
        """
        while self._held and (is_last or self._follows(self._held[0])):
            event = self._held.popleft()
            if self._take(event):
                yield event
        self.is_holding = bool(self._held)

    def _follows(self, event: StoredEvent) -> bool:
        if event.sequence <= self.sequence:
            return True
        # Of other writers than the owner before it: what that one wrote last is not known.
        is_blind = not event.previous and event.kind != "opened"
        return event.previous <= self.sequence and not is_blind

    def _take(self, event: StoredEvent) -> bool:
        if event.sequence <= self.sequence:
            return False
        self.sequence = event.sequence
        return True
