"""Puts audio on the bus and does not forget it before it is safe.

Every chunk is kept until JetStream has acknowledged it *and* it is covered by finals: AUDIO is in
memory, so after a NATS restart whatever is not covered is published again from here.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from speechbus_contracts import (
    AUDIO_MAX_AGE_S,
    AUDIO_PREFIX_BYTES,
    CHUNKS_BEFORE_MAX,
    AudioChunk,
    ChunkKind,
    encode_chunk,
    encode_chunk_prefix,
)
from speechbus_runtime.bus import BusConnection

__all__ = ["AudioLane", "AudioPublisher", "LaneStart"]

logger = logging.getLogger(__name__)

WINDOW_CHUNKS: Final = 64
"""Chunks of one stream waiting for their acknowledgement: 6.4 s of 100 ms chunks, longer than an
R3 election lasts for most, and 200 kB at most at 16 kHz."""
CREDIT_S: Final = 80.0
"""Audio that may be ahead of the worker: less than is held here. Only uploads faster than real
time, or a pool or a provider that has been away for long, come this far. Then the client's socket
is not read any more, and a live client gives up soon: its pings are not answered either."""
REFRESH_S: Final = 60.0
"""Age at which audio that is not covered is published again; AUDIO forgets it after 90 s."""
REFRESH_EVERY_S: Final = 1.0
"""Looks for such audio; a stream that is far behind has hundreds of chunks to look at."""
ACK_TIMEOUT_S: Final = 1.0
HELD_CHUNKS_MAX: Final = 4_500
"""Chunks kept of one stream: as long as AUDIO keeps them, at 20 ms each. Flushes and signs of life
take no stream time, so that a limit in samples alone would not bound them."""
RESEND_BATCH: Final = 32
"""Chunks of one stream repeated in one sweep, so that many streams share the connection."""
_ERROR: Final = b'"error"'


class LaneStart(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stream's audio begins at this ingest: at its beginning, unless taken over."""

    ingest_epoch: int = 1
    number: int = 0
    """Of the first chunk."""
    position: int = 0
    """Samples before it."""
    covered_sample: int = 0
    """Nobody will read again what is before it."""


class _Held(msgspec.Struct, gc=False):
    number: int
    first_sample: int
    end_sample: int
    prefix: bytes
    payload: bytes
    sent_at_s: float
    first_sent_at_s: float
    is_acked: bool = False


class _Ack(msgspec.Struct, gc=False):
    seq: int


_ack_decoder: Final = msgspec.json.Decoder(_Ack)


