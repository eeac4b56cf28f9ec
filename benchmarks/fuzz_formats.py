"""Damaged audio of every encoded format, against real decoder processes and the WAV parser.

    python -m benchmarks.fuzz_formats [--inputs 10000] [--seed 1]

Prints how inputs ended, the slowest one, and the most memory that a decoder took. Fails when one
crashed, hung or cost too much.
"""

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import psutil

from speechbus_ingest.formats.decoder_wire import Job
from speechbus_ingest.formats.names import CONTAINERS, Container, EncodedFormat
from speechbus_ingest.formats.undecodable import UndecodableError
from speechbus_ingest.formats.wav import WavReader
from tests.support.decoder import DecoderProcess
from tests.support.encoded import SAMPLE_RATES_HZ, build_tone, build_wav, encode
from tests.support.mutations import mutate

__all__ = ["main"]

PARALLEL: Final = 4
POLL_S: Final = 0.002
"""A decoder of half a second of audio lives for some 10 ms."""
BAD_ENDS: Final = frozenset({"died", "crashed", "costly"})


class Ended(msgspec.Struct, frozen=True):
    """How one input ended."""

    container: EncodedFormat
    end: str
    seconds: float


class MemoryWatch:
    """Asks for the memory of all decoders over and over; remembers the most of one."""

    def __init__(self, decoders: DecoderProcess) -> None:
        self.most_bytes = 0
        """Private memory of the largest decoder seen."""
        self._decoders = decoders
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(POLL_S):
            for child in self._decoders.children:
                try:
                    self.most_bytes = max(self.most_bytes, child.memory_full_info().uss)
                except psutil.Error:
                    continue  # it has ended meanwhile


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    recordings = build_recordings()
    with tempfile.TemporaryDirectory() as folder, DecoderProcess(Path(folder)) as decoders:
        started_s = time.perf_counter()
        with MemoryWatch(decoders) as memory, ThreadPoolExecutor(PARALLEL) as pool:
            seeds = [f"{arguments.seed}:{number}" for number in range(arguments.inputs)]
            ended = list(pool.map(partial(_try, decoders, recordings), seeds))
        took_s = time.perf_counter() - started_s
        first = psutil.Process(decoders.process.pid).memory_full_info()
    print(f"{len(ended)} inputs in {took_s:.0f} s")
    for container in sorted(recordings):
        ends = Counter(one.end for one in ended if one.container == container)
        print(f"- {container}: {', '.join(f'{n} {end}' for end, n in ends.most_common())}")
    slowest = max(ended, key=lambda one: one.seconds)
    print(f"slowest: {slowest.seconds:.2f} s ({slowest.container}, {slowest.end})")
    print(f"most private memory of a decoder: {memory.most_bytes / 2**20:.1f} MiB")
    print(f"the process that forks, afterwards: {first.uss / 2**20:.1f} MiB private")
    bad = [one for one in ended if one.end in BAD_ENDS]
    if bad:
        raise SystemExit(f"{len(bad)} inputs crashed or hung their decoder: {bad[:5]}")


def build_recordings() -> Mapping[EncodedFormat, list[bytes]]:
    """Return some of each format: live and not, one channel and two."""
    recordings: dict[EncodedFormat, list[bytes]] = {
        "wav": [build_wav(build_tone(16_000, 0.5), sample_rate_hz=16_000)]
    }
    for container in CONTAINERS:
        rate = SAMPLE_RATES_HZ[container]
        recordings[container] = [
            encode(
                container,
                build_tone(rate, 0.5, channels=channels),
                sample_rate_hz=rate,
                channels=channels,
                is_live=is_live,
            )
            for channels in (1, 2)
            for is_live in (True, False)
        ]
    return recordings


def _try(
    decoders: DecoderProcess, recordings: Mapping[EncodedFormat, list[bytes]], seed: str
) -> Ended:
    chance = random.Random(seed)
    container = chance.choice(sorted(recordings))
    data = mutate(chance.choice(recordings[container]), chance)
    started_s = time.perf_counter()
    end = _read_wav(data) if container == "wav" else _decode(decoders, container, data)
    return Ended(container, end, time.perf_counter() - started_s)


def _decode(decoders: DecoderProcess, container: Container, data: bytes) -> str:
    _, problem = decoders.decode(Job(container), data)
    return problem or "whole"


def _read_wav(data: bytes) -> str:
    reader = WavReader()
    try:
        reader.feed(data)
        reader.finish()
    except UndecodableError as error:
        return error.problem
    return "whole"


if __name__ == "__main__":
    main()
