"""The stored events of one stream, each once and in order, whatever of them came by unseen."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
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
    """Sequence of its writer's event before it, or of what a claim follows, or of the final that a
    translator has translated; 0: not known."""
    kind: str
    payload: bytes
    is_aside: bool = False
    """Whether its writer is not the stream's owner: it says nothing about what the owner wrote
    before it, and no event names it as the one before."""


class _Sourced(msgspec.Struct, frozen=True):
    source_sequence: int | None = None


_sourced_decoder: Final = msgspec.json.Decoder(_Sourced)


def read_event(subject: bytes, payload: bytes, headers: bytes) -> StoredEvent:
    """Return what JetStream has republished."""
    kind = subject.split(b".", 6)[5].decode()
    previous = _read_number(headers, _PREVIOUS)
    is_aside = not previous and kind not in ("opened", "claim")
    if is_aside and kind == "translation":
        with suppress(msgspec.DecodeError):  # anybody may have written it
            previous = _sourced_decoder.decode(payload).source_sequence or 0
    return StoredEvent(_read_number(headers, b"Nats-Sequence:"), previous, kind, payload, is_aside)


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
        """Up to this one all events are taken."""
        self.is_holding = False
        """Whether live events wait for a read from behind `sequence`."""
        self._asides: set[int] = set()
        """Taken from behind `sequence`; until the owner's next event, which comes every second or
        so."""
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
        self._asides.clear()

    def add_stored(self, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
        """Yield those of a read from behind `sequence` that are to be taken."""
        return (event for event in events if self._pass(event))

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
        # The writer of a later claim does not know what the former owner wrote last.
        is_takeover = event.kind == "claim" and not event.previous
        return event.previous <= self.sequence and not is_takeover

    def _take(self, event: StoredEvent) -> bool:
        if not event.is_aside:
            return self._pass(event)
        is_new = event.sequence > self.sequence and event.sequence not in self._asides
        if is_new:
            self._asides.add(event.sequence)
        return is_new

    def _pass(self, event: StoredEvent) -> bool:
        if event.sequence <= self.sequence:
            return False
        is_new = event.sequence not in self._asides
        self.sequence = event.sequence
        self._asides = {sequence for sequence in self._asides if sequence > self.sequence}
        return is_new
