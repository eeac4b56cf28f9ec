"""Taking ownership of a stream: read the last claim, compare-and-set, then read the checkpoint."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    AnyEvent,
    ContractError,
    JobOpen,
    SegmentFinal,
    StreamClaimed,
    StreamOpened,
    StreamReconfigured,
    WriteKind,
    WriteSubject,
    build_claim_headers,
    claim_dedup_id,
    decode_event,
    encode_event,
)
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.jetstream import (
    JetStreamUnavailableError,
    StoredMessage,
    fetch_last,
    fetch_stored,
    read_last,
)
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from speechbus_runtime.tracing import Tracing
from speechbus_transcriber.checkpoint import Checkpoint, build_checkpoint

__all__ = ["OwnedStream", "StreamUnknownError", "claim_stream", "read_changes"]

RETRY_S: Final = 0.25
REPLICA_BEHIND_S: Final = 0.02
"""A replica has what the leader has acknowledged some milliseconds later."""
CLAIM_TRIES_MAX: Final = 5
"""Each lost race means that somebody else has the stream now; its next read ends the matter."""


class StreamUnknownError(Exception):
    """The log does not know the stream of a job."""


class OwnedStream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that this worker has claimed."""

    opened: StreamOpened
    epoch: int
    token: int
    """Sequence of the claim: the guard of every write."""
    checkpoint: Checkpoint
    changes: tuple[StreamReconfigured, ...] = ()
    """Of its settings, in order."""
    traceparent: str = ""
    """Of the claim: all that its worker does follows from it."""


async def claim_stream(
    bus: BusConnection,
    publisher: AckedPublisher,
    job: JobOpen,
    *,
    worker_id: str,
    choose: Callable[[StreamOpened], str],
    now_ms: int,
    tracing: Tracing | None = None,
    traceparent: str = "",
) -> OwnedStream | None:
    """Claim the stream of a job.

    Args:
        bus: for reads; none that decides anything may be behind the leader.
        publisher: for the claim.
        job: what was placed here.
        worker_id: this worker.
        choose: names the provider that this worker will try first, for the event.
        now_ms: ms since 1970.
        tracing: makes the span of the claim.
        traceparent: of the job; without it the claim follows from the stream's opening.

    Returns:
        None when the job is stale: the stream has closed, or has a newer owner.

    Raises:
        StreamUnknownError: nobody has opened it, or that has expired, or the server that answered
            does not know yet.
        JetStreamUnavailableError: no answer; the job will be delivered again.
        ContractError: the job names what cannot be a stream.
    """
    for n_tries in range(CLAIM_TRIES_MAX):
        if await read_last(bus, TRANSCRIPT_STORE, _subject(job, "closed")) is not None:
            return None
        # One request for three; a replica that is behind loses the race, and the leader is asked.
        read_all = _read_leader if n_tries else _read_replica
        found = await read_all(bus, job, ("opened", "claim", "final"))
        opened = found["opened"].event
        claimed = found["claim"].event
        final = found["final"].event
        if not isinstance(opened, StreamOpened):
            if n_tries:
                raise StreamUnknownError
            continue
        if isinstance(claimed, StreamClaimed) and claimed.epoch >= job.epoch:
            return None
        event = StreamClaimed(
            stream_id=job.stream_id,
            tenant=job.tenant,
            epoch=job.epoch,
            worker=worker_id,
            provider=choose(opened),
            from_ms=final.covered_ms if isinstance(final, SegmentFinal) else 0,
            reason=job.reason,
            claimed_at=now_ms,
        )
        headers = build_claim_headers(
            claim_dedup_id(job.stream_id, job.epoch, worker_id),
            last_claim_sequence=found["claim"].sequence,
            previous=0 if found["claim"].sequence else found["opened"].sequence,
        )
        parent = traceparent or found["opened"].traceparent
        span = (tracing or Tracing()).start(
            "claim stream",
            kind="consumer",
            parent=parent,
            started_at_ms=now_ms,
            attributes={
                "speechbus.stream.id": job.stream_id,
                "speechbus.worker": worker_id,
                "speechbus.epoch": job.epoch,
                "speechbus.reason": job.reason,
            },
        )
        with span:
            try:
                ack = await publisher.publish(
                    _subject(job, "claim"),
                    encode_event(event),
                    headers=encode_headers(headers | span.headers),
                    store=TRANSCRIPT_STORE,
                )
            except StaleGuardError:
                span.fail("lost_race")
                continue
        checkpoint: Checkpoint | None = Checkpoint()
        async with asyncio.TaskGroup() as reads:
            changes = reads.create_task(read_changes(bus, opened))
            if found["claim"].sequence:  # also of one that cannot be read
                # Only now: whatever the former owner still got in was accepted before our claim.
                checkpoint = await _read_checkpoint(bus, job, token=ack.seq)
        if checkpoint is None:
            return None
        return OwnedStream(
            opened=opened,
            epoch=job.epoch,
            token=ack.seq,
            checkpoint=checkpoint,
            changes=changes.result(),
            traceparent=span.traceparent,
        )
    return None


