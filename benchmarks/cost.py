"""What a live stream costs: CPU and memory of each process, and the delay it adds.

    python -m benchmarks.cost [--streams 50,200,400] [--chunk-ms 100] [--seconds 24]

Real processes throughout: nats-server, ingest, one transcriber with the echo provider, and a load
generator whose own cost is not counted. CPU is process time from /proc between two points inside
the run, so it holds on a busy machine; latencies do not. Writes one JSON line per row to
benchmarks/results/cost.jsonl.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

from benchmarks.commit import read_commit
from benchmarks.load import LoadReport
from tests.support.system import System

__all__ = ["Row", "main"]

WARM_S = 8
"""Opening the streams and filling caches is not counted."""
RESULTS = Path(__file__).parent / "results" / "cost.jsonl"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measured load point."""

    streams: int
    chunk_ms: int
    cpu_percent_per_stream: Mapping[str, float]
    """Of one core, by process."""
    pss_kb: Mapping[str, int]
    """Proportional set size at the end of the run, by process."""
    p50_ms: float
    p99_ms: float
    exact: int
    finals: int
    generator_late_ms: float
    commit: str
    machine: str


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="50,200,400")
    parser.add_argument("--chunk-ms", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=24)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for streams in (int(part) for part in arguments.streams.split(",")):
        print(f"{streams} streams of {arguments.chunk_ms} ms chunks …", file=sys.stderr)
        rows.append(_measure(streams, arguments.chunk_ms, arguments.seconds))
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("ab") as results:
            results.write(msgspec.json.encode(rows[-1]) + b"\n")
    _print_table(rows, arguments.seconds)


def _measure(streams: int, chunk_ms: int, seconds: int) -> Row:
    with (
        tempfile.TemporaryDirectory() as folder,
        System(
            Path(folder),
            transcribers=1,
            transcriber_settings={"SESSIONS_MAX": "1000", "PROVIDERS": "echo"},
            ingest_settings={
                "CHUNK_MS": str(chunk_ms),
                "STREAMS_PER_KEY_MAX": "1000",
                "LOG_LEVEL": "WARNING",
            },
        ) as system,
    ):
        processes = {
            "ingest": psutil.Process(system.ingest.pid),
            "nats-server": psutil.Process(system.nats.pid),
            "transcriber": psutil.Process(system.transcribers[0].pid),
        }
        load = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.load"),
                *("--port", str(system.ingest_port), "--key", system.key),
                *("--streams", str(streams), "--seconds", str(seconds)),
                *("--chunk-ms", str(chunk_ms)),
            ],
            stdout=subprocess.PIPE,
        )
        time.sleep(WARM_S)
        before, started_s = _cpu_s(processes), time.perf_counter()
        time.sleep(seconds - WARM_S - 2)
        after, ended_s = _cpu_s(processes), time.perf_counter()
        pss_kb = {name: process.memory_full_info().pss >> 10 for name, process in processes.items()}
        output, _ = load.communicate()
    report = msgspec.json.decode(output, type=LoadReport)
    span_s = ended_s - started_s
    return Row(
        streams=streams,
        chunk_ms=chunk_ms,
        cpu_percent_per_stream={
            name: 100 * (after[name] - before[name]) / span_s / streams for name in processes
        },
        pss_kb=pss_kb,
        p50_ms=_quantile(report.latency_ms, 0.50),
        p99_ms=_quantile(report.latency_ms, 0.99),
        exact=report.exact,
        finals=report.finals,
        generator_late_ms=report.late_ms_max,
        commit=read_commit(),
        machine=f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}",
    )


def _cpu_s(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    return {
        name: times.user + times.system
        for name, times in ((name, process.cpu_times()) for name, process in processes.items())
    }


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def _print_table(rows: Sequence[Row], seconds: int) -> None:
    print("| streams x chunk | ingest | nats-server | transcriber | all | p50 / p99 ms | exact |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cpu = row.cpu_percent_per_stream
        print(
            f"| {row.streams} x {row.chunk_ms} ms | {cpu['ingest']:.3f} % "
            f"| {cpu['nats-server']:.3f} % | {cpu['transcriber']:.3f} % "
            f"| **{sum(cpu.values()):.3f} %** | {row.p50_ms:.1f} / {row.p99_ms:.1f} "
            f"| {row.exact} of {row.streams} |"
        )
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        slopes = {
            name: (last.pss_kb[name] - first.pss_kb[name]) / (last.streams - first.streams)
            for name in last.pss_kb
        }
        print(
            f"\nPSS slope per stream, from {first.streams} to {last.streams} streams, after "
            f"{seconds} s of audio:"
        )
        for name, slope in slopes.items():
            print(f"- {name}: {slope:.0f} kB")


if __name__ == "__main__":
    main()
