"""The stores of NATS are full, and a subscriber of NATS stands still, under live streams."""

import asyncio
from pathlib import Path

import pytest

from speechbus_contracts import TRANSCRIPT_STORE, SegmentFinal, decode_event
from speechbus_runtime.bus import connect_bus
from speechbus_runtime.jetstream import fetch_stored
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling, check_tiling
from tests.support.nats_strikes import (
    build_small_store,
    empty_store,
    fill_store,
    subscribe_and_sleep,
)
from tests.support.system import System

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_STREAMS = 10
N_FRAMES = 9 * 50

pytestmark = pytest.mark.nats


def test_streams_stand_a_full_store_and_a_subscriber_that_does_not_read(tmp_path: Path) -> None:
    """Finals wait for room, and probes say what to do; what the sleeper missed is in the store."""
    with System(tmp_path, nats_config=build_small_store(tmp_path)) as system:
        received, stored = asyncio.run(_strike(system))
        log = system.transcribers[0].log_path.read_text()

    assert [client.check_tiling(N_FRAMES) for client in received] == [EXACT] * N_STREAMS
    assert [client.gaps for client in received] == [[]] * N_STREAMS
    assert log.count("JetStream has no room: free some") == 1
    assert [check_tiling(stored[client.stream_id], N_FRAMES) for client in received] == (
        [EXACT] * N_STREAMS
    )


async def _strike(system: System) -> tuple[list[Received], dict[str, list[SegmentFinal]]]:
    bus = await connect_bus(system.nats.url, name="test")
    log = BusLog(bus)
    worker = system.transcribers[0]
    with subscribe_and_sleep(system.nats.url):
        async with asyncio.TaskGroup() as tasks:
            clients = [
                tasks.create_task(stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES))
                for _ in range(N_STREAMS)
            ]
            await wait_until(lambda: "Slow Consumer" in system.nats.log_path.read_text())
            await wait_until(lambda: log.n_with_final == N_STREAMS)
            await fill_store(system.nats.url)
            await wait_until(lambda: worker.probe("/readyz") == 503)
            await empty_store(system.nats.url)
            await wait_until(lambda: worker.probe("/readyz") == 200)
    stored: dict[str, list[SegmentFinal]] = {}
    for message in await fetch_stored(bus, TRANSCRIPT_STORE, "speech.v1.write.*.*.final"):
        event = decode_event(message.payload)
        assert isinstance(event, SegmentFinal)
        stored.setdefault(event.stream_id, []).append(event)
    await bus.shut_down()
    return [client.result() for client in clients], stored
