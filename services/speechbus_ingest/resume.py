"""Brings a client back to its stream, here, at another ingest, or on the bus only.

Of two ingests that have a stream, the one with the higher ingest epoch counts. The epoch is taken
by compare-and-set, before the new ingest looks where the stored audio ends: what a former one
stores after that look is superseded by what is sent again from there.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import msgspec
import nats.errors

from speechbus_contracts import (
    AUDIO_MAX_AGE_S,
    TRANSCRIPT_STORE,
    AnyEvent,
    AudioChunk,
    AudioSubject,
    ContractError,
    Gap,
    SegmentFinal,
    SourceSubject,
    StreamClaimed,
    StreamClosed,
    StreamCovered,
    StreamOpened,
    StreamReconfigured,
    StreamResumed,
    WriteKind,
    WriteSubject,
    audio_stream_name,
    build_claim_headers,
    decode_chunk,
    decode_event,
    encode_event,
    resumed_dedup_id,
)
from speechbus_contracts.subjects import WRITE_ROOT
from speechbus_ingest.audio_end import AudioEnd, find_end
from speechbus_ingest.bus_stream import IngestContext, TakenStream
from speechbus_ingest.event_order import Position, StoredEvent, read_stored_event
from speechbus_ingest.formats.names import AudioFormat
from speechbus_ingest.publisher import LaneStart
from speechbus_ingest.registry import OverLimitError, StreamRegistry
from speechbus_ingest.stream import IngestStream, StreamRequest
from speechbus_ingest.stream_events import EventSink, with_sequence
from speechbus_runtime.bus import encode_headers
from speechbus_runtime.jetstream import JetStreamUnavailableError, fetch_stored, read_last
from speechbus_runtime.publisher import StaleGuardError
from speechbus_runtime.task_groups import plain_errors

__all__ = [
    "ClosedStreamError",
    "MisfitError",
    "ResumeRequest",
    "Resumer",
    "TooFarAheadError",
    "UnknownStreamError",
]

logger = logging.getLogger(__name__)

RELEASE_TIMEOUT_S: Final = 1.0
"""A living ingest answers when its last chunks are stored, within milliseconds; one that does not
is frozen, and superseded."""
FETCH_MARGIN_MS: Final = 2_000
"""Clocks of ingest processes and NATS may differ by this much before a second look is needed."""
POLL_S: Final = 0.05
READS_MAX: Final = 4
"""Streams whose audio is read at once: when an ingest dies, all its clients come at once, and NATS
cuts a connection before which 8 MB wait."""
READ_CHUNKS: Final = 100
"""10 s, 1 MB at most; a second batch is rarely needed."""
_OPEN_ENDED: Final = frozenset({None, "end"})


class UnknownStreamError(Exception):
    """There is no such stream of this tenant that can be resumed."""


class MisfitError(Exception):
    """The audio has another sample rate than the stream."""


class TooFarAheadError(Exception):
    """Between what the bus has and what the client still has is more than was ever kept."""


class ClosedStreamError(Exception):
    """The stream has ended.

    Attributes:
        reason: as `StreamClosed.reason` has it.
        closed: its last event; None: that is still to come.
    """

    def __init__(self, reason: str, closed: StreamClosed | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.closed = closed


class ResumeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client that comes back has to say."""

    tenant: str
    stream_id: str
    sample_rate_hz: int
    audio_format: AudioFormat
    kept_from: int
    """Samples before those that the client still has: what it was told is accepted."""
    position: Position
    """It has these events."""


