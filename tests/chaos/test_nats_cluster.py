"""Three nats-servers, three replicas: nodes die, drain and are cut off under live streams."""

import asyncio
from pathlib import Path

import pytest

from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.server_watch import watch_server
from speechbus_runtime.volatile_streams import SILENT_LOOKS_MAX, VolatileStreams
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling
from tests.support.nats_cluster import NatsCluster
from tests.support.system import System

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_STREAMS = 12
N_FRAMES = 24 * 50
SMALL = {"AUDIO_BYTES_MAX": str(64 << 20)}
AUDIO = [f"AUDIO_{shard}" for shard in range(4)]
LONE = AUDIO[0]
"""Gets one replica: a node that dies, is cut off or restarts takes it along."""
STORES = ("TRANSCRIPT", "JOBS", *AUDIO[1:])

pytestmark = pytest.mark.nats


def test_a_cluster_loses_nodes_under_live_streams_and_nothing_else(tmp_path: Path) -> None:
    """Leaders step down, one crashes with a worker, one is cut off, all are restarted."""
    cluster = NatsCluster(tmp_path / "nats")
    with System(
        tmp_path, ingests=2, transcribers=3, cluster=cluster, bootstrap_settings=SMALL
    ) as system:
        received = asyncio.run(_strike(system, cluster))

    assert [client.gaps for client in received] == [[]] * N_STREAMS
    assert [client.check_tiling(N_FRAMES) for client in received] == [EXACT] * N_STREAMS
    assert all(client.closed is not None for client in received)


async def _strike(system: System, cluster: NatsCluster) -> list[Received]:
    bus = await connect_bus(cluster.url, name="test-log")
    log = BusLog(bus)
    async with asyncio.TaskGroup() as tasks:
        clients = [
            tasks.create_task(
                stream_frames(system.ingests[number % 2].url, system.key, n_frames=N_FRAMES)
            )
            for number in range(N_STREAMS)
        ]
        await wait_until(lambda: log.n_with_final == N_STREAMS)
        await asyncio.to_thread(_raise_replicas, system, cluster)
        await _step_down_and_kill(system, cluster, bus)
        await _cut_off(cluster)
        await asyncio.to_thread(_restart_all, cluster)
    await bus.shut_down()
    return [client.result() for client in clients]


def _raise_replicas(system: System, cluster: NatsCluster) -> None:
    system.bootstrap(REPLICAS="3", AUDIO_REPLICAS="3")
    cluster.wait_until_current("TRANSCRIPT", "JOBS", *AUDIO)


async def _step_down_and_kill(system: System, cluster: NatsCluster, bus: BusConnection) -> None:
    leader = await asyncio.to_thread(_step_down, cluster)
    stores = VolatileStreams(bus, [LONE])
    await stores.learn()

    cluster.nodes[leader].kill()
    system.transcribers[0].kill()
    await asyncio.to_thread(cluster.leader_of, "TRANSCRIPT")
    for _ in range(SILENT_LOOKS_MAX):
        stores.note(LONE, None)
    while not await stores.replace_lost():  # JetStream itself elects, too
        stores.note(LONE, None)
    assert await asyncio.to_thread(cluster.leader_of, LONE) != leader
    await asyncio.to_thread(cluster.nodes[leader].start)
    await asyncio.to_thread(cluster.wait_until_current, *STORES)


def _step_down(cluster: NatsCluster) -> int:
    """Have one node lead everything, and hold one store alone."""
    leader = cluster.leader_of("TRANSCRIPT")
    for store in AUDIO:
        cluster.step_down(store, to=leader)
    lone = {**cluster.ask(f"STREAM.INFO.{LONE}")["config"], "num_replicas": 1}
    cluster.ask(f"STREAM.UPDATE.{LONE}", body=lone)
    return leader


async def _cut_off(cluster: NatsCluster) -> None:
    """Cut the leader off, with its clients, until those who watch their server have left it."""
    leader = await asyncio.to_thread(cluster.leader_of, "TRANSCRIPT")
    bus = await connect_bus(cluster.nodes[leader].url, name="test-watch")
    place = bus.connected_url
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch_server([bus], store="TRANSCRIPT"))
        cluster.cut(leader)
        await wait_until(lambda: bus.connected_url not in (place, None))
        watching.cancel()
    cluster.heal(leader)
    await bus.shut_down()
    await asyncio.to_thread(cluster.wait_until_current, *STORES)


def _restart_all(cluster: NatsCluster) -> None:
    for index, node in enumerate(cluster.nodes):
        if index == 0:
            cluster.drain(index)
        node.restart()
        cluster.wait_until_current(*STORES)
