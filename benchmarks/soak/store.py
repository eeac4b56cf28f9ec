"""What the bus knows during a soak: audio as it passes, and the stored transcript."""

import asyncio
import struct
from typing import Final

from speechbus_contracts import (
    AUDIO_PREFIX_BYTES,
    TRANSCRIPT_STORE,
    WRITE_ROOT,
    AnyEvent,
    ChunkKind,
    decode_event,
)
from speechbus_contracts.subjects import ROOT, TRANSCRIPT_ROOT
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError, fetch_stored

__all__ = ["Passing", "read_events", "read_stream_ids"]

RETRY_S: Final = 0.2
_HEAD: Final = struct.Struct("<BBHIQQ")
"""Of the audio prefix, up to the first sample (contracts/README.md)."""


class Passing:
    """What passes on the bus, as a subscriber sees it.

    Args:
        bus: a connection of its own: it is never told to be quick.
    """

    def __init__(self, bus: BusConnection) -> None:
        self.published_samples: dict[str, int] = {}
        """Of each stream: an ingest had accepted so much, and the server had it."""
        self.open: set[str] = set()
        """Streams that were opened and are not closed."""
        bus.subscribe_direct(f"{ROOT}.audio.>", self._see_chunk)
        bus.subscribe_direct(f"{TRANSCRIPT_ROOT}.*.*.opened", self._see_opened)
        bus.subscribe_direct(f"{TRANSCRIPT_ROOT}.*.*.closed", self._see_closed)

    def _see_chunk(self, subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        _, kind, _, _, _, first_sample = _HEAD.unpack_from(payload)
        if kind == ChunkKind.AUDIO:
            stream_id = subject.rsplit(b".", 1)[1].decode()
            end = first_sample + ((len(payload) - AUDIO_PREFIX_BYTES) >> 1)
            if end > self.published_samples.get(stream_id, 0):
                self.published_samples[stream_id] = end

    def _see_opened(self, subject: bytes, _reply: bytes, _payload: bytes, _headers: bytes) -> None:
        self.open.add(subject.split(b".")[4].decode())

    def _see_closed(self, subject: bytes, _reply: bytes, _payload: bytes, _headers: bytes) -> None:
        self.open.discard(subject.split(b".")[4].decode())


async def read_events(bus: BusConnection, tenant: str, stream_id: str) -> list[AnyEvent]:
    """Read all stored events of a stream, in order; waits while NATS is away."""
    events: list[AnyEvent] = []
    sequence = 1
    subject = f"{WRITE_ROOT}.{tenant}.{stream_id}.>"
    while True:
        try:
            batch = await fetch_stored(bus, TRANSCRIPT_STORE, subject, start_sequence=sequence)
        except JetStreamUnavailableError:
            await asyncio.sleep(RETRY_S)
            continue
        if not batch:
            return events
        events += [decode_event(message.payload) for message in batch]
        sequence = batch[-1].sequence + 1


async def read_stream_ids(bus: BusConnection, tenant: str) -> list[str]:
    """Read which streams were ever opened; waits while NATS is away."""
    found: list[str] = []
    sequence = 1
    while True:
        try:
            batch = await fetch_stored(
                bus,
                TRANSCRIPT_STORE,
                f"{WRITE_ROOT}.{tenant}.*.opened",
                start_sequence=sequence,
            )
        except JetStreamUnavailableError:
            await asyncio.sleep(RETRY_S)
            continue
        if not batch:
            return found
        found += [message.subject.split(".")[4] for message in batch]
        sequence = batch[-1].sequence + 1
