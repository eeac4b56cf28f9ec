"""A stream's events, in: from the bus to its sink, each once and in order."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import msgspec

from speechbus_contracts import TRANSCRIPT_STORE, ContractError, StreamClaimed, StreamOpened
from speechbus_contracts.subjects import ROOT, TRANSCRIPT_ROOT, WRITE_ROOT
from speechbus_ingest.event_order import (
    EventOrder,
    Position,
    StoredEvent,
    read_event,
    read_stored_event,
)
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import fetch_stored

__all__ = ["EventSink", "StreamEvents", "with_sequence"]

logger = logging.getLogger(__name__)

STALE_RETRY_S: Final = 0.1
STALE_TRIES_MAX: Final = 100
"""Reads, `STALE_RETRY_S` apart, of a store that has not what was republished: a follower lags
some milliseconds, one that comes back a few seconds."""


class EventSink(Protocol):
    """The door's side of a stream: gets its events as they come from the bus.

    Called in the read loop of the bus: must be quick and must not block.
    """

    def take_event(self, kind: str, payload: bytes) -> None:
        """Take one event.

        Args:
            kind: last token of its subject: `opened`, `claim`, `final`, `partial`, `turn`, …;
                `translation` for translations.
            payload: the event's JSON.
        """
        ...


class _Claimed(msgspec.Struct, frozen=True):
    epoch: int
    worker: str


class _Epoch(msgspec.Struct, frozen=True):
    epoch: int = 0


_claimed_decoder: Final = msgspec.json.Decoder(_Claimed)
_epoch_decoder: Final = msgspec.json.Decoder(_Epoch)


class StreamEvents:
    """Subscribes to a stream's events, and reads from the store those that came by unseen.

    Args:
        opened: the stream.
        bus: control connection.
        sink: gets the events; those of a stream that can be resumed have a field `sequence`.
        note: told the kind and JSON of each stored event, before the sink.
        fall_behind: called when `recover` is due; not again before it has been called.
    """

    def __init__(
        self,
        opened: StreamOpened,
        bus: BusConnection,
        sink: EventSink,
        *,
        note: Callable[[str, bytes], None],
        fall_behind: Callable[["StreamEvents"], None],
    ) -> None:
        self.stream_id = opened.stream_id
        self.closed = asyncio.Event()
        """Set when `stream.closed` has been handed to the sink."""
        self.epoch = 1
        """Of the last claim."""
        self.worker_id: str | None = None
        """Worker that has claimed it."""
        self._opened = opened
        self._bus = bus
        self._sink = sink
        self._note = note
        self._ask_for_recovery = fall_behind
        self._sids: list[int] = []
        self._order = EventOrder(opened.target_languages)
        self._is_behind = False
        self._reading = asyncio.Lock()
        self._told = Position()

    def subscribe(self) -> None:
        """Take events from now on, until `release`."""
        name = f"{self._opened.tenant}.{self.stream_id}"
        self._sids = [
            self._bus.subscribe_direct(f"{TRANSCRIPT_ROOT}.{name}.>", self._receive),
            self._bus.subscribe_direct(f"{ROOT}.live.{name}.*", self._receive_live),
        ]

    def take_over(self, claimed: StreamClaimed | None, *, sequence: int) -> None:
        """Go on with another ingest's stream; then call `replay`.

        Args:
            claimed: its last claim; None: nobody has claimed it yet.
            sequence: of that claim in TRANSCRIPT; 0: there is none.
        """
        self.hold_back()  # from before the subscription stands
        self.subscribe()
        self._order.begin(sequence)
        if claimed is not None:
            self.epoch, self.worker_id = claimed.epoch, claimed.worker

    def release(self) -> None:
        """Take no more events."""
        for sid in self._sids:
            self._bus.unsubscribe_direct(sid)
        self._sids = []

    def _receive(self, subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
        event = read_event(subject, payload, headers)
        was_holding = self._order.is_holding
        if self._order.receive(event):
            self._take(event)
        elif self._order.is_holding and not was_holding:
            self.fall_behind()

    def _receive_live(self, subject: bytes, _reply: bytes, payload: bytes, _h: bytes) -> None:
        # A worker that has lost the stream may not know it yet.
        if _epoch_decoder.decode(payload).epoch >= self.epoch and not self._order.is_holding:
            self._sink.take_event(subject[subject.rfind(b".") + 1 :].decode(), payload)

    def _take(self, event: StoredEvent) -> None:
        """Act on a stored event and hand it on."""
        if self.closed.is_set():
            return
        kind, payload = event.kind, event.payload
        is_told = self._told.has(event)
        try:
            if kind == "claim":
                self._note_claim(payload)
            self._note(kind, payload)
        except (msgspec.DecodeError, ContractError):
            logger.warning("an event broke the contract", extra={"stream_id": self.stream_id})
        if not is_told:
            if self._opened.is_resumable:
                payload = with_sequence(payload, event.sequence)
            self._sink.take_event(kind, payload)
        if kind == "closed":
            self.closed.set()

    def _note_claim(self, payload: bytes) -> None:
        claimed = _claimed_decoder.decode(payload)
        if claimed.epoch >= self.epoch:
            self.epoch, self.worker_id = claimed.epoch, claimed.worker

    # --- what came by unseen -------------------------------------------------------------------

    def fall_behind(self) -> None:
        """Have what may have been missed read from the store."""
        if not self._is_behind:
            self._is_behind = True
            self._order.hold()
            self._ask_for_recovery(self)

    def hold_back(self) -> None:
        """The bus is away: events from now on wait until `recover` has read what was missed."""
        self._order.hold()

    @asynccontextmanager
    async def storing(self) -> AsyncGenerator[Callable[[int], None], None]:
        """Let an event be stored that no other one names as the one before it.

        It is read, and so is all before it, lest it comes by unseen: its JetStream leader may die.

        Yields:
            To be told its sequence in TRANSCRIPT, as soon as that is known.
        """
        self._order.await_event()
        stored: list[int] = []
        try:
            yield stored.append
        finally:
            self._order.await_event(max(stored, default=0))
            self.fall_behind()

    async def replay(self, *, after: Position) -> None:
        """Hand on all events stored behind a position, to a sink that has those up to it.

        Raises:
            JetStreamUnavailableError: no answer; call `recover`.
        """
        self.hold_back()
        async with self._reading:  # a read from further on would leave out what lies between
            self._told = after
            self._order.go_back(after)
        await self.recover()

    async def recover(self) -> None:
        """Hand on the events that were stored and not seen, then go on live.

        Raises:
            JetStreamUnavailableError: no answer; call again.
        """
        self._order.hold()
        async with self._reading:
            self._order.hold()  # a read before this one has let go
            await self._read_stored()
        self._is_behind = False

    async def _read_stored(self) -> None:
        for tries_left in reversed(range(STALE_TRIES_MAX)):
            for language, taken in self._order.late_languages().items():
                await self._read_translations(language, taken)
            while events := await self._fetch(">", self._order.sequence):
                self._take_all(self._order.add_stored(events))
            self._take_all(self._order.release(is_last=not tries_left))
            if not self._order.is_holding:
                return
            await asyncio.sleep(STALE_RETRY_S)

    async def _read_translations(self, language: str, taken: int) -> None:
        while taken < self._order.sequence and (
            events := await self._fetch(f"translation.{language}", taken)
        ):
            self._take_all(self._order.add_translations(events))
            taken = events[-1].sequence

    async def _fetch(self, tokens: str, after: int) -> list[StoredEvent]:
        subject = f"{WRITE_ROOT}.{self._opened.tenant}.{self.stream_id}.{tokens}"
        messages = await fetch_stored(
            self._bus, TRANSCRIPT_STORE, subject, start_sequence=after + 1
        )
        return [read_stored_event(message) for message in messages]

    def _take_all(self, events: Iterable[StoredEvent]) -> None:
        for event in events:
            self._take(event)


def with_sequence(payload: bytes, sequence: int) -> bytes:
    """Return an event's JSON with its sequence, by which clients say what they have."""
    return b'%b,"sequence":%d}' % (payload[:-1], sequence)
