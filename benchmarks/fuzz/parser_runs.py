"""One parser for a while, in a process of its own: what crashes, hangs or grows is reported.

python -m benchmarks.fuzz.parser_runs TARGET SEED SECONDS [--inputs N]

Prints the number of inputs. Exit code 1 with what was found on stderr; a hang ends the process with
a traceback (SIGALRM after so much CPU time).
"""

import argparse
import faulthandler
import random
import resource
import signal
import sys
import time
import traceback
from typing import Final

from benchmarks.fuzz.parsers import TARGETS, Target

__all__ = ["run_target"]

HANG_CPU_S: Final = 5.0
"""Of one input of some kilobytes."""
GROWTH_BYTES_MAX: Final = 128 << 20
"""Of the process, after its first inputs."""
WARM_INPUTS: Final = 200


class FoundError(Exception):
    """A parser did what it must not."""


def run_target(name: str, seed: str, *, seconds: float, inputs_max: int | None = None) -> int:
    """Parse damaged inputs for a while; return how many.

    Raises:
        FoundError: a parser raised what is no refusal, or memory grew; names the input's seed.
    """
    target = TARGETS[name]
    corpus = target.corpus()
    until_s = time.monotonic() + seconds
    n_inputs, start_bytes = 0, 0
    while time.monotonic() < until_s and n_inputs != inputs_max:
        _try(target, name, corpus[n_inputs % len(corpus)], f"{seed}:{name}:{n_inputs}")
        n_inputs += 1
        if n_inputs == WARM_INPUTS:
            start_bytes = _most_bytes()
    if start_bytes and _most_bytes() - start_bytes > GROWTH_BYTES_MAX:
        raise FoundError(f"{name}: memory grew by {(_most_bytes() - start_bytes) >> 20} MiB")
    return n_inputs


def _try(target: Target, name: str, data: bytes, seed: str) -> None:
    signal.setitimer(signal.ITIMER_PROF, HANG_CPU_S)
    try:
        target.attempt(data, random.Random(seed))
    except target.refusals:
        return
    except Exception:  # noqa: BLE001 (that is what is looked for)
        raise FoundError(f"{name}: input {seed}\n{traceback.format_exc()}") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("seed")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--inputs", type=int)
    arguments = parser.parse_args()
    faulthandler.register(signal.SIGPROF, chain=True)
    try:
        n_inputs = run_target(
            arguments.target,
            arguments.seed,
            seconds=arguments.seconds,
            inputs_max=arguments.inputs,
        )
    except FoundError as error:
        sys.exit(str(error))
    print(n_inputs)


if __name__ == "__main__":
    main()