class AudioLane:
    """One stream's way onto the bus; made by `AudioPublisher.open_lane`."""

    def __init__(
        self,
        publisher: "AudioPublisher",
        key: int,
        subject: str,
        *,
        sample_rate_hz: int,
        start: LaneStart,
    ) -> None:
        self._publisher = publisher
        self._key = key
        self._subject = subject.encode()
        self._stored_sequence = 0
        self._reply_head = b"%b%d." % (publisher.inbox, key)
        self._start = start
        self._credit_samples = int(CREDIT_S * sample_rate_hz)
        self._held_samples_max = AUDIO_MAX_AGE_S * sample_rate_hz
        self._next_number = start.number
        self._held: deque[_Held] = deque()
        self._unacked: dict[int, _Held] = {}
        self._consumed_sample = start.covered_sample
        self._stored_position = start.position
        self._refreshed_at_s = -math.inf
        self._room = asyncio.Event()
        self._room.set()
        self.position = start.position
        """Samples published, those of former ingests included."""
        self.published_at_s = publisher.now_s()
        """When the last chunk of any kind was published, on the loop's clock."""

    def publish(self, kind: ChunkKind, payload: bytes, *, captured_at_ns: int) -> int:
        """Put one chunk on the bus and return its number; never blocks, see `wait_for_room`."""
        number = self._next_number
        self._next_number = number + 1
        prefix = encode_chunk_prefix(
            kind,
            self._start.ingest_epoch,
            number,
            self.position,
            captured_at_ns,
            min(number - self._start.number, CHUNKS_BEFORE_MAX),
        )
        first_sample = self.position
        if kind is ChunkKind.AUDIO:
            self.position += len(payload) >> 1
        now_s = self._publisher.now_s()
        self.published_at_s = now_s
        held = _Held(number, first_sample, self.position, prefix, payload, now_s, now_s)
        self._held.append(held)
        self._unacked[number] = held
        self._send(held)
        if not self._has_room():
            self._room.clear()
        return number

    async def wait_for_room(self) -> None:
        """Wait while too much is on its way; the door stops reading its socket meanwhile."""
        await self._room.wait()

    @property
    def has_room(self) -> bool:
        """Whether `wait_for_room` would return at once."""
        return self._room.is_set()

    @property
    def is_stored(self) -> bool:
        """Whether JetStream has acknowledged everything published so far."""
        return not self._unacked

    @property
    def ingest_epoch(self) -> int:
        """Generation of this ingest, in all its chunks."""
        return self._start.ingest_epoch

    @property
    def stored_position(self) -> int:
        """Samples that JetStream has acknowledged, without a hole; never less than it was."""
        first = min(self._unacked, default=None)
        position = self.position if first is None else self._unacked[first].first_sample
        self._stored_position = max(self._stored_position, position)
        return self._stored_position

    def adopt(self, chunks: Iterable[AudioChunk], *, now_ns: int) -> None:
        """Keep what a former ingest has stored, so that no loss of the store takes it; call first.

        Args:
            chunks: before this lane's own, in order.
            now_ns: wall clock, ns since 1970, by which their age is told.
        """
        now_s = self._publisher.now_s()
        for chunk in chunks:
            message = encode_chunk(chunk)
            sent_at_s = now_s - max(0, now_ns - chunk.captured_at_ns) / 1e9
            self._held.append(
                _Held(
                    chunk.number,
                    chunk.first_sample,
                    chunk.first_sample + chunk.n_samples,
                    message[:AUDIO_PREFIX_BYTES],
                    message[AUDIO_PREFIX_BYTES:],
                    sent_at_s,
                    sent_at_s,
                    is_acked=True,
                )
            )

    def cover(self, sample: int) -> None:
        """Forget what is in finals: nobody will read it again.

        What ends exactly there is kept: a marker in that place has not been obeyed yet, and the
        chunk before the first sample tells a new worker that it has missed no marker.
        """
        held = self._held
        while held and held[0].end_sample < sample and held[0].is_acked:
            held.popleft()
        self.consume(sample)  # sooner than the worker's next report

    def consume(self, sample: int) -> None:
        """Note how far the worker has read."""
        self._consumed_sample = max(self._consumed_sample, sample)
        self._update_room()

    def close(self) -> None:
        """Forget everything: the stream is closed."""
        self._publisher.close_lane(self._key)
        self._held.clear()
        self._unacked.clear()
        self._room.set()

    # --- for AudioPublisher --------------------------------------------------------------------

    def acknowledge(self, number: int, sequence: int) -> None:
        """JetStream has stored a chunk, under this sequence of its own."""
        if sequence < self._stored_sequence:
            # The store began anew: its only server restarted, or it was made again elsewhere.
            self._publisher.distrust_store(like=self._subject)
        self._stored_sequence = sequence
        held = self._unacked.pop(number, None)
        if held is not None:
            held.is_acked = True
            if not self._room.is_set():
                self._update_room()

    def resend_late(self, now_s: float) -> None:
        """Repeat what was not acknowledged in time, and what AUDIO is about to forget unread."""
        self._bound_held()
        self._refresh(now_s)
        n_sent = 0
        for held in list(self._unacked.values())[: 2 * RESEND_BATCH]:
            if now_s - held.sent_at_s >= ACK_TIMEOUT_S:
                held.sent_at_s = now_s
                if not self._send(held):
                    return
                n_sent += 1
                if n_sent == RESEND_BATCH:
                    return

    def _refresh(self, now_s: float) -> None:
        """Publish again what may have to be read when AUDIO has forgotten it.

        That is also what a worker has read: when its provider breaks, it reads it again.
        """
        if now_s - self._refreshed_at_s < REFRESH_EVERY_S:
            return
        self._refreshed_at_s = now_s
        for held in self._held:
            if now_s - held.first_sent_at_s < REFRESH_S:
                return
            # One that was sent again lately says nothing about those behind it.
            if held.is_acked and now_s - held.sent_at_s >= REFRESH_S:
                held.is_acked = False
                self._unacked[held.number] = held

    def distrust(self, *, like: bytes = b"") -> None:
        """The store may have lost everything: publish again what is not covered.

        Args:
            like: subject of another lane; one of another store changes nothing here.
        """
        if like and like.split(b".", 4)[:4] != self._subject.split(b".", 4)[:4]:
            return
        self._stored_sequence = 0
        self._unacked = {held.number: held for held in self._held}
        for held in self._held:
            held.is_acked = False
            held.sent_at_s = -math.inf

    def _send(self, held: _Held) -> bool:
        return self._publisher.bus.publish_parts_nowait(
            self._subject,
            held.prefix,
            held.payload,
            reply=self._reply_head + b"%d" % held.number,
        )

    def _bound_held(self) -> None:
        """Forget what AUDIO itself is about to forget, stored or not."""
        held = self._held
        while held and (
            self.position - held[0].end_sample > self._held_samples_max
            or len(held) > HELD_CHUNKS_MAX
        ):
            self._unacked.pop(held.popleft().number, None)

    def _has_room(self) -> bool:
        return (
            len(self._unacked) < WINDOW_CHUNKS
            and self.position - self._consumed_sample < self._credit_samples
        )

    def _update_room(self) -> None:
        if self._has_room():
            self._room.set()
        else:
            self._room.clear()


