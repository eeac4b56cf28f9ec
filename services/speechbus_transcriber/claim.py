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
from speechbus_runtime.jetstream import JetStreamUnavailableError, fetch_stored, read_last
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from speechbus_runtime.task_groups import plain_errors
from speechbus_transcriber.checkpoint import Checkpoint, build_checkpoint

__all__ = ["OwnedStream", "claim_stream", "read_changes"]

RETRY_S: Final = 0.25
CLAIM_TRIES_MAX: Final = 5
"""Each lost race means that somebody else has the stream now; its next read ends the matter."""


class OwnedStream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that this worker has claimed."""

    opened: StreamOpened
    epoch: int
    token: int
    """Sequence of the claim: the guard of every write."""
    checkpoint: Checkpoint
    changes: tuple[StreamReconfigured, ...] = ()
    """Of its settings, in order."""


async def claim_stream(
    bus: BusConnection,
    publisher: AckedPublisher,
    job: JobOpen,
    *,
    worker_id: str,
    choose: Callable[[StreamOpened], str],
    now_ms: int,
) -> OwnedStream | None:
    """Claim the stream of a job.

    Args:
        bus: for reads, which go to the leader: a stale answer would double finals.
        publisher: for the claim.
        job: what was placed here.
        worker_id: this worker.
        choose: names the provider that this worker will try first, for the event.
        now_ms: ms since 1970.

    Returns:
        None when the job is stale: the stream has closed, expired, or has a newer owner.

    Raises:
        JetStreamUnavailableError: no answer; the job will be delivered again.
        ContractError: the job names what cannot be a stream.
    """
    for _ in range(CLAIM_TRIES_MAX):
        found = await _read_all(bus, job, ("opened", "claim", "final", "closed"))
        opened = found["opened"].event
        claimed = found["claim"].event
        final = found["final"].event
        if not isinstance(opened, StreamOpened) or found["closed"].event is not None:
            return None
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
        dedup_id = claim_dedup_id(job.stream_id, job.epoch, worker_id)
        try:
            ack = await publisher.publish(
                str(WriteSubject(job.tenant, job.stream_id, "claim")),
                encode_event(event),
                headers=encode_headers(
                    build_claim_headers(dedup_id, last_claim_sequence=found["claim"].sequence)
                ),
            )
        except StaleGuardError:
            continue
        # Only now: whatever the former owner still got in was accepted before our claim.
        async with asyncio.TaskGroup() as reads:
            changes = reads.create_task(read_changes(bus, opened))
            checkpoint = Checkpoint() if claimed is None else await _read_checkpoint(bus, job)
        return OwnedStream(
            opened=opened,
            epoch=job.epoch,
            token=ack.seq,
            checkpoint=checkpoint,
            changes=changes.result(),
        )
    return None


async def _read_checkpoint(bus: BusConnection, job: JobOpen) -> Checkpoint:
    # The claim stands: giving up now would leave a stream that nobody carries and nobody places.
    while True:
        try:
            found = await _read_all(bus, job, ("final", "covered", "gap", "retracted"))
        except JetStreamUnavailableError:
            await asyncio.sleep(RETRY_S)
        else:
            break
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


async def _read_all(
    bus: BusConnection, job: JobOpen, kinds: tuple[WriteKind, ...]
) -> Mapping[WriteKind, _Read]:
    with plain_errors(JetStreamUnavailableError, ContractError):
        async with asyncio.TaskGroup() as reads:
            tasks: dict[WriteKind, asyncio.Task[_Read]] = {
                kind: reads.create_task(_read(bus, job, kind)) for kind in kinds
            }
    return {kind: task.result() for kind, task in tasks.items()}


async def _read(bus: BusConnection, job: JobOpen, kind: WriteKind) -> _Read:
    stored = await read_last(
        bus, TRANSCRIPT_STORE, str(WriteSubject(job.tenant, job.stream_id, kind))
    )
    if stored is None:
        return _Read()
    try:
        return _Read(stored.sequence, decode_event(stored.payload))
    except ContractError:
        # Not ours to repair: the sequence still counts for the compare-and-set.
        return _Read(stored.sequence)
