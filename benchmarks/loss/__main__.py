"""What is lost, doubled, mistimed or late when something breaks, row by row.

    python -m benchmarks.loss [--rows reset,outage] [--jobs N] [--list]

Real processes throughout: nats-server, ingest, transcribers, and the providers' simulators with
scripted faults, a system for each row. The audio is frame-numbered speech with pauses (2 s and
2.5 s), so the finals alone tell what was lost, said twice, or said at a wrong time. Simulated
Palabra hears real-time pace only and ignores what comes faster; Kotoba takes it as fast as it
comes. Rows of one stream run side by side, those with many streams alone. Prints each row as soon
as it is measured, the table at the end, and adds the rows to benchmarks/results/loss.jsonl. Exits
with 1 when anything was lost, doubled, given up or mistimed, and when a row did not break what it
is to break.
"""

import argparse
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.commit import read_commit
from benchmarks.loss.figures import Figures
from benchmarks.loss.measure import measure
from benchmarks.loss.rows import ROWS, Row

RESULTS: Final = Path(__file__).parent.parent / "results" / "loss.jsonl"
JOBS: Final = 5
"""A row of one stream keeps two cores busy while it starts, and hardly afterwards."""
HEAD: Final = (
    "| what breaks | lost | doubled | time error | gap | latest final | caught up after |\n"
    "|---|---|---|---|---|---|---|"
)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A row's result, as it is kept."""

    row: str
    figures: Figures
    took_s: float
    measured_at: str
    load: float
    """Of the machine at the end, average of the last minute; own processes included."""
    jobs: int
    commit: str
    machine: str


def main() -> int:
    """Measure and print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.loss",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows",
        default="",
        help="one row by its whole name, or those whose names hold one of these words, with commas",
    )
    parser.add_argument(
        "--jobs", type=int, default=JOBS, help="rows of one stream at a time, default %(default)s"
    )
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    arguments = parser.parse_args()
    is_one = any(row.name == arguments.rows for row in ROWS)  # names have commas, too
    words = [] if is_one else [word for word in arguments.rows.split(",") if word]
    rows = [row for row in ROWS if not words or any(word in row.name for word in words)]
    if is_one:
        rows = [row for row in ROWS if row.name == arguments.rows]
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return 0
    measured = _measure_all(rows, jobs=max(1, arguments.jobs))
    print(HEAD)
    for row in rows:
        print(_format(row.name, measured.get(row.name)))
    found = [measured.get(row.name) for row in rows]
    return 0 if all(figures is not None and figures.is_kept for figures in found) else 1


def _measure_all(rows: Sequence[Row], *, jobs: int) -> dict[str, Figures]:
    """Measure the rows: first those that share the machine, the longest first."""
    sharing = sorted((row for row in rows if row.streams == 1), key=lambda row: -row.seconds)
    alone = [row for row in rows if row.streams > 1]
    measured: dict[str, Figures] = {}
    for group, n_jobs in ((sharing, jobs), (alone, 1)):
        # Processes die with the thread that has started them: these last until their group is over.
        with ThreadPoolExecutor(n_jobs) as pool:
            futures = {pool.submit(_measure, row, n_jobs): row for row in group}
            for future in as_completed(futures):
                row = futures[future]
                if (error := future.exception()) is not None:
                    traceback.print_exception(error)
                else:
                    measured[row.name] = future.result()
                n_left = sum(not other.done() for other in futures)
                print(
                    f"{_format(row.name, measured.get(row.name))}   ({n_left} left of these)",
                    file=sys.stderr,
                    flush=True,
                )
    return measured


def _measure(row: Row, jobs: int) -> Figures:
    started_s = time.perf_counter()
    figures = measure(row)
    if not figures.has_broken:  # while others start, a worker may be late and its first session go
        figures = measure(row)
    RESULTS.parent.mkdir(exist_ok=True)
    result = Measured(
        row=row.name,
        figures=figures,
        took_s=round(time.perf_counter() - started_s, 1),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        load=round(os.getloadavg()[0], 2),
        jobs=jobs,
        commit=read_commit(),
        machine=f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}",
    )
    with RESULTS.open("ab") as results:
        results.write(msgspec.json.encode(result) + b"\n")
    return figures


def _format(name: str, figures: Figures | None) -> str:
    if figures is None:
        return f"| {name} | not measured: it failed | | | | | |"
    caught_up = f"{figures.caught_up_s:.1f} s"
    if figures.behind:
        caught_up = f"not at the end, {caught_up} late"
    if not figures.has_broken:
        return f"| {name} | not measured: only {figures.breaks} sessions broke | | | | | |"
    unclosed = f" {figures.unclosed} not closed" if figures.unclosed else ""
    return (
        f"| {name} | {figures.lost_s:.2f} s | {figures.doubled_s:.2f} s "
        f"| {figures.time_error_ms} ms | {figures.gap_s:.2f} s | {figures.latest_s:.1f} s "
        f"| {caught_up} |{unclosed}"
    )


if __name__ == "__main__":
    sys.exit(main())
