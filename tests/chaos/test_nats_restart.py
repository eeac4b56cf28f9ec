"""NATS itself goes away and comes back, its memory empty."""

import asyncio
from pathlib import Path

import pytest

from speechbus_contracts import Gap, SegmentFinal
from speechbus_runtime.bus import connect_bus
from speechbus_runtime.jetstream import request_api
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling, check_tiling
from tests.support.system import System

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_STREAMS = 20
N_FRAMES = 12 * 50
FRAMES_PER_MESSAGE = 5
MESSAGES_LOST = 40

pytestmark = pytest.mark.nats


def test_a_nats_restart_under_live_streams_loses_nothing(tmp_path: Path) -> None:
    """AUDIO is in memory and dies with the server; ingest still holds what no final covers."""
    with System(tmp_path, transcribers=2) as system:
        received = asyncio.run(_restart_nats(system, kill_worker=False))

    assert [client.check_tiling(N_FRAMES) for client in received] == [EXACT] * N_STREAMS
    assert [client.gaps for client in received] == [[]] * N_STREAMS


def test_a_nats_restart_and_a_dead_worker_together_lose_nothing(tmp_path: Path) -> None:
    """The new owner finds in AUDIO what ingest has published again, though both stores died."""
    with System(tmp_path, transcribers=2) as system:
        received = asyncio.run(_restart_nats(system, kill_worker=True))

    assert [client.check_tiling(N_FRAMES) for client in received] == [EXACT] * N_STREAMS
    assert [client.gaps for client in received] == [[]] * N_STREAMS


async def _restart_nats(system: System, *, kill_worker: bool) -> list[Received]:
    bus = await connect_bus(system.nats.url, name="test-log")
    log = BusLog(bus)
    async with asyncio.TaskGroup() as tasks:
        clients = [
            tasks.create_task(stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES))
            for _ in range(N_STREAMS)
        ]
        await wait_until(lambda: log.n_with_final == N_STREAMS)
        system.nats.kill()
        if kill_worker:
            system.transcribers[0].kill()
        system.nats.start()
    await bus.shut_down()
    return [client.result() for client in clients]


def test_audio_that_nobody_has_any_more_is_named_in_a_gap(tmp_path: Path) -> None:
    """What cannot be transcribed is said in an event, and everything around it is exact.

    No worker is there while the beginning of the stream vanishes from AUDIO; ingest has been told
    that it is stored, and NATS does not go away, so nobody publishes it again.
    """
    with System(tmp_path, transcribers=0) as system:
        client = asyncio.run(_lose_the_beginning(system))

    lost_frames = MESSAGES_LOST * FRAMES_PER_MESSAGE
    assert [(gap.from_ms, gap.to_ms, gap.reason) for gap in client.gaps] == [
        (0, lost_frames * 20, "audio_lost")
    ]
    assert client.closed is not None
    assert client.closed.gap_ms == lost_frames * 20
    assert check_tiling(client.finals, N_FRAMES) == Tiling(
        missing=lost_frames, doubled=0, time_error_ms_max=0, is_ordered=True
    )
    first = min(
        (event for event in client.events if isinstance(event, Gap | SegmentFinal)),
        key=client.events.index,
    )
    assert isinstance(first, Gap)


async def _lose_the_beginning(system: System) -> Received:
    bus = await connect_bus(system.nats.url, name="test-purge")
    async with asyncio.TaskGroup() as tasks:
        client = tasks.create_task(
            stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES, is_paced=False)
        )
        while True:
            found = {
                name: (await request_api(bus, f"STREAM.INFO.{name}", {}))["state"]["messages"]
                for name in (f"AUDIO_{shard}" for shard in range(4))
            }
            # All of the stream, its end marker included.
            if sum(found.values()) > N_FRAMES // FRAMES_PER_MESSAGE:
                break
            await asyncio.sleep(0.01)
        (store,) = (name for name, messages in found.items() if messages)
        await request_api(bus, f"STREAM.PURGE.{store}", {"seq": MESSAGES_LOST + 1})
        await asyncio.to_thread(system.add_service, "transcriber")
    await bus.shut_down()
    return client.result()
