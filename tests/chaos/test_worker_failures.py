"""Workers die, freeze and leave while their streams run: nothing is lost, nothing comes twice."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from speechbus_contracts import SegmentFinal, SegmentPartial, StreamClaimed
from speechbus_runtime.bus import connect_bus
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling
from tests.support.system import Service, System

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_STREAMS = 60
AUDIO_S = 24
N_FRAMES = AUDIO_S * 50

pytestmark = pytest.mark.nats


def test_finals_tile_every_stream_through_kill_freeze_thaw_and_drain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The promise: no audio lost, no final missing or doubled, times right to the frame.

    One of two workers is killed with SIGKILL, another frozen and thawed, another drained, under 60
    live streams. A subscriber of the bus never sees an event of a worker that has lost its stream.
    """
    with System(tmp_path, transcribers=0) as system:
        received, handovers, log = asyncio.run(_kill_freeze_drain(system))

    with capsys.disabled():
        sys.stdout.write(f"\nhand-over of streams, {N_STREAMS} live:\n")
        for name, times in handovers.items():
            sys.stdout.write(
                f"  {name:8} {len(times)} streams: p50 {times[len(times) // 2]:.3f} s, "
                f"max {times[-1]:.3f} s\n"
            )
    assert [client.check_tiling(N_FRAMES) for client in received] == [EXACT] * N_STREAMS
    assert [client.gaps for client in received] == [[]] * N_STREAMS
    for client in received:
        assert client.closed is not None
        assert (client.closed.audio_ms, client.closed.reason) == (AUDIO_S * 1000, "end")
        epochs = [
            event.epoch
            for event in client.events
            if isinstance(event, SegmentPartial | SegmentFinal | StreamClaimed)
        ]
        assert epochs == sorted(epochs)
    log.assert_only_owners_are_heard()


async def _kill_freeze_drain(
    system: System,
) -> tuple[list[Received], dict[str, list[float]], BusLog]:
    for worker in ("first", "second"):
        await _add_worker(system, worker)
    bus = await connect_bus(system.nats.url, name="test-log")
    log = BusLog(bus)
    handovers: dict[str, list[float]] = {}
    async with asyncio.TaskGroup() as tasks:
        clients = [
            tasks.create_task(stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES))
            for _ in range(N_STREAMS)
        ]
        await wait_until(lambda: log.n_with_final == N_STREAMS)
        first, second = system.transcribers

        handovers["SIGKILL"] = await _replace(log, "first", first.kill)
        third = await _add_worker(system, "third")
        handovers["SIGSTOP"] = await _replace(log, "second", second.freeze)
        # Frozen long enough for its streams to go on elsewhere: each gets another final.
        finals = _count_finals(log)
        await wait_until(lambda: _count_finals(log) >= finals + N_STREAMS)
        second.thaw()
        handovers["SIGTERM"] = await _replace(log, "third", third.request_stop)
        assert await asyncio.to_thread(third.wait_for_exit) == 0
    await bus.shut_down()
    return [client.result() for client in clients], handovers, log


async def _add_worker(system: System, worker_id: str) -> Service:
    return await asyncio.to_thread(
        system.add_service, "transcriber", WORKER_ID=worker_id, SESSIONS_MAX="200"
    )


async def _replace(log: BusLog, worker: str, strike: Callable[[], object]) -> list[float]:
    """Strike a worker and return how long each of its streams took to find another, sorted."""
    streams = set(log.streams_of(worker))
    assert streams, "the worker carries nothing, so striking it proves nothing"
    now_s = asyncio.get_running_loop().time
    struck_at_s = now_s()
    strike()
    times: list[float] = []

    def note_moved() -> bool:
        moved = len(streams - set(log.streams_of(worker)))
        times.extend([now_s() - struck_at_s] * (moved - len(times)))
        return moved == len(streams)

    await wait_until(note_moved)
    return times


def _count_finals(log: BusLog) -> int:
    return sum(isinstance(e, SegmentFinal) for events in log.events.values() for e in events)