class Resumer:
    """Resumes streams at this ingest."""

    def __init__(self, registry: StreamRegistry) -> None:
        self._registry = registry
        self._reads = asyncio.Semaphore(READS_MAX)

    @asynccontextmanager
    async def resume(
        self, request: ResumeRequest, sink: EventSink
    ) -> AsyncGenerator[IngestStream, None]:
        """Hold a stream during the block; its `accepted_samples` are stored by then.

        Raises:
            UnknownStreamError, ClosedStreamError, MisfitError, TooFarAheadError: it cannot be.
            OverLimitError: no room.
            SeatTakenError: another connection resumes it at the same time.
            JetStreamUnavailableError: no answer; try again.
        """
        context = self._registry.context
        if self._registry.is_draining:
            raise OverLimitError
        stream = self._registry.find(request.tenant, request.stream_id)
        if stream is not None:
            if stream.request.sample_rate_hz != request.sample_rate_hz:
                raise MisfitError
            if stream.end_reason not in _OPEN_ENDED:
                raise ClosedStreamError(stream.end_reason or "")
            async with self._registry.rejoin(stream, request.audio_format, sink):
                await stream.wait_until_stored()
                await self._registry.replay(stream, after=request.position)
                yield stream
            return
        self._registry.check_room(request.tenant)  # before anybody lets go of it
        taken = await _take_over(context, request, self._reads)
        adopted = _build_request(taken.opened, request)
        async with self._registry.adopt(adopted, taken, sink) as stream:
            await self._registry.replay(stream, after=request.position)
            yield stream

    async def read_missed(self, request: ResumeRequest) -> AsyncGenerator[bytes, None]:
        """Yield the events of a closed stream that its client does not have.

        Raises:
            JetStreamUnavailableError: no answer; try again.
        """
        position = request.position
        for language in position.translations or ():
            late = f"translation.{language}"
            async for event in self._read_log(request, late, after=position.translated(language)):
                if event.sequence > position.sequence:
                    break
                yield with_sequence(event.payload, event.sequence)
        async for event in self._read_log(request, ">", after=position.sequence):
            if not position.has(event):
                yield with_sequence(event.payload, event.sequence)

    async def _read_log(
        self, request: ResumeRequest, tokens: str, *, after: int
    ) -> AsyncGenerator[StoredEvent, None]:
        subject = f"{WRITE_ROOT}.{request.tenant}.{request.stream_id}.{tokens}"
        while messages := await fetch_stored(
            self._registry.context.control_bus,
            TRANSCRIPT_STORE,
            subject,
            start_sequence=after + 1,
        ):
            for message in messages:
                yield read_stored_event(message)
            after = messages[-1].sequence


def _build_request(opened: StreamOpened, request: ResumeRequest) -> StreamRequest:
    return StreamRequest(
        tenant=opened.tenant,
        door=opened.door,
        sample_rate_hz=opened.sample_rate_hz,
        language=opened.language,
        target_languages=opened.target_languages,
        providers=opened.providers,
        has_filler_filter=opened.has_filler_filter,
        keywords=opened.keywords,
        skips_silence=opened.skips_silence,
        audio_format=request.audio_format,
        stream_id=opened.stream_id,
        is_resumable=True,
    )


async def _take_over(
    context: IngestContext, request: ResumeRequest, reads: asyncio.Semaphore
) -> TakenStream:
    found = await _read_log(context, request, ("opened", "closed"))
    opened, closed = found["opened"].event, found["closed"].event
    traceparent = found["opened"].traceparent
    if not isinstance(opened, StreamOpened) or not opened.is_resumable:
        raise UnknownStreamError
    if isinstance(closed, StreamClosed):
        raise ClosedStreamError(closed.reason, closed)
    if opened.sample_rate_hz != request.sample_rate_hz:
        raise MisfitError
    await _ask_for_release(context, request)
    ingest_epoch = await _take_epoch(context, request)
    found = await _read_log(context, request, ("reconfigured", "claim", "final", "covered", "gap"))
    covered_ms, received_at = _find_covered(opened, [read.event for read in found.values()])
    covered_sample = covered_ms * opened.sample_rate_hz // 1000
    async with reads:
        audio = await _read_audio(context, opened, covered_sample, from_ms=received_at)
    if audio.end is not None and (reason := _end_reason(audio.end)) != "end":
        raise ClosedStreamError(reason)
    # Where NATS has lost what it had acknowledged, the client has no more of it either.
    position = max(audio.position, request.kept_from)
    if position - audio.position > AUDIO_MAX_AGE_S * opened.sample_rate_hz:
        raise TooFarAheadError
    changed, claimed = found["reconfigured"].event, found["claim"].event
    logger.info(
        "stream resumed",
        extra={
            "stream_id": opened.stream_id,
            "ingest_epoch": ingest_epoch,
            "position_ms": position * 1000 // opened.sample_rate_hz,
            "chunks_read": len(audio.chunks),
        },
    )
    return TakenStream(
        opened=opened,
        traceparent=traceparent,
        claimed=claimed if isinstance(claimed, StreamClaimed) else None,
        claim_sequence=found["claim"].sequence,
        changed=changed if isinstance(changed, StreamReconfigured) else None,
        start=LaneStart(
            ingest_epoch=ingest_epoch,
            number=audio.number,
            position=position,
            covered_sample=covered_sample,
        ),
        audio=audio,
    )


async def _ask_for_release(context: IngestContext, request: ResumeRequest) -> None:
    subject = str(SourceSubject(request.tenant, request.stream_id))
    try:
        answer = await context.control_bus.request(subject, timeout=RELEASE_TIMEOUT_S)
    except nats.errors.NoRespondersError:
        return  # it is dead
    except (nats.errors.TimeoutError, TimeoutError):
        return  # it is frozen, and learns of us when it thaws
    except (nats.errors.Error, OSError) as error:
        raise JetStreamUnavailableError(type(error).__name__) from None
    reason = answer.data.decode(errors="replace")
    if reason not in {"", "end"}:
        raise ClosedStreamError(reason)


