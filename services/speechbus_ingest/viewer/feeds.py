"""Server-sent events: what a viewer of one stream, and of the list of streams, is told.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Final, Protocol

import msgspec
import nats.errors

from speechbus_contracts.subjects import ROOT, TRANSCRIPT_ROOT
from speechbus_ingest.doors.outbox import Outbox
from speechbus_ingest.event_order import read_event
from speechbus_ingest.viewer.stored import StreamPlace, read_stream
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError, read_sequence

__all__ = ["Feed", "ListFeed", "StreamFeed"]

HEARTBEAT_S: Final = 15.0
"""The page takes 45 s of silence for a dead connection; proxies usually 60 s."""
FLUSH_TIMEOUT_S: Final = 2

_HEARTBEAT: Final = b":\n\n"
_SNAPSHOT_END: Final = b'event: snapshot.end\ndata: {"type":"snapshot.end"}\n\n'
_CLOSED: Final = "stream.closed"
# Line ends may stand between the tokens of JSON, and would end the event's line.
_NO_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")


class _Head(msgspec.Struct, frozen=True):
    """What every event of a stream begins with, for all that matters here."""

    type: Annotated[str, msgspec.Meta(pattern=r"^[a-z_.]+\Z")]
    epoch: int = 0


_head_decoder: Final = msgspec.json.Decoder(_Head)


class Feed(Protocol):
    """What one viewer reads.

    Order of calls: `open` once; `pieces` until it ends; always `close`.
    """

    async def open(self) -> None:
        """Listen on the bus; whatever happens from then on is in `pieces`.

        Raises:
            JetStreamUnavailableError: the bus is away.
        """
        ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield bytes to send, comments included, until there is nothing more to tell.

        Raises:
            JetStreamUnavailableError: the bus is away; what is stored cannot be read on.
            OutboxFullError: the viewer is too slow.
        """
        ...

    def close(self) -> None:
        """Stop listening; may be called at any time, also twice."""
        ...