class AudioPublisher:
    """All lanes of one ingest, over one connection and one inbox.

    Args:
        bus: connection that carries audio and its acknowledgements.
        now_s: the loop's clock.
    """

    def __init__(self, bus: BusConnection, *, now_s: Callable[[], float]) -> None:
        self.bus = bus
        self.now_s = now_s
        self.inbox = (bus.new_inbox() + ".").encode()
        self.refused = 0
        """Chunks the store refused (full, or a permission is missing); they are repeated."""
        self._lanes: dict[int, AudioLane] = {}
        self._next_key = 0
        self._store_was_lost = False
        bus.subscribe_direct(self.inbox.decode() + "*.*", self._receive_ack)

    def open_lane(
        self, subject: str, *, sample_rate_hz: int, start: LaneStart | None = None
    ) -> AudioLane:
        """Begin a stream's audio, or go on with it."""
        self._next_key += 1
        lane = AudioLane(
            self,
            self._next_key,
            subject,
            sample_rate_hz=sample_rate_hz,
            start=start or LaneStart(),
        )
        self._lanes[self._next_key] = lane
        return lane

    def close_lane(self, key: int) -> None:
        """Called by the lane."""
        self._lanes.pop(key, None)

    def distrust_store(self, *, like: bytes = b"") -> None:
        """After a reconnect: AUDIO may be new and empty.

        Args:
            like: subject of a lane whose store is meant; empty: all.
        """
        for lane in self._lanes.values():
            lane.distrust(like=like)
        self.resend_late()

    def resend_late(self) -> None:
        """Repeat what was not acknowledged in time; call it a few times a second."""
        if self.bus.is_connected:
            now_s = self.now_s()
            for lane in self._lanes.values():
                lane.resend_late(now_s)

    def _receive_ack(self, subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
        if headers or _ERROR in payload:
            self.refused += 1  # no responders, or refused: repeated by the sweep
            self._store_was_lost = True
            return
        if self._store_was_lost:
            self._store_was_lost = False
            self.distrust_store()  # it is back, and may be a new and empty one
        key, _, number = subject[len(self.inbox) :].partition(b".")
        lane = self._lanes.get(int(key))
        if lane is not None:
            lane.acknowledge(int(number), _ack_decoder.decode(payload).seq)
