"""Connections with wrong keys beside good streams: what the good ones notice.

    python -m benchmarks.bad_tokens [--streams 50] [--rate 500] [--seconds 20] [--addresses 1]

Real processes throughout. Good streams run twice, alone and beside the flood; both runs are of one
system. The flood is a process of its own: each connection asks one of the three WebSocket doors, in
turn, with a wrong key, and reads the refusal to its end. With `--addresses 5000` it comes from as
many addresses of 127.0.0.0/8 (Linux), each of which fails too seldom to be sent away unseen: then
every connection costs what a single one does.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import psutil
import uvloop

from benchmarks.load import LoadReport
from tests.support.system import System

__all__ = ["FloodReport", "main"]

WARM_S: Final = 6
REFUSAL_WITHIN_S: Final = 30.0
REFUSAL_BYTES_MAX: Final = 4_096
_PATHS: Final = ("/v1/streams", "/asr/v1/speech-to-text/stream?language=en", "/v1/realtime")


class FloodReport(msgspec.Struct, frozen=True, kw_only=True):
    """How the connections of a flood ended."""

    statuses: Mapping[str, int]
    """By HTTP status; `none`: without one."""
    seconds: float
    refused_ms_p50: float
    refused_ms_p99: float


async def flood(port: int, *, rate: int, seconds: int, addresses: int) -> FloodReport:
    """Open connections with wrong keys at an even rate."""
    loop = asyncio.get_running_loop()
    statuses: Counter[str] = Counter()
    took_s: list[float] = []

    async def knock(number: int) -> None:
        place = number % addresses
        source = (f"127.{1 + place // 62_500}.{place // 250 % 250}.{place % 250 + 1}", 0)
        began_s = loop.time()
        try:
            async with asyncio.timeout(REFUSAL_WITHIN_S):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=source if addresses > 1 else None
                )
                writer.write(_build_upgrade(_PATHS[number % len(_PATHS)], number))
                answer = await reader.read(REFUSAL_BYTES_MAX)
                writer.close()
        except (OSError, TimeoutError):
            answer = b""
        took_s.append(loop.time() - began_s)
        statuses[answer[9:12].decode(errors="replace") or "none"] += 1

    started_s = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for number in range(rate * seconds):
            wait_s = started_s + number / rate - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            tasks.create_task(knock(number))
    took_s.sort()
    return FloodReport(
        statuses=statuses,
        seconds=loop.time() - started_s,
        refused_ms_p50=_quantile(took_s, 0.50) * 1000,
        refused_ms_p99=_quantile(took_s, 0.99) * 1000,
    )


def _build_upgrade(path: str, number: int) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: Bearer wrong-{number}-{'x' * 30}\r\n\r\n"
    ).encode()


def main() -> None:
    """Measure and print; with `--flood PORT` only flood, as the child process does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--addresses", type=int, default=1)
    parser.add_argument("--flood", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.flood is not None:
        report = uvloop.run(
            flood(
                arguments.flood,
                rate=arguments.rate,
                seconds=arguments.seconds,
                addresses=arguments.addresses,
            )
        )
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        return
    _measure(arguments)


def _measure(arguments: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        System(
            Path(folder),
            transcriber_settings={"SESSIONS_MAX": "1000", "PROVIDERS": "echo"},
            ingest_settings={"STREAMS_PER_KEY_MAX": "1000"},
        ) as system,
    ):
        print("| | p50 / p99 ms | ingest, % of a core | exact |\n|---|---|---|---|")
        before_s = _run_streams("before", system, arguments, None)
        flooding = [
            *(sys.executable, "-m", "benchmarks.bad_tokens", "--flood", str(system.ingest_port)),
            *("--rate", str(arguments.rate), "--seconds", str(arguments.seconds)),
            *("--addresses", str(arguments.addresses)),
        ]
        during_s = _run_streams("during", system, arguments, flooding)
        memory_mb = psutil.Process(system.ingest.pid).memory_full_info().uss / 2**20
    each_ms = (during_s - before_s) / arguments.rate * 1000
    print(
        f"\neach refused connection: {each_ms:.3f} ms of ingest's CPU;"
        f" its memory {memory_mb:.0f} MiB"
    )


def _run_streams(
    name: str, system: System, arguments: argparse.Namespace, flooding: list[str] | None
) -> float:
    """Run the streams once, print a row, and return ingest's CPU seconds per second."""
    ingest = psutil.Process(system.ingest.pid)
    seconds = WARM_S + arguments.seconds
    load = subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.load", "--warm-s", str(WARM_S)),
            *("--port", str(system.ingest_port), "--key", system.key),
            *("--streams", str(arguments.streams), "--seconds", str(seconds)),
        ],
        stdout=subprocess.PIPE,
    )
    time.sleep(WARM_S)
    started_s, cpu_s = time.perf_counter(), sum(ingest.cpu_times()[:2])
    flood_process = None if flooding is None else subprocess.Popen(flooding, stdout=subprocess.PIPE)
    time.sleep(arguments.seconds - 1)
    used = (sum(ingest.cpu_times()[:2]) - cpu_s) / (time.perf_counter() - started_s)
    report = msgspec.json.decode(load.communicate()[0], type=LoadReport)
    p50, p99 = (_quantile(report.latency_ms, share) for share in (0.50, 0.99))
    print(
        f"| {name} | {p50:.1f} / {p99:.1f}"
        f" | {100 * used:.1f} | {report.exact} of {report.streams} |"
    )
    if flood_process is not None:
        flooded = msgspec.json.decode(flood_process.communicate()[0], type=FloodReport)
        print(
            f"\nflood: {dict(flooded.statuses)} in {flooded.seconds:.1f} s, refused after", end=" "
        )
        print(f"{flooded.refused_ms_p50:.1f} ms (p50), {flooded.refused_ms_p99:.1f} ms (p99)")
    print(f"(load generator late by {report.late_ms_max:.0f} ms at most)", file=sys.stderr)
    return used


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


if __name__ == "__main__":
    main()
