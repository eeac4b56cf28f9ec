"""Three nats-servers with three replicas: nodes die, drain, freeze and are cut off under streams."""

import asyncio
from pathlib import Path

import pytest

from speechbus_runtime.bus import connect_bus
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling
from tests.support.nats_cluster import NatsCluster
from tests.support.system import System

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_STREAMS = 12
N_FRAMES = 24 * 50
REPLICATED = {"REPLICAS": "3", "AUDIO_REPLICAS": "3", "AUDIO_BYTES_MAX": str(64 << 20)}
STORES = ("TRANSCRIPT", "JOBS", *(f"AUDIO_{shard}" for shard in range(4)))

pytestmark = pytest.mark.nats


def test_a_cluster_loses_nodes_under_live_streams_and_nothing_else(tmp_path: Path) -> None:
    """Whatever one node of three does, finals stay exact: the crash of the leader, together with
    a worker, costs an election; a drain, a hand-over; a cut, both.
    """
    cluster = NatsCluster(tmp_path / "nats")
    with System(tmp_path, transcribers=2, cluster=cluster, bootstrap_settings=REPLICATED) as system:
        received = asyncio.run(_strike(system, cluster))

    assert [client.check_tiling(N_FRAMES) for client in received] == [EXACT] * N_STREAMS
    assert [client.gaps for client in received] == [[]] * N_STREAMS
    assert all(client.closed is not None for client in received)


async def _strike(system: System, cluster: NatsCluster) -> list[Received]:
    bus = await connect_bus(cluster.url, name="test-log")
    log = BusLog(bus)
    async with asyncio.TaskGroup() as tasks:
        clients = [
            tasks.create_task(stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES))
            for _ in range(N_STREAMS)
        ]
        await wait_until(lambda: log.n_with_final == N_STREAMS)
        await asyncio.to_thread(_strike_cluster, system, cluster)
    await bus.shut_down()
    return [client.result() for client in clients]


def _strike_cluster(system: System, cluster: NatsCluster) -> None:
    import time

    t = time.time()
    leader = cluster.leader_of("TRANSCRIPT")
    print("leader", leader, [cluster.leader_of(s) for s in STORES])
    cluster.cut(leader)
    other = (leader + 1) % 3
    cluster.wait_until(lambda: cluster.leader_of("TRANSCRIPT", asked=other) != leader, what="no")
    print("new leader", cluster.leader_of("TRANSCRIPT", asked=other), time.time() - t)
    cluster.heal(leader)
    cluster.wait_until_current(*STORES)
    print("current", time.time() - t)
