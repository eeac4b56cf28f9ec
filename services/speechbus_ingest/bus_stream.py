"""One stream on the bus, from this side: PCM in, events out."""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    AudioSubject,
    ChunkKind,
    ContractError,
    Gap,
    JobOpen,
    StreamClaimed,
    StreamClosed,
    StreamOpened,
    StreamReconfigured,
    WriteSubject,
    build_claim_headers,
    build_dedup_headers,
    decode_event,
    encode_event,
    event_dedup_id,
    job_dedup_id,
)
from speechbus_contracts.subjects import JOB_OPEN, ROOT, TRANSCRIPT_ROOT, WRITE_ROOT
from speechbus_ingest.audio_end import AudioEnd
from speechbus_ingest.chunker import Chunker
from speechbus_ingest.event_order import EventOrder, StoredEvent, read_event
from speechbus_ingest.formats.decoders import Decoders
from speechbus_ingest.publisher import AudioPublisher, LaneStart
from speechbus_ingest.supervisor import Supervisor
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.jetstream import fetch_stored
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from speechbus_runtime.tracing import Span, Tracing

__all__ = [
    "BusStream",
    "EventSink",
    "IngestContext",
    "StreamExistsError",
    "TakenStream",
    "with_sequence",
]

logger = logging.getLogger(__name__)

STALE_RETRY_S: Final = 0.1
STALE_TRIES_MAX: Final = 100
"""Reads, `STALE_RETRY_S` apart, of a store that has not what was republished: a follower lags
some milliseconds, one that comes back a few seconds."""
KEEPALIVE_S: Final = 2.0
"""A worker takes an ingest for lost after 10 s without any chunk."""


class StreamExistsError(Exception):
    """There is or was a stream of the id that the request names."""


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


def _ignore(_: object) -> None:
    pass


class IngestContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all streams of an ingest share."""

    control_bus: BusConnection
    publisher: AckedPublisher
    audio: AudioPublisher
    supervisor: Supervisor
    decoders: Decoders
    chunk_ms: int
    shards: int
    now_ns: Callable[[], int]
    """Wall clock, ns since 1970."""
    behind: asyncio.Queue["BusStream"] = msgspec.field(default_factory=asyncio.Queue["BusStream"])
    """Streams whose events have to be read from the store; each at most once at a time."""
    ingest_id: str = "ingest"
    """Name of this process, unlike any other's."""
    tracing: Tracing = msgspec.field(default_factory=Tracing)
    count_undecodable: Callable[[str], None] = _ignore
    """Called with what was wrong with the audio of a stream."""
    count_gap: Callable[[Gap], None] = _ignore
    """Called with each gap that ingest itself finds."""