async def _take_epoch(context: IngestContext, request: ResumeRequest) -> int:
    while True:
        last = (await _read_log(context, request, ("resumed",)))["resumed"]
        epoch = last.event.ingest_epoch + 1 if isinstance(last.event, StreamResumed) else 2
        event = StreamResumed(
            stream_id=request.stream_id,
            tenant=request.tenant,
            ingest_epoch=epoch,
            ingest=context.ingest_id,
            resumed_at=context.now_ns() // 1_000_000,
        )
        dedup_id = resumed_dedup_id(request.stream_id, epoch, os.urandom(8).hex())
        try:
            await context.publisher.publish(
                str(WriteSubject(request.tenant, request.stream_id, "resumed")),
                encode_event(event),
                headers=encode_headers(
                    build_claim_headers(dedup_id, last_claim_sequence=last.sequence)
                ),
            )
        except StaleGuardError:
            continue  # somebody else was quicker: its client is sent away by ours
        return epoch


class _Read(msgspec.Struct, frozen=True):
    sequence: int = 0
    event: AnyEvent | None = None
    traceparent: str = ""


async def _read_log(
    context: IngestContext, request: ResumeRequest, kinds: tuple[WriteKind, ...]
) -> dict[WriteKind, _Read]:
    """Read the last event of each kind from the leader."""

    async def read(kind: WriteKind) -> _Read:
        subject = str(WriteSubject(request.tenant, request.stream_id, kind))
        stored = await read_last(context.control_bus, TRANSCRIPT_STORE, subject)
        if stored is None:
            return _Read()
        try:
            return _Read(stored.sequence, decode_event(stored.payload), stored.traceparent)
        except ContractError:
            return _Read(stored.sequence)

    with plain_errors(JetStreamUnavailableError):
        async with asyncio.TaskGroup() as reads:
            tasks: dict[WriteKind, asyncio.Task[_Read]] = {
                kind: reads.create_task(read(kind)) for kind in kinds
            }
    return {kind: task.result() for kind, task in tasks.items()}


def _find_covered(opened: StreamOpened, events: list[AnyEvent | None]) -> tuple[int, int]:
    """Return what is covered in ms, and when ingest had the audio there, ms since 1970."""
    covered = [(0, opened.opened_at)]
    for event in events:
        match event:
            case SegmentFinal() | StreamCovered():
                covered.append((event.covered_ms, event.audio_received_at))
            case Gap():
                covered.append((event.to_ms, event.audio_received_at))
            case _:
                pass
    return max(covered)


async def _read_audio(
    context: IngestContext, opened: StreamOpened, covered_sample: int, *, from_ms: int
) -> AudioEnd:
    store = audio_stream_name(opened.shard)
    subject = str(AudioSubject(opened.shard, opened.tenant, opened.stream_id))
    bus = context.audio.bus
    newest = await read_last(bus, store, subject)
    if newest is None:
        return find_end([], covered_sample=covered_sample)
    start_time = datetime.fromtimestamp((from_ms - FETCH_MARGIN_MS) / 1000, UTC).isoformat()
    chunks: list[AudioChunk] = []
    sequence = 0
    is_whole = False
    while sequence < newest.sequence:
        messages = await fetch_stored(
            bus,
            store,
            subject,
            start_time=start_time if not sequence and not is_whole else None,
            start_sequence=sequence + 1,
            messages_max=READ_CHUNKS,
        )
        for message in messages:
            try:
                chunks.append(decode_chunk(message.payload))
            except ContractError:
                continue
        if messages:
            sequence = messages[-1].sequence
        elif chunks or is_whole:
            # A replica that lags behind the leader; or all of it has been forgotten since.
            await asyncio.sleep(POLL_S)
            newest = await read_last(bus, store, subject)
            if newest is None or newest.sequence <= sequence:
                break
        if not is_whole and not _joins(chunks, covered_sample):
            is_whole, sequence, chunks = True, 0, []
    return find_end(chunks, covered_sample=covered_sample)


def _joins(chunks: list[AudioChunk], covered_sample: int) -> bool:
    """Whether the chunks begin early enough."""
    return any(chunk.first_sample < covered_sample or chunk.number == 0 for chunk in chunks)


class _End(msgspec.Struct):
    reason: str = "end"


def _end_reason(chunk: AudioChunk) -> str:
    try:
        return msgspec.json.decode(bytes(chunk.payload), type=_End).reason
    except msgspec.DecodeError:
        return "end"
