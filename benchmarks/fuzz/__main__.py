"""Garbage for every parser and every door: no crash, no hang, no memory without a bound.

    make fuzz                                   10 minutes, a seed of its own
    make fuzz ARGS="--seconds 60 --seed 7"      the same again
    make fuzz ARGS="--target kotoba-door"       one parser; `doors`: the doors of a real ingest;
                                                `decoders`: the decoder processes

Half of the time goes to the doors of a real ingest over real sockets (with a good stream beside
that must stay exact), a tenth to decoder processes, the rest to the parsers, each in a process of
its own. Prints the seed first; a finding names the input's seed, and the exit code is 1.
"""

import argparse
import secrets
import subprocess
import sys
import time
from typing import Final

from benchmarks.fuzz.doors import DoorReport, fuzz_doors
from benchmarks.fuzz.parsers import TARGETS

__all__ = ["main"]

DOORS: Final = "doors"
DECODERS: Final = "decoders"
DECODER_INPUTS_PER_S: Final = 20
"""On a loaded machine; so the number decides how long it takes."""
HANG_S: Final = 120.0
"""Beyond its time: the process of a parser that hangs in native code is ended then."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", default=secrets.token_hex(4))
    parser.add_argument("--target", choices=sorted([*TARGETS, DOORS, DECODERS]))
    arguments = parser.parse_args()
    seed, seconds = arguments.seed, arguments.seconds
    print(f"seed {seed}, {seconds:.0f} s", flush=True)
    problems: list[str] = []
    if arguments.target in {None, DOORS}:
        report = fuzz_doors(seed, seconds=seconds if arguments.target else seconds / 2)
        _print_doors(report)
        problems += report.problems
    if arguments.target in {None, DECODERS}:
        problems += _run_decoders(seed, seconds if arguments.target else seconds / 10)
    if arguments.target not in {DOORS, DECODERS}:
        names = [arguments.target] if arguments.target else list(TARGETS)
        share_s = seconds if arguments.target else seconds * 0.4 / len(names)
        for name in names:
            problems += _run_parser(name, seed, share_s)
    for problem in problems:
        print(f"\nFOUND {problem}")
    print(f"seed {seed}: {len(problems)} found")
    if problems:
        raise SystemExit(1)


def _print_doors(report: DoorReport) -> None:
    attempts = ", ".join(f"{n} {door}" for door, n in report.attempts.most_common())
    answers = ", ".join(f"{n} x {status}" for status, n in report.answers.most_common())
    print(f"doors: {report.attempts.total()} attempts ({attempts}); {answers}")
    print(
        f"doors: {report.good_streams} good streams beside; ingest has {report.first_mib:.0f} MiB"
        f" after 5 s, {report.last_mib:.0f} MiB at the end",
        flush=True,
    )


def _run_decoders(seed: str, seconds: float) -> list[str]:
    inputs = max(1, int(seconds * DECODER_INPUTS_PER_S))
    command = [
        *(sys.executable, "-m", "benchmarks.fuzz_formats", "--inputs", str(inputs)),
        *("--seed", str(int.from_bytes(seed.encode()) % 2**31)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"decoders: {done.stdout.strip().replace(chr(10), '; ')}", flush=True)
    return [] if done.returncode == 0 else [f"decoders: {done.stderr[-2_000:]}"]


def _run_parser(name: str, seed: str, seconds: float) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.fuzz.parser_runs", name, seed, str(seconds)]
    started_s = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + HANG_S
        )
    except subprocess.TimeoutExpired:
        return [f"{name} hangs"]
    if done.returncode:
        return [f"{name} (exit code {done.returncode})\n{done.stderr[-3_000:]}"]
    print(
        f"{name}: {done.stdout.strip()} inputs in {time.monotonic() - started_s:.0f} s", flush=True
    )
    return []


if __name__ == "__main__":
    main()
