"""One stream on the bus, from this side: PCM in, events out."""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from speechbus_contracts import (
    TRANSCRIPT_STORE,
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
from speechbus_contracts.subjects import JOB_OPEN
from speechbus_ingest.audio_end import AudioEnd
from speechbus_ingest.event_order import Position
from speechbus_ingest.formats.decoders import Decoders
from speechbus_ingest.publisher import AudioPublisher, LaneStart
from speechbus_ingest.stream_audio import StreamAudio
from speechbus_ingest.stream_events import EventSink, StreamEvents
from speechbus_ingest.supervisor import Supervisor
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from speechbus_runtime.tracing import Span, Tracing

__all__ = ["BusStream", "IngestContext", "StreamExistsError", "TakenStream"]

logger = logging.getLogger(__name__)


class StreamExistsError(Exception):
    """There is or was a stream of the id that the request names."""


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
    behind: asyncio.Queue[StreamEvents] = msgspec.field(default_factory=asyncio.Queue[StreamEvents])
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


class _Covered(msgspec.Struct, frozen=True):
    covered_ms: int


class _Gap(msgspec.Struct, frozen=True):
    to_ms: int


_covered_decoder: Final = msgspec.json.Decoder(_Covered)
_gap_decoder: Final = msgspec.json.Decoder(_Gap)
_resumed_decoder: Final = msgspec.json.Decoder(_Resumed)


class BusStream:
    """A live stream: its audio and its events, its announcement and its place at a worker.

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
        self._audio = StreamAudio(
            opened,
            context.audio,
            chunk_ms=context.chunk_ms,
            now_ns=context.now_ns,
            start=None if taken is None else taken.start,
        )
        self._lane = self._audio.lane
        self._events = StreamEvents(
            opened,
            context.control_bus,
            sink,
            note=self._note,
            fall_behind=context.behind.put_nowait,
        )
        self.closed = self._events.closed
        """Set when `stream.closed` has been handed to the sink."""
        self._unsaid: Gap | None = None

    # --- its place at a worker -----------------------------------------------------------------

    async def open(self) -> None:
        """Announce the stream and ask for a worker; audio may follow at once.

        Raises:
            StreamExistsError: there is or was a stream of this id.
        """
        context, opened = self._context, self.opened
        self._events.subscribe()
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
        self._events.take_over(taken.claimed, sequence=taken.claim_sequence)
        self._audio.has_ended = taken.audio.end is not None
        covered = taken.start.covered_sample
        # One that ends there is kept, as `AudioLane.cover` does.
        uncovered = [c for c in taken.audio.chunks if c.first_sample + c.n_samples >= covered]
        self._lane.adopt(uncovered, now_ns=self._context.now_ns())
        # Readers learn at once that what a frozen ingest still sends counts no more.
        self._audio.show_life()
        if taken.changed is not None and not self._audio.has_ended:
            # Who has read its chunk ignores this one.
            self._audio.repeat_change(taken.changed.language, at_sample=taken.changed.at_sample)
        self._context.supervisor.add(self)

    @property
    def worker_id(self) -> str | None:
        """Worker that has claimed it; None: nobody yet."""
        return self._events.worker_id

    async def reopen(self, reason: str) -> None:
        """Place the stream on another worker, under the next epoch."""
        if not self.closed.is_set():
            self._events.fall_behind()  # its claim or its end may have come by unseen
            with self._start_span("place stream", kind="producer") as span:
                span.set("speechbus.reason", reason)
                await self._place(self._events.epoch + 1, reason, span)

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

    def release(self) -> None:
        """Let go of everything on the bus; the stream is closed or given up."""
        self._context.supervisor.remove(self)
        self._lane.close()
        self._events.release()

    # --- audio out -----------------------------------------------------------------------------

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

    def write(self, pcm: bytes) -> None:
        """Take PCM s16le mono, cut anywhere; nothing is taken after the end."""
        self._audio.write(pcm)

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
        return self._audio.flush()

    async def change_language(self, language: str | None) -> None:
        """From here on another language is spoken; returns when that is stored.

        The event is stored before the chunk is published: whoever reads the chunk, and whoever
        comes when it is forgotten, then knows the same. What is written meanwhile lies behind it.
        """
        if self._audio.has_ended:
            return
        opened = self.opened
        sample = self._audio.begin_change(language)
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
            async with self._events.storing() as note_sequence:
                ack = await self._context.publisher.publish(
                    str(WriteSubject(opened.tenant, self.stream_id, "reconfigured")),
                    encode_event(event),
                    headers=encode_headers(build_dedup_headers(dedup_id)),
                )
                note_sequence(ack.seq)
        finally:
            self._audio.finish_change()

    def pause(self) -> None:
        """Publish what was written; half a sample of it is forgotten."""
        self._audio.pause()

    def end(self, reason: str) -> None:
        """No more audio; called again, it does nothing."""
        self._audio.end(reason)

    def tend(self, now_s: float) -> None:
        """Do what is due."""
        if not self.closed.is_set():
            self._audio.tend(now_s)

    def consume(self, sample: int) -> None:
        """How far the worker has read."""
        self._lane.consume(sample)

    # --- events in -----------------------------------------------------------------------------

    def hold_back(self) -> None:
        """The bus is away: events from now on wait until `recover` has read what was missed."""
        self._events.hold_back()

    async def replay(self, *, after: Position) -> None:
        """Hand on all events stored behind a position, to a sink that has those up to it.

        Raises:
            JetStreamUnavailableError: no answer; call `recover`.
        """
        await self._events.replay(after=after)

    async def recover(self) -> None:
        """Hand on the events that were stored and not seen, then go on live.

        Raises:
            JetStreamUnavailableError: no answer; call again.
        """
        await self._events.recover()

    def _note(self, kind: str, payload: bytes) -> None:
        match kind:
            case "final" | "covered":
                self._cover(_covered_decoder.decode(payload).covered_ms)
            case "gap":
                self._cover(_gap_decoder.decode(payload).to_ms)
            case "resumed":
                if _resumed_decoder.decode(payload).ingest_epoch > self._lane.ingest_epoch:
                    self._on_superseded()
            case "closed":
                self._audio.has_ended = True  # a worker may do that by itself
                self._lane.close()
                self._find_unsaid(payload)
            case _:
                pass

    def _cover(self, covered_ms: int) -> None:
        self._lane.cover(covered_ms * self.opened.sample_rate_hz // 1000)

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
