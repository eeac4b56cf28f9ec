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
    StreamClosed,
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
    fetch_last,
    fetch_stored,
    read_last,
)
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from speechbus_runtime.task_groups import plain_errors
from speechbus_transcriber.checkpoint import Checkpoint, build_checkpoint

__all__ = ["OwnedStream", "StreamUnknownError", "claim_stream", "read_changes"]

RETRY_S: Final = 0.25
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
        None when the job is stale: the stream has closed, or has a newer owner.

    Raises:
        StreamUnknownError: nobody has opened it, or that has expired, or the server that answered
            does not know yet.
        JetStreamUnavailableError: no answer; the job will be delivered again.
        ContractError: the job names what cannot be a stream.
    """
    for _ in range(CLAIM_TRIES_MAX):
        found = await _read_all(bus, job, ("opened", "claim", "final", "closed"))
        opened = found["opened"].event
        claimed = found["claim"].event
        final = found["final"].event
        if found["closed"].event is not None:
            return None
        if not isinstance(opened, StreamOpened):
            raise StreamUnknownError
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
                    build_claim_headers(
                        dedup_id,
                        last_claim_sequence=found["claim"].sequence,
                        previous=0 if found["claim"].sequence else found["opened"].sequence,
                    )
                ),
                store=TRANSCRIPT_STORE,
            )
        except StaleGuardError:
            continue
        checkpoint: Checkpoint | None = Checkpoint()
        if claimed is not None:
            # Only now: whatever the former owner still got in was accepted before our claim.
            checkpoint = await _read_checkpoint(bus, job, token=ack.seq)
        if checkpoint is None:
            return None
        return OwnedStream(
            opened=opened,
            epoch=job.epoch,
            token=ack.seq,
            checkpoint=checkpoint,
            changes=await read_changes(bus, opened),
        )
    return None


async def _read_checkpoint(bus: BusConnection, job: JobOpen, *, token: int) -> Checkpoint | None:
    """Return where the stream stands; None: it was closed before our claim."""
    kinds: tuple[WriteKind, ...] = ("claim", "final", "covered", "gap", "retracted", "closed")
    subjects = [str(WriteSubject(job.tenant, job.stream_id, kind)) for kind in kinds]
    # The claim stands: giving up now would leave a stream that nobody carries and nobody places.
    while True:
        with suppress(JetStreamUnavailableError):
            stored = await fetch_last(bus, TRANSCRIPT_STORE, subjects)
            # One answer of one server: if it has our claim, it has everything before it. A
            # follower, or a leader that does not know yet that it is none, may not.
            if any(one.sequence >= token and one.subject == subjects[0] for one in stored):
                break
        await asyncio.sleep(RETRY_S)
    events = [event for one in stored if (event := _decode(one.payload)) is not None]
    if any(isinstance(event, StreamClosed) for event in events):
        return None
    return build_checkpoint(events)


def _decode(payload: bytes) -> AnyEvent | None:
    try:
        return decode_event(payload)
    except ContractError:
        return None  # not ours to repair


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
    # One that cannot be read still counts for the compare-and-set.
    return _Read(stored.sequence, _decode(stored.payload))
