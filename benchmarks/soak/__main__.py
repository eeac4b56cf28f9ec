"""Many streams, anything breaks at any time; afterwards the stored transcript is read.

    python -m benchmarks.soak [--minutes 30] [--streams 100] [--seed N] [--cluster] [--folder DIR]

Real processes throughout: nats-server (three of them with --cluster), three ingests, four workers,
and the simulators of Palabra and Kotoba. Streams of all sorts come and go so that about as many as
asked for are live; sessions at the providers break by scripts; processes are killed, frozen,
drained and restarted. The seed fixes all of it but the moments at which it meets: what every stream
does, what is struck when, and how each session at a provider ends. Exits with 1 when anything is
wrong, and keeps the folder.
"""

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.simulators import Simulator
from benchmarks.soak.plan import plan_script, plan_strikes
from benchmarks.soak.report import print_report
from benchmarks.soak.run import Soak
from benchmarks.soak.system import build_system

INGESTS = 3
WORKERS = 4


def main() -> int:
    """Soak and report; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--streams", type=int, default=100, help="live at a time")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument("--without", default="", help="strikes to leave out, by their names' parts")
    parser.add_argument(
        "--cluster", action="store_true", help="three NATS nodes, which are struck one at a time"
    )
    parser.add_argument(
        "--audio-replicas",
        type=int,
        choices=(1, 3),
        default=1,
        help="with --cluster: of each chunk, default %(default)s, as `speechbus bootstrap` has it",
    )
    parser.add_argument("--folder", type=Path, default=None, help="for stores and logs; kept")
    arguments = parser.parse_args()
    logging.getLogger("speechbus_runtime").setLevel(logging.ERROR)  # NATS comes and goes
    if arguments.audio_replicas > 1 and not arguments.cluster:
        parser.error("--audio-replicas 3 needs --cluster")
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="speechbus-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    simulators = [Simulator(provider, folder) for provider in ("palabra", "kotoba")]
    for simulator in simulators:
        simulator.start(plan_script(seed, simulator.provider, 1))
    try:
        with build_system(
            folder,
            simulators,
            ingests=INGESTS,
            workers=WORKERS,
            cluster_audio_replicas=arguments.audio_replicas if arguments.cluster else None,
        ) as system:
            soak = Soak(
                system,
                simulators,
                seed=seed,
                n_streams=arguments.streams,
                seconds=arguments.minutes * 60,
                strikes=[
                    strike
                    for strike in plan_strikes(
                        seed, seconds=arguments.minutes * 60, has_cluster=arguments.cluster
                    )
                    if not any(part in strike.kind for part in arguments.without.split(",") if part)
                ],
                audio_replicas=arguments.audio_replicas,
            )
            result = asyncio.run(soak.run())
    finally:
        for simulator in simulators:
            simulator.end()
    is_good = print_report(result, folder=folder, log_folder=folder / "system")
    print(f"seed {seed}")
    if is_good and arguments.folder is None:
        shutil.rmtree(folder)
    else:
        print(f"stores, scripts and logs: {folder}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
