"""A worker that has lost its stream: what it still writes is refused, whatever it believes."""

import asyncio
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
from speechbus_contracts.subjects import TRANSCRIPT_ROOT
from speechbus_ingest.event_order import StoredEvent, read_event
from speechbus_runtime.bus import BusConnection, connect_bus, encode_headers
from speechbus_runtime.publisher import Ack, AckedPublisher, StaleGuardError
from speechbus_runtime.telemetry import Telemetry
from speechbus_transcriber.claim import OwnedStream, claim_stream
from speechbus_transcriber.event_log import EventLog
from speechbus_transcriber.measures import Measures
from tests.support.bus_log import BusLog, wait_until
from tests.support.caption_world import translation_of
from tests.support.correlator import Bus, final_of
from tests.support.metrics import parse_metrics
from tests.support.system import System

pytestmark = pytest.mark.nats

OPENED = StreamOpened(
    stream_id="s-1", tenant="acme", opened_at=1_790_000_000_000, sample_rate_hz=16_000, shard=0
)


def test_what_a_fenced_worker_writes_never_reaches_a_subscriber(tmp_path: Path) -> None:
    """It may be frozen between its decision and its write: only the server can know."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        log = asyncio.run(_write_after_being_fenced(system.nats.url))

    covered = [event for event in log.events["s-1"] if isinstance(event, StreamCovered)]
    assert [(event.epoch, event.covered_ms) for event in covered] == [(1, 1_000), (2, 2_000)]
    log.assert_only_owners_are_heard()


def test_a_stream_that_ended_before_it_was_claimed_is_left_alone(tmp_path: Path) -> None:
    """A job may lie in the queue while its stream's owner writes the last event."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        assert asyncio.run(_claim_what_is_closing(system.nats.url)) is None


async def _claim_what_is_closing(url: str) -> OwnedStream | None:
    bus = await connect_bus(url, name="test")
    publisher = _ClosingPublisher(bus)
    await publisher.publish(
        str(WriteSubject("acme", "s-1", "opened")),
        encode_event(OPENED),
        headers=encode_headers(build_dedup_headers("s-1:opened:0")),
    )
    publisher.owned = await _claim(bus, publisher, "first", 1)
    assert publisher.owned is not None
    publisher.is_closing = True
    found = await _claim(bus, publisher, "second", 2)
    await bus.shut_down()
    return found


class _ClosingPublisher(AckedPublisher):
    """Has the owner close its stream between the second worker's read and its claim."""

    owned: OwnedStream | None = None
    is_closing = False

    async def publish(
        self, subject: str, payload: bytes, *, headers: bytes, store: str | None = None
    ) -> Ack:
        if self.is_closing and self.owned is not None:
            self.is_closing = False
            closed = StreamClosed(
                stream_id="s-1",
                tenant="acme",
                epoch=1,
                reason="end",
                audio_ms=0,
                finals=0,
                gap_ms=0,
            )
            await EventLog(self.owned, self, Measures(Telemetry("test"), capacity=1)).write(closed)
        return await super().publish(subject, payload, headers=headers, store=store)


def test_a_translation_that_a_translator_made_before_hides_no_event_of_the_owner(
    tmp_path: Path,
) -> None:
    """The owner's own is dropped as a repetition; what it wrote last is still what it says."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        events = asyncio.run(_translate_after_a_translator(system.nats.url))

    finals = [event for event in events if event.kind == "final"]
    assert [event.kind for event in events].count("translation") == 1
    assert finals[2].previous == finals[1].sequence


async def _translate_after_a_translator(url: str) -> list[StoredEvent]:
    bus = await connect_bus(url, name="test")
    events: list[StoredEvent] = []
    bus.subscribe_direct(
        f"{TRANSCRIPT_ROOT}.>",
        lambda subject, _, payload, headers: events.append(read_event(subject, payload, headers)),
    )
    publisher = AckedPublisher(bus)
    await publisher.publish(
        str(WriteSubject("acme", "s-1", "opened")),
        encode_event(OPENED),
        headers=encode_headers(build_dedup_headers("s-1:opened:0")),
    )
    owned = await _claim(bus, publisher, "first", 1)
    assert owned is not None
    log = EventLog(owned, publisher, Measures(Telemetry("test"), capacity=1))
    finals = [final_of(index, stream_id="s-1", target_languages=("es",)) for index in range(3)]
    sequence = await log.write(finals[0])
    translation = translation_of(finals[0], "es", source_sequence=sequence)
    await Bus(bus).write(translation)
    await log.write(finals[1])
    await log.write(translation)
    await log.write(finals[2])
    await wait_until(lambda: [event.kind for event in events].count("final") == 3)
    await bus.shut_down()
    return events


async def _claim(
    bus: BusConnection, publisher: AckedPublisher, worker_id: str, epoch: int
) -> OwnedStream | None:
    job = JobOpen(stream_id="s-1", tenant="acme", epoch=epoch, reason="test")
    return await claim_stream(
        bus, publisher, job, worker_id=worker_id, choose=lambda _: "echo", now_ms=0
    )


async def _write_after_being_fenced(url: str) -> BusLog:
    bus = await connect_bus(url, name="test")
    log = BusLog(bus)
    publisher = AckedPublisher(bus)
    telemetry = Telemetry("test")
    measures = Measures(telemetry, capacity=2)
    await publisher.publish(
        str(WriteSubject("acme", "s-1", "opened")),
        encode_event(OPENED),
        headers=encode_headers(build_dedup_headers("s-1:opened:0")),
    )

    first = await _claim(bus, publisher, "first", 1)
    assert first is not None
    await EventLog(first, publisher, measures).write(_covered(1, 1_000))
    second = await _claim(bus, publisher, "second", 2)
    assert second is not None
    assert second.checkpoint.covered_ms == 1_000
    with pytest.raises(StaleGuardError):
        await EventLog(first, publisher, measures).write(_covered(1, 9_000))
    assert parse_metrics(telemetry.render())["speechbus_transcriber_writes_fenced_total"] == 1
    await EventLog(second, publisher, measures).write(_covered(2, 2_000))
    assert await _claim(bus, publisher, "third", 2) is None, "an old job does not take a stream"
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
