"""Which worker gets which stream, and what happens when no worker has room."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from speechbus_contracts import StreamClaimed
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_numbers import Tiling, build_frames, check_tiling
from tests.support.native_client import PATIENCE_S, NativeClient, connect_native, watch_bus
from tests.support.system import System

pytestmark = pytest.mark.nats

EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)


def test_streams_spread_in_proportion_to_what_workers_can_carry(tmp_path: Path) -> None:
    """A pool of unequal machines: none is full while another one idles."""
    capacities = {"a": 20, "b": 20, "c": 30, "d": 10}
    with System(tmp_path, transcribers=0) as system:
        for worker, capacity in capacities.items():
            system.add_service("transcriber", WORKER_ID=worker, SESSIONS_MAX=str(capacity))
        workers = asyncio.run(_open_side_by_side(system, 40))

    assert workers.total() == 40
    for worker, expected in {"a": 10, "b": 10, "c": 15, "d": 5}.items():
        assert abs(workers[worker] - expected) <= 1, workers


async def _open_side_by_side(system: System, n_streams: int) -> Counter[str]:
    async with watch_bus(system) as log, AsyncExitStack() as connections:
        clients = [
            await connections.enter_async_context(connect_native(system.ingest, system.key))
            for _ in range(n_streams)
        ]
        async with asyncio.TaskGroup() as opening:
            for client in clients:
                opening.create_task(client.open())
        await wait_until(lambda: len(_claims(log)) == n_streams, within_s=PATIENCE_S)
        workers = Counter(claim.worker for claim in _claims(log))
        async with asyncio.TaskGroup() as ending:
            for client in clients:
                ending.create_task(client.end())
        return workers


def _claims(log: BusLog) -> list[StreamClaimed]:
    return [e for events in log.events.values() for e in events if isinstance(e, StreamClaimed)]


@pytest.mark.parametrize("room_by", ["a stream that ends", "a worker that is added"])
def test_a_stream_without_a_worker_waits_and_loses_nothing(tmp_path: Path, room_by: str) -> None:
    """A full pool is no error: the client is told, its audio is kept, and it is served in full."""
    with System(tmp_path, transcriber_settings={"SESSIONS_MAX": "2"}) as system:
        clients = asyncio.run(
            _fill_pool(
                system,
                (lambda: None)
                if room_by == "a stream that ends"
                else lambda: system.add_service("transcriber"),
            )
        )

    *first, late = clients
    assert all("queued" not in {m["type"] for m in client.messages} for client in first)
    (queued,) = [m for m in late.messages if m["type"] == "queued"]
    assert "keep sending" in queued["message"]
    for client in clients:
        assert check_tiling(client.finals, 500) == EXACT
        assert (client.closed.audio_ms, client.closed.gap_ms) == (10_000, 0)


async def _fill_pool(system: System, add_room: Callable[[], object]) -> list[NativeClient]:
    async with AsyncExitStack() as connections:
        clients = [
            await connections.enter_async_context(connect_native(system.ingest, system.key))
            for _ in range(3)
        ]
        *first, late = clients
        for client in first:
            await client.open()
            await client.hear_until("stream.claimed")
        await late.open()
        await late.send(build_frames(1, 450))
        await late.hear_until("queued")
        await asyncio.to_thread(add_room)
        await first[0].send(build_frames(1, 500))
        await first[0].end()
        await late.hear_until("stream.claimed")
        await late.send(build_frames(451, 50))
        await late.end()
        await first[1].send(build_frames(1, 500))
        await first[1].end()
        return clients
