"""What each format costs at ingest, and how soon its first samples are on the bus.

    python -m benchmarks.formats [--streams 10] [--seconds 12]

A real system for each format: nats-server, one ingest, one transcriber with the echo provider.
Clients send 100 ms of a recording every 100 ms, as a live sender would, spread over that time. CPU
is process time from /proc, of ingest and of its decoders; first samples are timed by a subscriber
on the bus, from the first byte sent to the first chunk seen.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import psutil

from speechbus_contracts.audio import AUDIO_PREFIX_BYTES
from speechbus_ingest.formats.names import CONTAINERS, Container
from speechbus_runtime.bus import connect_bus
from tests.support.encoded import SAMPLE_RATES_HZ, build_tone, build_wav, encode
from tests.support.native_client import connect_native
from tests.support.system import System

__all__ = ["main"]

STEP_S: Final = 0.1
WARM_S: Final = 2.0
"""Opening the streams is not counted."""
REST_S: Final = 2.0
"""Before their end."""


class Recording(msgspec.Struct, frozen=True):
    """What the clients send."""

    name: str
    hello: Mapping[str, object]
    data: bytes
    seconds: float

    @property
    def step_bytes(self) -> int:
        """Of `STEP_S`, at the recording's average."""
        return -int(-len(self.data) * STEP_S // self.seconds)


class Row(msgspec.Struct, frozen=True):
    """One format's figures."""

    name: str
    ingest_ms: float
    """CPU per second of audio."""
    decoder_ms: float
    decoder_kb: float
    """Private memory of a stream's decoder, 0 where there is none."""
    first_s: Sequence[float]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=12.0)
    arguments = parser.parse_args()
    print("| format | ingest | decoder | decoder, private | first samples, median / worst |")
    print("|---|---|---|---|---|")
    for recording in _build_recordings(arguments.seconds):
        row = _measure(recording, arguments.streams)
        print(
            f"| {row.name} | {row.ingest_ms:.1f} ms | {row.decoder_ms:.1f} ms "
            f"| {row.decoder_kb / 1024:.1f} MiB | {statistics.median(row.first_s):.2f} "
            f"/ {max(row.first_s):.2f} s |",
            flush=True,
        )


def _build_recordings(seconds: float) -> list[Recording]:
    pcm = build_tone(16_000, seconds)
    raw = Recording("pcm_s16le, 16 kHz", {"sample_rate_hz": 16_000}, pcm, seconds)
    wav = build_wav(pcm, sample_rate_hz=16_000)
    recordings = [raw, Recording("wav, 16 kHz", {"format": "wav"}, wav, seconds)]
    for container in CONTAINERS:
        recordings.append(_record(container, seconds))
    return recordings


def _record(container: Container, seconds: float) -> Recording:
    rate = SAMPLE_RATES_HZ[container]
    data = encode(container, build_tone(rate, seconds), sample_rate_hz=rate)
    return Recording(f"{container}, {rate / 1000:g} kHz", {"format": container}, data, seconds)


def _measure(recording: Recording, n_streams: int) -> Row:
    settings = {"DECODERS_MAX": str(n_streams), "LOG_LEVEL": "WARNING"}
    with (
        tempfile.TemporaryDirectory() as folder,
        System(Path(folder), ingest_settings=settings) as system,
    ):
        return asyncio.run(_stream_all(system, recording, n_streams))


async def _stream_all(system: System, recording: Recording, n_streams: int) -> Row:
    loop = asyncio.get_running_loop()
    sent_at_s: dict[str, float] = {}
    seen_at_s: dict[str, float] = {}

    def see(subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        stream_id = subject.rsplit(b".", 1)[1].decode()
        if len(payload) > AUDIO_PREFIX_BYTES:
            seen_at_s.setdefault(stream_id, loop.time())

    bus = await connect_bus(system.nats.url, name="benchmark")
    bus.subscribe_direct("speech.v1.audio.>", see)
    await bus.flush()
    ingest = psutil.Process(system.ingest.pid)
    async with asyncio.TaskGroup() as tasks:
        for number in range(n_streams):
            delay_s = STEP_S * number / n_streams
            tasks.create_task(_send(system, recording, delay_s, sent_at_s))
        await asyncio.sleep(WARM_S)
        before = _read(ingest)
        started_s = loop.time()
        await asyncio.sleep(recording.seconds - WARM_S - REST_S)
        after = _read(ingest)
        audio_s = (loop.time() - started_s) * n_streams
        decoders = [child for process in ingest.children() for child in process.children()]
        private = [child.memory_full_info().uss for child in decoders]
    await bus.shut_down()
    return Row(
        recording.name,
        1000 * (after[0] - before[0]) / audio_s,
        1000 * (after[1] - before[1]) / audio_s,
        statistics.mean(private) / 1024 if private else 0.0,
        [seen_at_s[stream_id] - sent_at_s[stream_id] for stream_id in sent_at_s],
    )


async def _send(
    system: System, recording: Recording, delay_s: float, sent_at_s: dict[str, float]
) -> None:
    loop = asyncio.get_running_loop()
    async with connect_native(system.ingest, system.key) as client:
        await client.open(**recording.hello)
        await asyncio.sleep(delay_s)
        started_s = loop.time()
        sent_at_s[client.stream_id] = started_s
        for number, at in enumerate(range(0, len(recording.data), recording.step_bytes)):
            await asyncio.sleep(max(0.0, started_s + number * STEP_S - loop.time()))
            await client.send(recording.data[at : at + recording.step_bytes])
        await client.end()


def _read(ingest: psutil.Process) -> tuple[float, float]:
    """Return the CPU seconds of ingest, and of its decoders."""
    decoders = ingest.children(recursive=True)
    return _cpu_s(ingest), sum(map(_cpu_s, decoders))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
