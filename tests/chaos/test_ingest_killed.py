"""An ingest dies and its clients never come back."""

import asyncio
from pathlib import Path

import msgspec
import pytest
import websockets

from speechbus_contracts import ROOT, Gap, SegmentFinal, StreamClosed
from speechbus_runtime.bus import connect_bus
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import stream_frames
from tests.support.frame_numbers import Tiling, check_tiling
from tests.support.system import System

N_STREAMS = 5

pytestmark = pytest.mark.nats


def test_what_a_killed_ingest_had_accepted_is_transcribed_and_the_streams_are_closed(
    tmp_path: Path,
) -> None:
    """Nobody says `end`; the workers notice by themselves and leave nothing open."""
    with System(tmp_path) as system:
        log = asyncio.run(_kill_ingest(system))

    assert len(log.events) == N_STREAMS
    for events in log.events.values():
        closed = events[-1]
        assert isinstance(closed, StreamClosed)
        assert closed.reason == "source_lost"
        finals = [event for event in events if isinstance(event, SegmentFinal)]
        assert closed.audio_ms > 3_000
        assert check_tiling(finals, closed.audio_ms // 20) == Tiling(
            missing=0, doubled=0, time_error_ms_max=0, is_ordered=True
        )
        assert not any(isinstance(event, Gap) for event in events)


async def _kill_ingest(system: System) -> BusLog:
    bus = await connect_bus(system.nats.url, name="test-log")
    log = BusLog(bus)
    in_second_segment: set[bytes] = set()

    def note_partial(subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        if msgspec.json.decode(payload)["index"] == 1:
            in_second_segment.add(subject)

    bus.subscribe_direct(f"{ROOT}.live.*.*.partial", note_partial)

    async def stream() -> None:
        with pytest.raises(ExceptionGroup) as stopped:
            await stream_frames(system.ingest.url, system.key, n_frames=60 * 50)
        assert stopped.group_contains(websockets.ConnectionClosed)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(N_STREAMS):
            tasks.create_task(stream())
        await wait_until(lambda: len(in_second_segment) == N_STREAMS)
        system.ingest.kill()
    await wait_until(
        lambda: all(isinstance(events[-1], StreamClosed) for events in log.events.values())
    )
    await bus.shut_down()
    return log
