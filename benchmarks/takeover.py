"""How soon another worker reads the streams of one that is killed, frozen or drained.

    python -m benchmarks.takeover [--streams 200] [--workers 4] [--rounds 5]

Real processes: nats-server, one ingest, workers with the echo provider, and `benchmarks.load` with
chunks of 100 ms. A subscriber sees the claims; when the new owner has read the first stored chunks
of a stream again, its log says at level DEBUG. Each round strikes the worker that carries most, or
drains all of them at once to as many new ones. Asserts nothing.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.load import LoadReport
from speechbus_contracts import StreamClaimed, decode_event
from speechbus_contracts.subjects import TRANSCRIPT_ROOT
from speechbus_runtime.bus import BusConnection, connect_bus
from tests.support.bus_log import wait_until
from tests.support.system import Service, System

__all__ = ["main"]

STRIKES: Final = ("SIGKILL", "SIGSTOP", "SIGTERM")
SETTLE_S: Final = 4.0
"""Between two rounds: heartbeats of every worker are known again, and nothing is behind."""


class Takeovers(msgspec.Struct, frozen=True, kw_only=True):
    """One round: seconds after the strike, for each stream of the worker, sorted."""

    claimed_s: Sequence[float]
    read_s: Sequence[float]
    exited_s: float | None
    """When the process was gone, of a drain."""


class Watch:
    """Notes when each stream is claimed."""

    def __init__(self, bus: BusConnection) -> None:
        self.owners: dict[str, str] = {}
        self.claimed_at_ms: dict[str, float] = {}
        bus.subscribe_direct(f"{TRANSCRIPT_ROOT}.*.*.claim", self._see_claim)

    def streams_of(self, worker: str) -> set[str]:
        """Streams whose last claim is this worker's."""
        return {stream for stream, owner in self.owners.items() if owner == worker}

    def _see_claim(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        event = decode_event(payload)
        assert isinstance(event, StreamClaimed)
        self.owners[event.stream_id] = event.worker
        self.claimed_at_ms[event.stream_id] = time.time_ns() / 1e6


def _read_logs(system: System, *, since_ms: float) -> dict[str, float]:
    """Return when each stream was first read again, ms since 1970, from the workers' logs."""
    found: dict[str, float] = {}
    for worker in system.transcribers:
        for line in worker.log_path.read_bytes().splitlines():
            if b'"stored audio found"' not in line:
                continue
            fields = msgspec.json.decode(line, type=dict[str, Any])
            at_ms = datetime.fromisoformat(fields["ts"]).timestamp() * 1000
            if at_ms >= since_ms:
                found.setdefault(fields["stream_id"], at_ms)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strikes", default=",".join(STRIKES))
    arguments = parser.parse_args()
    print("| strike | streams read | claimed, p50 / p99 / max | first chunk | exited |")
    print("|---|---|---|---|---|")
    for strike in arguments.strikes.split(","):
        rounds, report = _measure(
            strike,
            n_streams=arguments.streams,
            n_workers=arguments.workers,
            n_rounds=arguments.rounds,
        )
        _print_rounds(strike, rounds)
        print(f"{strike}: {report.exact} of {report.streams} streams exact", file=sys.stderr)


def _print_rounds(strike: str, rounds: Sequence[Takeovers]) -> None:
    claimed_s = sorted(time_s for each in rounds for time_s in each.claimed_s)
    read_s = sorted(time_s for each in rounds for time_s in each.read_s)
    exits_s = [each.exited_s for each in rounds if each.exited_s is not None]
    exited = f"{max(exits_s):.3f} s at most" if exits_s else ""
    counts = ", ".join(f"{len(each.read_s)} of {len(each.claimed_s)}" for each in rounds)
    print(
        f"| {strike} | {counts} | {_spell(claimed_s)} | {_spell(read_s)} | {exited} |", flush=True
    )


def _spell(times_s: Sequence[float]) -> str:
    p50, p99 = (times_s[min(len(times_s) - 1, int(len(times_s) * q))] for q in (0.5, 0.99))
    return f"{p50:.3f} / {p99:.3f} / {times_s[-1]:.3f} s"


def _measure(
    strike: str, *, n_streams: int, n_workers: int, n_rounds: int
) -> tuple[list[Takeovers], LoadReport]:
    with (
        tempfile.TemporaryDirectory() as folder,
        System(
            Path(folder),
            transcribers=0,
            transcriber_settings={
                "PROVIDERS": "echo",
                "SESSIONS_MAX": str(2 * n_streams),
                "LOG_LEVEL": "DEBUG",
            },
            ingest_settings={"STREAMS_PER_KEY_MAX": "2000"},
        ) as system,
    ):
        return asyncio.run(
            _run(system, strike, n_streams=n_streams, n_workers=n_workers, n_rounds=n_rounds)
        )


async def _run(
    system: System, strike: str, *, n_streams: int, n_workers: int, n_rounds: int
) -> tuple[list[Takeovers], LoadReport]:
    bus = await connect_bus(system.nats.url, name="takeover")
    watch = Watch(bus)
    await bus.flush()
    workers = await _add(system, [f"w0-{number}" for number in range(n_workers)])
    load = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load"),
        *("--port", str(system.ingest_port), "--key", system.key),
        *("--streams", str(n_streams), "--seconds", str(20 + 14 * n_rounds)),
        stdout=subprocess.PIPE,
    )
    await wait_until(lambda: len(watch.owners) == n_streams, within_s=60)
    rounds: list[Takeovers] = []
    for number in range(1, n_rounds + 1):
        if strike == "SIGTERM":
            struck, workers = workers, {}
        else:
            most = max(workers, key=lambda name: len(watch.streams_of(name)))
            struck = {most: workers.pop(most)}
        workers |= await _add(system, [f"w{number}-{n}" for n in range(len(struck))])
        await asyncio.sleep(SETTLE_S)
        rounds.append(await _strike(system, watch, struck, strike))
    output, _ = await load.communicate()
    await bus.shut_down()
    return rounds, msgspec.json.decode(output, type=LoadReport)


