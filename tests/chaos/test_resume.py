"""Clients lose their ingest, or their connection, and come back: nothing is lost or doubled."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import websockets

from speechbus_contracts import (
    ROOT,
    Gap,
    SegmentPartial,
    StreamClaimed,
    StreamClosed,
)
from speechbus_runtime.bus import connect_bus
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling, check_tiling
from tests.support.native_client import closed_of, finals_of
from tests.support.resuming_client import ResumingClient
from tests.support.system import Service, System

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
AUDIO_S = 16
N_FRAMES = AUDIO_S * 50
N_EACH = 3

pytestmark = pytest.mark.nats


class Outcome(msgspec.Struct, frozen=True):
    """What came of the clients that suffered one fault."""

    clients: Sequence[ResumingClient]
    received: Sequence[Received]

    def assert_exact(self, *, n_resumed: int) -> None:
        """Every frame once, no gap, ended as the client wanted."""
        for client, received in zip(self.clients, self.received, strict=True):
            assert received.check_tiling(N_FRAMES) == EXACT
            assert received.gaps == []
            assert received.closed is not None
            assert (received.closed.audio_ms, received.closed.reason) == (N_FRAMES * 20, "end")
            assert len(client.resumed_from) == n_resumed
            assert min(client.resumed_from) > 16_000


def test_streams_outlive_connections_ingests_and_workers(tmp_path: Path) -> None:
    """All at once, as faults come.

    Connections are cut, an ingest is killed, another freezes, and one dies in the same moment as a
    worker. Clients that come back lose nothing, whichever ingest they find. The frozen ingest
    thaws, and nothing that it still sends counts. What was accepted of clients that never come back
    is transcribed, and their streams are closed.
    """
    with System(tmp_path, ingests=4, transcribers=0) as system:
        outcomes, log, left_behind = asyncio.run(_strike(system))

    outcomes["cut, same ingest"].assert_exact(n_resumed=1)
    outcomes["cut, another ingest, killed"].assert_exact(n_resumed=2)
    outcomes["ingest killed"].assert_exact(n_resumed=1)
    outcomes["ingest frozen"].assert_exact(n_resumed=1)
    log.assert_only_owners_are_heard()
    for stream_id in left_behind:
        events = log.events[stream_id]
        closed = events[-1]
        assert isinstance(closed, StreamClosed)
        assert closed.reason == "source_lost"
        assert closed.audio_ms > 3_000
        assert check_tiling(finals_of(events), closed.audio_ms // 20) == EXACT
        assert not any(isinstance(event, Gap) for event in events)


async def _strike(system: System) -> tuple[dict[str, Outcome], BusLog, list[str]]:
    steady, killed, frozen, doomed = system.ingests
    workers = {
        name: await asyncio.to_thread(system.add_service, "transcriber", WORKER_ID=name)
        for name in ("first", "second")
    }
    groups = {
        "cut, same ingest": _clients(system, steady, steady),
        "cut, another ingest, killed": _clients(system, steady, killed, steady),
        "ingest killed": _clients(system, killed, steady),
        "ingest frozen": _clients(system, frozen, steady),
    }
    clients = [client for group in groups.values() for client in group]
    in_second_segment: set[str] = set()

    def note(_subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        partial = msgspec.json.decode(payload, type=SegmentPartial)
        if partial.index == 1:
            in_second_segment.add(partial.stream_id)

    bus = await connect_bus(system.nats.url, name="test-log")
    log = BusLog(bus)
    bus.subscribe_direct(f"{ROOT}.live.*.*.partial", note)
    async with asyncio.TaskGroup() as tasks:
        runs = {
            name: [tasks.create_task(client.run()) for client in group]
            for name, group in groups.items()
        }
        for _ in range(N_EACH):
            tasks.create_task(_stream_and_lose(system, doomed))
        await wait_until(lambda: len(in_second_segment) == 5 * N_EACH)
        left_behind = sorted(set(log.events) - {client.stream_id for client in clients})
        frozen.freeze()
        doomed.kill()
        next(
            worker for name, worker in workers.items() if left_behind[0] in log.streams_of(name)
        ).kill()
        for client in groups["cut, same ingest"] + groups["cut, another ingest, killed"]:
            client.cut()
        await wait_until(
            lambda: all(
                client.resumed_from for client in clients if client not in groups["ingest killed"]
            )
        )
        finals = [len(finals_of(client.events)) for client in groups["ingest frozen"]]
        killed.kill()
        await wait_until(lambda: all(client.resumed_from for client in clients))
        await wait_until(
            lambda: all(
                len(finals_of(client.events)) > before
                for client, before in zip(groups["ingest frozen"], finals, strict=True)
            )
        )
        frozen.thaw()
        for stream_id in left_behind:
            await closed_of(log, stream_id)
    await bus.shut_down()
    outcomes = {
        name: Outcome(group, [run.result() for run in runs[name]]) for name, group in groups.items()
    }
    return outcomes, log, left_behind


def _clients(system: System, *ingests: Service) -> list[ResumingClient]:
    urls = [ingest.url for ingest in ingests]
    return [ResumingClient(urls, system.key, n_frames=N_FRAMES) for _ in range(N_EACH)]


async def _stream_and_lose(system: System, ingest: Service) -> None:
    with pytest.raises(ExceptionGroup) as stopped:
        await stream_frames(ingest.url, system.key, n_frames=N_FRAMES)
    assert stopped.group_contains(websockets.ConnectionClosed)


def test_a_worker_that_starts_finds_what_died_with_all_others(tmp_path: Path) -> None:
    """Nobody was left to notice; what had been accepted is transcribed all the same."""
    with System(tmp_path) as system:
        claims = asyncio.run(_kill_all_and_start_one(system))

    assert claims == [[(1, "opened"), (2, "worker_lost")]] * N_EACH


async def _kill_all_and_start_one(system: System) -> list[list[tuple[int, str]]]:
    """Return the claims, once the new worker has heard as much as the old one."""
    heard_ms: defaultdict[int, dict[str, int]] = defaultdict(dict)

    def note(_subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        partial = msgspec.json.decode(payload, type=SegmentPartial)
        heard_ms[partial.epoch][partial.stream_id] = partial.end_ms

    bus = await connect_bus(system.nats.url, name="test-log")
    log = BusLog(bus)
    bus.subscribe_direct(f"{ROOT}.live.*.*.partial", note)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(N_EACH):
            tasks.create_task(_stream_and_lose(system, system.ingest))
        await wait_until(lambda: sum(ms >= 2_000 for ms in heard_ms[1].values()) == N_EACH)
        system.transcribers[0].kill()
        system.ingest.kill()
    await asyncio.to_thread(system.add_service, "transcriber")
    await wait_until(
        lambda: all(heard_ms[2].get(stream, 0) >= ms for stream, ms in heard_ms[1].items())
    )
    await bus.shut_down()
    return [
        [(event.epoch, event.reason) for event in events if isinstance(event, StreamClaimed)]
        for events in log.events.values()
    ]
