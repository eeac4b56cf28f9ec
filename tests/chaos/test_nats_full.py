"""The stores of NATS are full, and a subscriber of NATS stands still, under live streams."""

import asyncio
import socket
from pathlib import Path

import pytest

from speechbus_contracts import TRANSCRIPT_STORE, SegmentFinal, decode_event
from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.jetstream import (
    StreamSpec,
    ensure,
    fetch_stored,
    request_api,
)
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling, check_tiling
from tests.support.nats_server import DEV_CONFIG
from tests.support.system import Service, System

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_STREAMS = 10
N_FRAMES = 9 * 50
FILLER = StreamSpec(name="FILLER", config={"subjects": ["filler"], "storage": "file"})
N_SUBSCRIPTIONS = 50
"""Of the slow subscriber: as many copies of everything, so that little audio is much to read."""

pytestmark = pytest.mark.nats


def test_streams_stand_a_full_store_and_a_subscriber_that_does_not_read(tmp_path: Path) -> None:
    """Finals wait for room, and probes say what a person must do; the sleeper is cut off
    (`write_deadline`, `max_pending`), and finds in TRANSCRIPT what it has missed.
    """
    config = tmp_path / "nats.conf"
    text = DEV_CONFIG.read_text()
    assert "max_file_store: 20GB" in text
    config.write_text(text.replace("max_file_store: 20GB", "max_file_store: 4MB"))
    with System(tmp_path, nats_config=config) as system:
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
    with socket.socket() as sleeper:
        _subscribe_and_sleep(sleeper, system)
        async with asyncio.TaskGroup() as tasks:
            clients = [
                tasks.create_task(stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES))
                for _ in range(N_STREAMS)
            ]
            await wait_until(lambda: "Slow Consumer" in system.nats.log_path.read_text())
            await wait_until(lambda: log.n_with_final == N_STREAMS)
            await _fill_the_store(bus, system.transcribers[0])
    stored: dict[str, list[SegmentFinal]] = {}
    for message in await fetch_stored(bus, TRANSCRIPT_STORE, "speech.v1.write.*.*.final"):
        event = decode_event(message.payload)
        assert isinstance(event, SegmentFinal)
        stored.setdefault(event.stream_id, []).append(event)
    await bus.shut_down()
    return [client.result() for client in clients], stored


def _subscribe_and_sleep(sleeper: socket.socket, system: System) -> None:
    sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sleeper.connect(("127.0.0.1", int(system.nats.url.rpartition(":")[2])))
    sleeper.sendall(b'CONNECT {"verbose":false}\r\n')
    for sid in range(N_SUBSCRIPTIONS):
        sleeper.sendall(b"SUB speech.v1.> %d\r\n" % sid)


async def _fill_the_store(bus: BusConnection, worker: Service) -> None:
    await ensure(bus, [FILLER])
    for size in (200_000, 1_000, 10):
        await _publish_until_full(bus, size)
    await wait_until(lambda: worker.probe("/readyz") == 503)
    await request_api(bus, "STREAM.PURGE.FILLER", {})
    await wait_until(lambda: worker.probe("/readyz") == 200)


async def _publish_until_full(bus: BusConnection, size: int) -> None:
    while b"error" not in (await bus.request("filler", bytes(size), timeout=10)).data:
        pass