async def _add(system: System, worker_ids: Sequence[str]) -> dict[str, Service]:
    return {
        worker_id: await asyncio.to_thread(system.add_service, "transcriber", WORKER_ID=worker_id)
        for worker_id in worker_ids
    }


async def _strike(
    system: System, watch: Watch, workers: Mapping[str, Service], strike: str
) -> Takeovers:
    streams = set[str]().union(*(watch.streams_of(worker_id) for worker_id in workers))
    does: Callable[[Service], None] = {
        "SIGKILL": Service.kill,
        "SIGSTOP": Service.freeze,
        "SIGTERM": Service.request_stop,
    }[strike]
    watch.claimed_at_ms.clear()
    struck_at_ms = time.time_ns() / 1e6
    for worker in workers.values():
        does(worker)
    exited_s: float | None = None
    if strike == "SIGTERM":
        await wait_until(lambda: not any(worker.is_running for worker in workers.values()))
        exited_s = (time.time_ns() / 1e6 - struck_at_ms) / 1000
    await wait_until(lambda: streams <= watch.claimed_at_ms.keys())
    await asyncio.sleep(SETTLE_S)
    if strike == "SIGSTOP":
        for worker in workers.values():
            worker.kill()
    read_at_ms = _read_logs(system, since_ms=struck_at_ms)
    return Takeovers(
        claimed_s=sorted((watch.claimed_at_ms[each] - struck_at_ms) / 1000 for each in streams),
        read_s=sorted(
            (read_at_ms[each] - struck_at_ms) / 1000 for each in streams & read_at_ms.keys()
        ),
        exited_s=exited_s,
    )


if __name__ == "__main__":
    main()