class ListFeed:
    """Streams that are opened and closed from now on.

    Args:
        bus: the connection.
        tenant: whose streams; None: everybody's.
    """

    def __init__(self, bus: BusConnection, tenant: str | None) -> None:
        self._bus = bus
        self._streams = f"{TRANSCRIPT_ROOT}.{tenant or '*'}.*"
        self._outbox = Outbox()
        self._sids: list[int] = []

    async def open(self) -> None:
        """Listen; see `Feed.open`."""
        self._sids = [
            self._bus.subscribe_direct(f"{self._streams}.{kind}", self._receive)
            for kind in ("opened", "closed")
        ]
        # The viewer reads the list next, perhaps from another ingest: the server must know the
        # subscriptions before that, or a stream could fall between the two.
        if not self._bus.is_connected:
            raise JetStreamUnavailableError("not connected")
        try:
            await self._bus.flush(FLUSH_TIMEOUT_S)
        except (nats.errors.Error, OSError, TimeoutError):
            raise JetStreamUnavailableError("timeout") from None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield events for ever; see `Feed.pieces`."""
        yield _HEARTBEAT
        while True:
            events = await _next_events(self._outbox)
            pieces = [_encode(head, payload) for _, head, payload in events]
            yield b"".join(pieces) or _HEARTBEAT

    def close(self) -> None:
        """Stop listening."""
        _unsubscribe(self._bus, self._sids)

    def _receive(self, _subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
        self._outbox.take_event(str(read_sequence(headers)), payload)


class StreamFeed:
    """Everything of one stream, each event once: what is stored, `snapshot.end`, and what follows.

    Ends behind `stream.closed`. Partials of a worker that has lost the stream are left out.

    Args:
        bus: the connection.
        place: the stream.
    """

    def __init__(self, bus: BusConnection, place: StreamPlace) -> None:
        self._bus = bus
        self._place = place
        self._outbox = Outbox()
        self._sids: list[int] = []
        self._last_sequence = 0
        """Of what was stored, and then of the owner's events."""
        self._last_aside = 0
        """Of what was stored, and then of others' events."""
        self._epoch = 0
        self._is_closed = False

    async def open(self) -> None:
        """Listen; see `Feed.open`."""
        name = f"{self._place.tenant}.{self._place.stream_id}"
        # The requests that read what is stored follow on the same connection, so the server knows
        # these subscriptions first.
        self._sids = [
            self._bus.subscribe_direct(f"{TRANSCRIPT_ROOT}.{name}.>", self._receive_stored),
            self._bus.subscribe_direct(f"{ROOT}.live.{name}.*", self._receive_live),
        ]

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield events until the stream is closed; see `Feed.pieces`."""
        yield _HEARTBEAT  # a client that has seen one knows to expect more
        async for batch in read_stream(self._bus, self._place):
            stored = [
                self._pass(message.sequence, _parse_head(message.payload), message.payload)
                for message in batch
            ]
            yield b"".join(stored)
        self._last_aside = self._last_sequence
        yield _SNAPSHOT_END
        while not self._is_closed:
            events = await _next_events(self._outbox)
            piece = b"".join([self._pass_live(*event) for event in events])
            if piece or not events:
                yield piece or _HEARTBEAT

    def close(self) -> None:
        """Stop listening."""
        _unsubscribe(self._bus, self._sids)

    def _receive_stored(self, subject: bytes, _r: bytes, payload: bytes, headers: bytes) -> None:
        event = read_event(subject, payload, headers)
        origin = f"{event.sequence} {event.previous} {event.is_aside:d}"
        self._outbox.take_event(origin, payload)

    def _receive_live(self, subject: bytes, _reply: bytes, payload: bytes, _h: bytes) -> None:
        self._outbox.take_event(subject[subject.rfind(b".") + 1 :].decode(), payload)

    def _pass_live(self, origin: str, head: _Head | None, payload: bytes) -> bytes:
        if self._is_closed:
            return b""
        if origin[:1].isdigit():
            sequence, previous, is_aside = (int(number) for number in origin.split())
            if previous > self._last_sequence and sequence > self._last_sequence:
                # The viewer comes back, and finds it in what is stored.
                raise JetStreamUnavailableError("an event came by unseen")
            if is_aside:
                return self._pass_aside(sequence, head, payload)
            return self._pass(sequence, head, payload)
        if head is None or head.epoch < self._epoch:
            return b""
        return _encode(head, payload)

    def _pass_aside(self, sequence: int, head: _Head | None, payload: bytes) -> bytes:
        """One that says nothing about what the owner wrote before it."""
        if sequence <= self._last_aside:
            return b""
        self._last_aside = sequence
        return self._tell(head, payload)

    def _pass(self, sequence: int, head: _Head | None, payload: bytes) -> bytes:
        if sequence <= self._last_sequence:
            return b""  # the snapshot had it
        self._last_sequence = sequence
        return self._tell(head, payload)

    def _tell(self, head: _Head | None, payload: bytes) -> bytes:
        if head is None:
            return b""
        if head.type == "stream.claimed":
            self._epoch = max(self._epoch, head.epoch)
        self._is_closed = self._is_closed or head.type == _CLOSED
        return _encode(head, payload)


async def _next_events(outbox: Outbox) -> list[tuple[str, _Head | None, bytes]]:
    """Wait for events; return none when it is time for a heartbeat.

    Each has its origin: of a stored event its sequence, that of the one before it, and 1 if it is
    not the owner's, in digits; of a live one its kind.
    """
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            events = await outbox.next_events()
    except TimeoutError:
        return []
    return [(origin, _parse_head(payload), payload) for origin, payload in events]


def _parse_head(payload: bytes) -> _Head | None:
    try:
        return _head_decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None  # not ours; one event that cannot be read must not hide those after it


def _encode(head: _Head | None, payload: bytes) -> bytes:
    if head is None:
        return b""
    return b"event: %b\ndata: %b\n\n" % (head.type.encode(), payload.translate(_NO_LINE_ENDS))


def _unsubscribe(bus: BusConnection, sids: list[int]) -> None:
    for sid in sids:
        bus.unsubscribe_direct(sid)
    sids.clear()