class TakenStream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that another ingest has begun, as the bus knows it."""

    opened: StreamOpened
    traceparent: str = ""
    """Of `opened`: its trace goes on."""
    claimed: StreamClaimed | None
    """Its last claim; None: nobody has claimed it yet."""
    claim_sequence: int
    """Of that claim in TRANSCRIPT; 0: there is none."""
    changed: StreamReconfigured | None
    """Its last change of language."""
    start: LaneStart
    audio: AudioEnd
    """What is stored before `start`."""


class _Resumed(msgspec.Struct, frozen=True):
    ingest_epoch: int


class _Claimed(msgspec.Struct, frozen=True):
    epoch: int
    worker: str


class _Epoch(msgspec.Struct, frozen=True):
    epoch: int


class _Covered(msgspec.Struct, frozen=True):
    covered_ms: int


class _Gap(msgspec.Struct, frozen=True):
    to_ms: int


_claimed_decoder: Final = msgspec.json.Decoder(_Claimed)
_epoch_decoder: Final = msgspec.json.Decoder(_Epoch)
_covered_decoder: Final = msgspec.json.Decoder(_Covered)
_gap_decoder: Final = msgspec.json.Decoder(_Gap)
_resumed_decoder: Final = msgspec.json.Decoder(_Resumed)


class BusStream:
    """A live stream.

    Order of calls: `open` or `take_over`; then `write`, `flush` and `wait_for_room` as audio comes;
    `end` once; wait for `closed`; always `release`.

    Args:
        opened: what is announced; its sample rate is that of what is written.
        context: what all streams share.
        sink: gets the events; those of a stream that can be resumed have a field `sequence`.
        on_superseded: called when another ingest has taken the stream over.
        taken: of a stream that another ingest has opened.
        traceparent: what the client was doing, if it says so.
    """

    def __init__(
        self,
        opened: StreamOpened,
        context: IngestContext,
        sink: EventSink,
        *,
        on_superseded: Callable[[], None],
        taken: TakenStream | None = None,
        traceparent: str = "",
    ) -> None:
        self.opened = opened
        self._traceparent = traceparent if taken is None else taken.traceparent
        self.stream_id = opened.stream_id
        self._context = context
        self._sink = sink
        self._on_superseded = on_superseded
        self.closed = asyncio.Event()
        """Set when `stream.closed` has been handed to the sink."""
        self.worker_id: str | None = None
        """Worker that has claimed it."""
        self._epoch = 1
        self._chunker = Chunker(sample_rate_hz=opened.sample_rate_hz, chunk_ms=context.chunk_ms)
        self._lane = context.audio.open_lane(
            str(AudioSubject(opened.shard, opened.tenant, opened.stream_id)),
            sample_rate_hz=opened.sample_rate_hz,
            start=None if taken is None else taken.start,
        )
        self._waiting_since_s: float | None = None
        # Decoded while a change is being stored; the door reads nothing meanwhile.
        self._behind_change: bytearray | None = None
        # Samples before a change that is to be said again; the audio before it may have died, too.
        self._change_at: int | None = None
        self._language = opened.language
        self._has_ended = False
        self._sids: list[int] = []
        self._order = EventOrder()
        self._is_behind = False
        self._reading = asyncio.Lock()
        self._told_sequence = 0
        self._unsaid: Gap | None = None

    @property
    def is_stored(self) -> bool:
        """Whether everything written so far is stored on the bus."""
        return self._lane.is_stored

    @property
    def accepted_samples(self) -> int:
        """Samples published so far."""
        return self._lane.position

    @property
    def stored_samples(self) -> int:
        """Samples that are stored on the bus, without a hole."""
        return self._lane.stored_position

    async def open(self) -> None:
        """Announce the stream and ask for a worker; audio may follow at once.

        Raises:
            StreamExistsError: there is or was a stream of this id.
        """
        context, opened = self._context, self.opened
        self._subscribe()
        # Of this opener, or JetStream would take another one's event for a repetition of it.
        dedup_id = event_dedup_id(opened.stream_id, f"opened-{os.urandom(8).hex()}", 0)
        with self._start_span("open stream", kind="server") as span:
            # It ends here, hours before the stream does: who follows is known in time, also when
            # this process dies.
            self._traceparent = span.traceparent
            headers = build_claim_headers(dedup_id, last_claim_sequence=0) | span.headers
            try:
                await context.publisher.publish(
                    str(WriteSubject(opened.tenant, opened.stream_id, "opened")),
                    encode_event(opened),
                    headers=encode_headers(headers),
                    store=TRANSCRIPT_STORE,
                )
            except StaleGuardError:
                raise StreamExistsError from None
            await self._place(1, "opened", span)
        context.supervisor.add(self)
        logger.info("stream opened", extra={"stream_id": self.stream_id, "door": opened.door})

    def take_over(self, taken: TakenStream) -> None:
        """Go on with another ingest's stream; then call `replay`."""
        with self._start_span("resume stream", kind="server") as span:
            self._traceparent = span.traceparent
        self.hold_back()  # from before the subscription stands
        self._subscribe()
        self._order.sequence = taken.claim_sequence
        if taken.claimed is not None:
            self._epoch, self.worker_id = taken.claimed.epoch, taken.claimed.worker
        self._has_ended = taken.audio.end is not None
        now_ns = self._context.now_ns()
        covered = taken.start.covered_sample
        # One that ends there is kept, as `AudioLane.cover` does.
        uncovered = [c for c in taken.audio.chunks if c.first_sample + c.n_samples >= covered]
        self._lane.adopt(uncovered, now_ns=now_ns)
        # Readers learn at once that what a frozen ingest still sends counts no more.
        self._lane.publish(ChunkKind.SILENCE, b"", captured_at_ns=now_ns)
        if taken.changed is not None and not self._has_ended:
            # Its chunk may have died with the former ingest; who has read it ignores this one.
            self._language = taken.changed.language
            self._change_at = taken.changed.at_sample
            self.write(b"")
        self._context.supervisor.add(self)

    def _subscribe(self) -> None:
        name = f"{self.opened.tenant}.{self.opened.stream_id}"
        bus = self._context.control_bus
        self._sids = [
            bus.subscribe_direct(f"{TRANSCRIPT_ROOT}.{name}.>", self._receive),
            bus.subscribe_direct(f"{ROOT}.live.{name}.*", self._receive_live),
        ]

    def write(self, pcm: bytes) -> None:
        """Take PCM s16le mono, cut anywhere; nothing is taken after the end."""
        if self._has_ended:
            return
        if self._behind_change is not None:
            self._behind_change += pcm
            return
        if self._change_at is not None:
            n_before = max(0, 2 * (self._change_at - self._lane.position) - self._chunker.n_waiting)
            if len(pcm) >= n_before:
                self._change_at = None
                self.write(pcm[:n_before])
                self._publish_rest()
                self._publish_language()
                pcm = pcm[n_before:]
        chunks = self._chunker.split(pcm)
        if chunks:
            self._waiting_since_s = None
            captured_at_ns = self._context.now_ns()
            for chunk in chunks:
                self._lane.publish(ChunkKind.AUDIO, chunk, captured_at_ns=captured_at_ns)
        if self._waiting_since_s is None and self._chunker.n_waiting:
            self._waiting_since_s = self._context.audio.now_s()

    async def wait_for_room(self) -> None:
        """Wait while too much audio is on its way."""
        await self._lane.wait_for_room()

    @property
    def has_room(self) -> bool:
        """Whether `wait_for_room` would return at once."""
        return self._lane.has_room

    def flush(self) -> int:
        """Ask for finals of everything written so far.

        Returns:
            Number of the flush chunk: the `stream.flushed` that answers it names this `chunk`.
            After the end, -1: what that flushes is on its way already.
        """
        if self._has_ended:
            return -1
        self._publish_rest()
        return self._lane.publish(ChunkKind.FLUSH, b"", captured_at_ns=self._context.now_ns())

    async def change_language(self, language: str | None) -> None:
        """From here on another language is spoken; returns when that is stored.

        The event is stored before the chunk is published: whoever reads the chunk, and whoever
        comes when it is forgotten, then knows the same. What is written meanwhile lies behind it.
        """
        if self._has_ended:
            return
        self._publish_rest()
        self._behind_change = bytearray()
        self._language = language
        opened = self.opened
        sample = self._lane.position
        event = StreamReconfigured(
            stream_id=self.stream_id,
            tenant=opened.tenant,
            at_sample=sample,
            at_ms=sample * 1000 // opened.sample_rate_hz,
            language=language,
        )
        # Of this change: one to the same language in the same place may follow another.
        dedup_id = event_dedup_id(self.stream_id, f"reconfigured-{os.urandom(8).hex()}", 0)
        try:
            await self._context.publisher.publish(
                str(WriteSubject(opened.tenant, self.stream_id, "reconfigured")),
                encode_event(event),
                headers=encode_headers(build_dedup_headers(dedup_id)),
            )
        finally:
            self._publish_change()

    def _publish_change(self) -> None:
        behind, self._behind_change = self._behind_change, None
        if behind is None:
            return
        self._publish_language()
        self.write(bytes(behind))

    def _publish_language(self) -> None:
        self._lane.publish(
            ChunkKind.RECONFIGURE,
            msgspec.json.encode({"language": self._language}),
            captured_at_ns=self._context.now_ns(),
        )

    def pause(self) -> None:
        """Publish what was written; half a sample of it is forgotten."""
        if not self._has_ended:
            self._publish_rest()
        self._chunker.drop_rest()

    def end(self, reason: str) -> None:
        """No more audio; called again, it does nothing."""
        if self._has_ended:
            return
        self._publish_change()
        self._has_ended = True
        self._publish_rest()
        self._lane.publish(
            ChunkKind.END,
            msgspec.json.encode({"reason": reason}),
            captured_at_ns=self._context.now_ns(),
        )

    def tend(self, now_s: float) -> None:
        """Do what is due: publish audio that waits for the rest of its chunk, show life."""
        if self.closed.is_set():
            return
        waiting_s = self._waiting_since_s
        if waiting_s is not None and now_s - waiting_s > self._context.chunk_ms / 1000:
            self._publish_rest()
        if now_s - self._lane.published_at_s > KEEPALIVE_S:
            self._lane.publish(ChunkKind.SILENCE, b"", captured_at_ns=self._context.now_ns())

    def release(self) -> None:
        """Let go of everything on the bus; the stream is closed or given up."""
        self._context.supervisor.remove(self)
        self._lane.close()
        for sid in self._sids:
            self._context.control_bus.unsubscribe_direct(sid)
        self._sids = []

    # --- for the supervisor --------------------------------------------------------------------

    def consume(self, sample: int) -> None:
        """How far the worker has read."""
        self._lane.consume(sample)

    async def reopen(self, reason: str) -> None:
        """Place the stream on another worker, under the next epoch."""
        if not self.closed.is_set():
            self._fall_behind()  # its claim or its end may have come by unseen
            with self._start_span("place stream", kind="producer") as span:
                span.set("speechbus.reason", reason)
                await self._place(self._epoch + 1, reason, span)

    async def _place(self, epoch: int, reason: str, span: Span) -> None:
        job = JobOpen(
            stream_id=self.stream_id, tenant=self.opened.tenant, epoch=epoch, reason=reason
        )
        headers = build_dedup_headers(job_dedup_id(self.stream_id, epoch)) | span.headers
        await self._context.publisher.publish(
            JOB_OPEN, encode_event(job), headers=encode_headers(headers)
        )

    def _start_span(self, name: str, *, kind: Literal["server", "producer"]) -> Span:
        opened = self.opened
        return self._context.tracing.start(
            name,
            kind=kind,
            parent=self._traceparent,
            attributes={
                "speechbus.stream.id": opened.stream_id,
                "speechbus.tenant": opened.tenant,
                "speechbus.door": opened.door,
            },
        )

    # --- events from the bus -------------------------------------------------------------------

    def _receive(self, subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
        event = read_event(subject, payload, headers)
        was_holding = self._order.is_holding
        if self._order.receive(event):
            self._take(event)
        elif self._order.is_holding and not was_holding:
            self._fall_behind()

    def _fall_behind(self) -> None:
        """Have what may have been missed read from the store."""
        if not self._is_behind:
            self._is_behind = True
            self._order.hold()
            self._context.behind.put_nowait(self)

    def _take(self, event: StoredEvent) -> None:
        """Act on a stored event and hand it on."""
        if self.closed.is_set():
            return
        kind, payload = event.kind, event.payload
        is_told = event.sequence <= self._told_sequence
        try:
            self._note(kind, payload)
        except (msgspec.DecodeError, ContractError):
            logger.warning("an event broke the contract", extra={"stream_id": self.stream_id})
        if not is_told:
            if self.opened.is_resumable:
                payload = with_sequence(payload, event.sequence)
            self._sink.take_event(kind, payload)
        if kind == "closed":
            self.closed.set()
            self._has_ended = True  # a worker may do that by itself
            self._lane.close()

    def _find_unsaid(self, payload: bytes) -> None:
        """Name what was accepted behind the end that a worker saw: it lost sight of us."""
        closed = decode_event(payload)
        accepted_ms = self._lane.position * 1000 // self.opened.sample_rate_hz
        if isinstance(closed, StreamClosed) and accepted_ms > closed.audio_ms:
            self._unsaid = Gap(
                stream_id=self.stream_id,
                tenant=self.opened.tenant,
                epoch=closed.epoch,
                from_ms=closed.audio_ms,
                to_ms=accepted_ms,
                reason="audio_lost",
                next_index=closed.finals,
                gap_ms_total=closed.gap_ms + accepted_ms - closed.audio_ms,
                audio_received_at=self._context.now_ns() // 1_000_000,
            )
            self._context.count_gap(self._unsaid)
            self._sink.take_event("gap", encode_event(self._unsaid))

    async def say_unsaid(self) -> None:
        """Store the gap behind `closed`, if there is one; waits as long as NATS is away."""
        if self._unsaid is not None:
            dedup_id = event_dedup_id(self.stream_id, "gap", self._unsaid.to_ms)
            await self._context.publisher.publish(
                str(WriteSubject(self.opened.tenant, self.stream_id, "gap")),
                encode_event(self._unsaid),
                headers=encode_headers(build_dedup_headers(dedup_id)),
                store=TRANSCRIPT_STORE,
            )

    def _note(self, kind: str, payload: bytes) -> None:
        match kind:
            case "final" | "covered":
                self._cover(_covered_decoder.decode(payload).covered_ms)
            case "gap":
                self._cover(_gap_decoder.decode(payload).to_ms)
            case "claim":
                claimed = _claimed_decoder.decode(payload)
                if claimed.epoch >= self._epoch:
                    self._epoch = claimed.epoch
                    self.worker_id = claimed.worker
            case "resumed":
                if _resumed_decoder.decode(payload).ingest_epoch > self._lane.ingest_epoch:
                    self._on_superseded()
            case "closed":
                self._find_unsaid(payload)
            case _:
                pass

    def _receive_live(self, subject: bytes, _reply: bytes, payload: bytes, _h: bytes) -> None:
        # A worker that has lost the stream may not know it yet.
        if _epoch_decoder.decode(payload).epoch >= self._epoch and not self._order.is_holding:
            self._sink.take_event(subject[subject.rfind(b".") + 1 :].decode(), payload)

    def hold_back(self) -> None:
        """The bus is away: events from now on wait until `recover` has read what was missed."""
        self._order.hold()

    async def replay(self, *, after: int) -> None:
        """Hand on all events stored behind a sequence, to a sink that has those up to it.

        Raises:
            JetStreamUnavailableError: no answer; call `recover`.
        """
        self.hold_back()
        async with self._reading:  # a read from further on would leave out what lies between
            self._told_sequence = after
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
        subject = f"{WRITE_ROOT}.{self.opened.tenant}.{self.stream_id}.>"
        for tries_left in reversed(range(STALE_TRIES_MAX)):
            while messages := await fetch_stored(
                self._context.control_bus,
                TRANSCRIPT_STORE,
                subject,
                start_sequence=self._order.sequence + 1,
            ):
                stored = (
                    StoredEvent(m.sequence, 0, m.subject.split(".")[5], m.payload) for m in messages
                )
                for event in self._order.add_stored(stored):
                    self._take(event)
            for event in self._order.release(is_last=not tries_left):
                self._take(event)
            if not self._order.is_holding:
                return
            await asyncio.sleep(STALE_RETRY_S)

    def _cover(self, covered_ms: int) -> None:
        self._lane.cover(covered_ms * self.opened.sample_rate_hz // 1000)

    def _publish_rest(self) -> None:
        self._waiting_since_s = None
        rest = self._chunker.take_rest()
        if rest:
            self._lane.publish(ChunkKind.AUDIO, rest, captured_at_ns=self._context.now_ns())


def with_sequence(payload: bytes, sequence: int) -> bytes:
    """Return an event's JSON with its sequence, by which clients say what they have."""
    return b'%b,"sequence":%d}' % (payload[:-1], sequence)