async def _read_checkpoint(bus: BusConnection, job: JobOpen, *, token: int) -> Checkpoint | None:
    """Return where the stream stands; None: it was closed before our claim."""
    kinds: tuple[WriteKind, ...] = ("claim", "final", "covered", "gap", "retracted", "closed")
    # The claim stands: giving up now would leave a stream that nobody carries and nobody places.
    while True:
        try:
            found = await _read_replica(bus, job, kinds)
        except JetStreamUnavailableError:
            await asyncio.sleep(RETRY_S)
            continue
        # One answer of one server: if it has our claim, it has everything before it. A follower,
        # or a leader that does not know yet that it is none, may not.
        if found["claim"].sequence >= token:
            break
        await asyncio.sleep(REPLICA_BEHIND_S)
    if found["closed"].event is not None:
        return None
    return build_checkpoint(read.event for read in found.values() if read.event is not None)


async def read_changes(bus: BusConnection, opened: StreamOpened) -> tuple[StreamReconfigured, ...]:
    """Read all changes of a stream's settings, in order; waits as long as NATS is away.

    One that a replica does not know yet is still a chunk in AUDIO.
    """
    subject = str(WriteSubject(opened.tenant, opened.stream_id, "reconfigured"))
    changes: list[StreamReconfigured] = []
    sequence = 0
    while True:
        try:
            messages = await fetch_stored(
                bus, TRANSCRIPT_STORE, subject, start_sequence=sequence + 1
            )
        except JetStreamUnavailableError:
            await asyncio.sleep(RETRY_S)
            continue
        if not messages:
            return tuple(changes)
        sequence = messages[-1].sequence
        for message in messages:
            with suppress(ContractError):
                event = decode_event(message.payload)
                if isinstance(event, StreamReconfigured):
                    changes.append(event)


class _Read(msgspec.Struct, frozen=True):
    sequence: int = 0
    event: AnyEvent | None = None
    traceparent: str = ""


_NOTHING: Final = _Read()


async def _read_replica(
    bus: BusConnection, job: JobOpen, kinds: tuple[WriteKind, ...]
) -> Mapping[WriteKind, _Read]:
    subjects: dict[str, WriteKind] = {_subject(job, kind): kind for kind in kinds}
    found: dict[WriteKind, _Read] = dict.fromkeys(kinds, _NOTHING)
    for stored in await fetch_last(bus, TRANSCRIPT_STORE, list(subjects)):
        found[subjects[stored.subject]] = _decode(stored)
    return found


async def _read_leader(
    bus: BusConnection, job: JobOpen, kinds: tuple[WriteKind, ...]
) -> Mapping[WriteKind, _Read]:
    found: dict[WriteKind, _Read] = {}
    for kind in kinds:
        stored = await read_last(bus, TRANSCRIPT_STORE, _subject(job, kind))
        found[kind] = _NOTHING if stored is None else _decode(stored)
    return found


def _subject(job: JobOpen, kind: WriteKind) -> str:
    return str(WriteSubject(job.tenant, job.stream_id, kind))


def _decode(stored: StoredMessage) -> _Read:
    try:
        return _Read(stored.sequence, decode_event(stored.payload), stored.traceparent)
    except ContractError:
        # Not ours to repair: the sequence still counts for the compare-and-set.
        return _Read(stored.sequence)
