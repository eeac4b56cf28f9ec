"""Clients lose their ingest, or their connection, and come back: nothing is lost or doubled."""

import asyncio
from pathlib import Path

import pytest

from speechbus_contracts import SegmentFinal
from tests.support.bus_log import wait_until
from tests.support.frame_client import Received
from tests.support.frame_numbers import Tiling
from tests.support.resuming_client import ResumingClient
from tests.support.system import System

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
AUDIO_S = 14
N_FRAMES = AUDIO_S * 50
N_STREAMS = 8

pytestmark = pytest.mark.nats


def assert_exact(received: Received, n_frames: int = N_FRAMES) -> None:
    """Every frame once, no gap, ended as the client wanted."""
    assert received.check_tiling(n_frames) == EXACT
    assert received.gaps == []
    assert received.closed is not None
    assert (received.closed.audio_ms, received.closed.reason) == (n_frames * 20, "end")


def test_clients_whose_ingest_was_killed_resume_at_another(tmp_path: Path) -> None:
    """SIGKILL: what they were told is accepted is on the bus, the rest they send again."""
    with System(tmp_path, ingests=2) as system:
        clients, received = asyncio.run(_kill_ingest(system))

    for client, stream in zip(clients, received, strict=True):
        assert_exact(stream)
        assert len(client.resumed_from) == 1


async def _kill_ingest(system: System) -> tuple[list[ResumingClient], list[Received]]:
    urls = [ingest.url for ingest in system.ingests]
    clients = [ResumingClient(urls, system.key, n_frames=N_FRAMES) for _ in range(N_STREAMS)]
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(client.run()) for client in clients]
        await wait_until(
            lambda: all(any(isinstance(e, SegmentFinal) for e in c.events) for c in clients)
        )
        system.ingest.kill()
    return clients, [run.result() for run in runs]
