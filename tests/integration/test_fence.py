"""A worker that has lost its stream: what it still writes is refused, whatever it believes."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from speechbus_contracts import (
    JobOpen,
    StreamClosed,
    StreamCovered,
    StreamOpened,
    WriteSubject,
    build_dedup_headers,
    encode_event,
)
from speechbus_runtime.bus import connect_bus, encode_headers
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from speechbus_transcriber.claim import OwnedStream, claim_stream
from speechbus_transcriber.event_log import EventLog
from tests.support.bus_log import BusLog, wait_until
from tests.support.system import System

pytestmark = pytest.mark.nats

OPENED = StreamOpened(
    stream_id="s-1", tenant="acme", opened_at=1_790_000_000_000, sample_rate_hz=16_000, shard=0
)

CLOSED = StreamClosed(
    stream_id="s-1", tenant="acme", epoch=2, reason="end", audio_ms=2_000, finals=0, gap_ms=0
)


def test_what_a_fenced_worker_writes_never_reaches_a_subscriber(tmp_path: Path) -> None:
    """It may be frozen between its decision and its write: only the server can know."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        log = asyncio.run(_write_after_being_fenced(system.nats.url))

    covered = [event for event in log.events["s-1"] if isinstance(event, StreamCovered)]
    assert [(event.epoch, event.covered_ms) for event in covered] == [(1, 1_000), (2, 2_000)]
    log.assert_only_owners_are_heard()


async def _write_after_being_fenced(url: str) -> BusLog:
    bus = await connect_bus(url, name="test")
    log = BusLog(bus)
    publisher = AckedPublisher(bus)
    await publisher.publish(
        str(WriteSubject("acme", "s-1", "opened")),
        encode_event(OPENED),
        headers=encode_headers(build_dedup_headers("s-1:opened:0")),
    )

    async def claim(
        worker_id: str, epoch: int, choose: Callable[[StreamOpened], str] = lambda _: "echo"
    ) -> OwnedStream | None:
        job = JobOpen(stream_id="s-1", tenant="acme", epoch=epoch, reason="test")
        return await claim_stream(bus, publisher, job, worker_id=worker_id, choose=choose, now_ms=0)

    first = await claim("first", 1)
    assert first is not None
    await EventLog(first, publisher).write(_covered(1, 1_000))
    second = await claim("second", 2)
    assert second is not None
    assert second.checkpoint.covered_ms == 1_000
    with pytest.raises(StaleGuardError):
        await EventLog(first, publisher).write(_covered(1, 9_000))
    await EventLog(second, publisher).write(_covered(2, 2_000))
    assert await claim("third", 2) is None, "an old job does not take a stream"

    def close(_opened: StreamOpened) -> str:
        # In the moment between the look at `closed` and the claim.
        subject = str(WriteSubject("acme", "s-1", "closed"))
        bus.publish_nowait(subject.encode(), encode_event(CLOSED))
        return "echo"

    assert await claim("fourth", 3, close) is None, "a closed stream is not carried on"
    await wait_until(lambda: len(log.events["s-1"]) >= 5)
    await bus.shut_down()
    return log


def _covered(epoch: int, covered_ms: int) -> StreamCovered:
    return StreamCovered(
        stream_id="s-1",
        tenant="acme",
        epoch=epoch,
        covered_ms=covered_ms,
        next_index=0,
        audio_received_at=0,
    )
