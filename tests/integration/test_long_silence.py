"""Ten minutes in which nobody says anything, through the real system."""

import asyncio
import sys
from pathlib import Path
from typing import Final

import psutil
import pytest

from speechbus_contracts import SegmentFinal, StreamClosed, StreamCovered
from tests.support.bus_log import BusLog, wait_until
from tests.support.native_client import PATIENCE_S, NativeClient, connect_native, watch_bus
from tests.support.system import System

pytestmark = pytest.mark.nats

SILENCE_S: Final = 600
WARM_S: Final = 60
"""By then buffers and windows have reached their size."""
SECOND: Final = bytes(32_000)
GROWTH_BYTES_MAX: Final = 16 << 20
"""Less than the 19 MB that the silence of one stream has: whoever keeps it all is caught."""


def test_ten_minutes_of_silence_cost_no_memory_and_end_like_any_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A forgotten microphone must not fill a process; and a recognizer must invent no words.

    The silence is written down as checkpoints, so that a new worker need not hear it again.
    """
    settings = {"PROVIDERS": "local,echo"}
    with System(tmp_path, transcriber_settings=settings) as system:
        local, echo, growths = asyncio.run(_be_silent(system))

    with capsys.disabled():
        kilobytes = ", ".join(f"{name} {growth >> 10} kB" for name, growth in growths.items())
        sys.stdout.write(f"\n{SILENCE_S - WARM_S} s of silence, twice, left behind: {kilobytes}\n")
    assert max(growths.values()) < GROWTH_BYTES_MAX
    for client in (local, echo):
        closed = client.closed
        assert (closed.reason, closed.audio_ms, closed.gap_ms) == ("end", SILENCE_S * 1000, 0)
    assert local.finals == []
    covered_ms = [e.covered_ms for e in local.events if isinstance(e, StreamCovered)]
    assert covered_ms == sorted(covered_ms)
    assert len(covered_ms) >= SILENCE_S // 15
    assert covered_ms[-1] >= (SILENCE_S - 15) * 1000
    assert [final.end_ms for final in echo.finals] == list(range(3_000, 600_001, 3_000))


async def _be_silent(system: System) -> tuple[NativeClient, NativeClient, dict[str, int]]:
    processes = {
        "ingest": psutil.Process(system.ingest.pid),
        "transcriber": psutil.Process(system.transcribers[0].pid),
    }
    async with (
        watch_bus(system) as log,
        connect_native(system.ingest, system.key) as local,
        connect_native(system.ingest, system.key) as echo,
    ):
        await local.open(providers=["local"])
        await echo.open(providers=["echo"])
        await _say_nothing(log, local, echo, from_s=0, to_s=WARM_S)
        engine = processes["transcriber"].children(recursive=True)
        processes |= {f"engine process {n}": child for n, child in enumerate(engine)}
        before = {name: process.memory_info().rss for name, process in processes.items()}
        await _say_nothing(log, local, echo, from_s=WARM_S, to_s=SILENCE_S)
        growths = {
            name: process.memory_info().rss - before[name] for name, process in processes.items()
        }
        async with asyncio.TaskGroup() as ends:
            ends.create_task(local.end())
            ends.create_task(echo.end())
    return local, echo, growths


async def _say_nothing(
    log: BusLog, local: NativeClient, echo: NativeClient, *, from_s: int, to_s: int
) -> None:
    """Send silence as fast as it is taken, and wait until it has been transcribed."""

    async def send(client: NativeClient) -> None:
        for _ in range(from_s, to_s):
            await client.send(SECOND)

    async with asyncio.TaskGroup() as senders:
        senders.create_task(send(local))
        senders.create_task(send(echo))

    def is_done() -> bool:
        covered_ms = [
            event.covered_ms
            for event in log.events[local.stream_id]
            if isinstance(event, StreamCovered)
        ]
        final_ms = [
            event.end_ms for event in log.events[echo.stream_id] if isinstance(event, SegmentFinal)
        ]
        return max([0, *covered_ms]) >= (to_s - 15) * 1000 and final_ms[-1:] == [to_s * 1000]

    await wait_until(is_done, within_s=PATIENCE_S)
    assert not any(isinstance(event, StreamClosed) for event in log.events[local.stream_id])
