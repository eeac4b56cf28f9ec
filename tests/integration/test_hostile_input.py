"""What one bad client or one bad message must not do to the others."""

import asyncio
import contextlib
from pathlib import Path

import msgspec
import pytest
import websockets

from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.jetstream import request_api
from tests.support.bus_log import wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling
from tests.support.system import System

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_FRAMES = 6 * 50

pytestmark = pytest.mark.nats


def test_a_flood_of_flushes_moves_no_other_stream(tmp_path: Path) -> None:
    """Each flush is a chunk and an event: they count against the window like audio."""
    with System(tmp_path, transcribers=2) as system:
        bystanders = asyncio.run(_flood(system))

    for bystander in bystanders:
        assert bystander.check_tiling(N_FRAMES) == EXACT
        assert [claim.epoch for _, claim in bystander.claims] == [1]


async def _flood(system: System) -> list[Received]:
    async def flood() -> None:
        async with websockets.connect(
            f"{system.ingest.url.replace('http', 'ws')}/v1/streams",
            additional_headers={"Authorization": f"Bearer {system.key}"},
            compression=None,
        ) as socket:
            hello = {"type": "hello", "format": "pcm_s16le", "sample_rate_hz": 16_000}
            await socket.send(msgspec.json.encode({**hello, "providers": ["echo"]}).decode())
            try:
                while True:
                    await socket.send('{"type":"flush"}')
            finally:
                socket.transport.abort()  # a goodbye would wait behind all that was sent

    async with asyncio.TaskGroup() as tasks:
        flooding = tasks.create_task(flood())
        bystanders = [
            tasks.create_task(stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES))
            for _ in range(5)
        ]
        await asyncio.wait(bystanders)
        flooding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flooding
    return [task.result() for task in bystanders]


@pytest.mark.parametrize(
    "job",
    [
        b"no JSON",
        b'{"type":"job.open","stream_id":"a b","tenant":"x.>","epoch":1,"reason":"opened"}',
        b'{"type":"job.open","stream_id":"nobody","tenant":"acme","epoch":1,"reason":"opened"}',
        b'{"type":"turn.ended","stream_id":"s","tenant":"acme","epoch":1,"at_ms":1}',
    ],
)
def test_a_bad_job_is_removed_and_takes_no_worker_down(tmp_path: Path, job: bytes) -> None:
    """Passed round the pool it would end one worker after the other."""
    with System(tmp_path) as system:
        received = asyncio.run(_publish_job(system, job))

        assert system.transcribers[0].is_running
    assert received.check_tiling(50) == EXACT


async def _publish_job(system: System, job: bytes) -> Received:
    bus = await connect_bus(system.nats.url, name="test")
    assert bus.publish_nowait(b"speech.v1.job.open", job)
    received = await stream_frames(system.ingest.url, system.key, n_frames=50)
    async with asyncio.timeout(30):
        while await _count_jobs(bus):  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.05)
    await bus.shut_down()
    return received


async def _count_jobs(bus: BusConnection) -> int:
    info = await request_api(bus, "STREAM.INFO.JOBS", {})
    return int(info["state"]["messages"])


def test_a_service_without_its_jetstream_objects_is_not_ready(tmp_path: Path) -> None:
    """A prober must see that no stream can be opened; made again, the service is ready again."""
    with System(tmp_path) as system:
        asyncio.run(_delete("JOBS", system.nats.url))
        services = [system.ingest, system.transcribers[0]]
        for service in services:
            asyncio.run(wait_until(lambda service=service: service.probe("/readyz") == 503))  # type: ignore[misc]

        system.bootstrap()
        for service in services:
            service.wait_until_ready()


async def _delete(jetstream_name: str, url: str) -> None:
    bus = await connect_bus(url, name="test")
    await request_api(bus, f"STREAM.DELETE.{jetstream_name}", {})
    await bus.shut_down()
