"""What joining and translating costs, and how long it takes.

    python -m benchmarks.translation [--streams 200] [--seconds 15]

Real processes throughout; this one plays the workers and the translating providers, and answers for
the translation engine (LibreTranslate's API, at once). Three phases, each on a system of its own:

- backlog: everything lies in the log before one correlator starts: joins a second, and per core;
- live: one correlator, one translator: added latency, and cost per translated segment;
- kills: two of each, killed in turn, half of the streams with translations of their provider that
  come late, in disorder, twice or never: the captions are checked against the log.
"""

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Final

import psutil

from speechbus_contracts import (
    CAPTION_STORE,
    TRANSCRIPT_STORE,
    CaptionJoined,
    SegmentFinal,
    TranslationFinal,
    decode_event,
)
from speechbus_runtime.bus import BusConnection, connect_bus
from tests.support.caption_check import (
    captions_stored,
    check_captions,
    read_all,
    redeliver_soon,
    settle,
)
from tests.support.caption_world import translation_of
from tests.support.correlator import Bus, final_of
from tests.support.libretranslate import LibreTranslateServer
from tests.support.system import Service, System

__all__ = ["main"]

LANGUAGES: Final = ("es", "pt")
FINAL_EVERY_S: Final = 3.0
KILL_EVERY_S: Final = 1.5
WAIT_MS: Final = 2_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    streams, seconds = arguments.streams, arguments.seconds
    for phase in (_measure_backlog, _measure_live, _measure_kills):
        with tempfile.TemporaryDirectory() as folder, LibreTranslateServer() as engine:
            asyncio.run(phase(Path(folder), engine, streams, seconds))


def _system(folder: Path, engine: LibreTranslateServer, *, of_each: int) -> System:
    return System(
        folder,
        ingests=0,
        transcribers=0,
        correlators=of_each,
        translators=of_each,
        correlator_settings={"DEADLINE_S": str(WAIT_MS / 1_000)},
        translator_settings={"LIBRETRANSLATE_URL": engine.url, "STEP_IN_S": "1.0"},
    )


async def _measure_backlog(
    folder: Path, engine: LibreTranslateServer, streams: int, seconds: float
) -> None:
    system = _system(folder, engine, of_each=0)
    with system:
        bus = await connect_bus(system.nats.url, name="bench")
        finals = [
            final_of(index, stream_id=f"s{stream}", target_languages=LANGUAGES)
            for index in range(int(seconds / FINAL_EVERY_S))
            for stream in range(streams)
        ]
        await _write_all(bus, finals)
        sequences = await _sequences_of_finals(bus)
        await _write_all(
            bus,
            [
                translation_of(final, language, source_sequence=sequences[final.transcription_id])
                for final in finals
                for language in LANGUAGES
            ],
        )
        correlator = await asyncio.to_thread(system.add_service, "correlator")
        began_s, cpu_s = time.monotonic(), _cpu_s([correlator])
        before = await _n_captions(bus)
        await captions_stored(bus, len(finals))
        took_s, cpu_s = time.monotonic() - began_s, _cpu_s([correlator]) - cpu_s
        joins = len(finals) - before
        print(
            f"backlog: {joins} captions of {len(LANGUAGES)} languages in {took_s:.1f} s,"
            f" {joins / took_s:.0f}/s; {joins / cpu_s:.0f} per second of one core"
        )
        await bus.shut_down()


async def _measure_live(
    folder: Path, engine: LibreTranslateServer, streams: int, seconds: float
) -> None:
    with _system(folder, engine, of_each=1) as system:
        bus = await connect_bus(system.nats.url, name="bench")
        services = {"correlator": system.correlators, "translator": system.translators}
        before = {name: _cpu_s(each) for name, each in services.items()}
        await _speak(bus, range(streams), seconds)
        await settle(bus)
        current = await check_captions(bus, wait_ms=WAIT_MS)
        latencies_ms = await _latencies_ms(bus)
        segments = len(current)
        for name, each in services.items():
            cost_ms = 1_000 * (_cpu_s(each) - before[name]) / segments
            print(f"live: {name} {cost_ms:.2f} ms of CPU per segment of {len(LANGUAGES)} languages")
        quantiles = statistics.quantiles(latencies_ms, n=100)
        print(
            f"live: {segments} segments of {streams} streams, {segments / seconds:.0f}/s;"
            f" from the last translation in the log to the caption in its store:"
            f" p50 {quantiles[49]:.1f} ms, p99 {quantiles[98]:.1f} ms"
        )
        await bus.shut_down()


async def _measure_kills(
    folder: Path, engine: LibreTranslateServer, streams: int, seconds: float
) -> None:
    with _system(folder, engine, of_each=2) as system:
        bus = await connect_bus(system.nats.url, name="bench")
        await redeliver_soon(bus)
        half = streams // 2
        async with asyncio.TaskGroup() as tasks:
            speaking = [
                tasks.create_task(_speak(bus, range(half), seconds)),
                tasks.create_task(_speak_and_translate(bus, range(half, streams), seconds)),
            ]
            kills = tasks.create_task(_kill(system, speaking))
        await settle(bus)
        current = await check_captions(bus, wait_ms=WAIT_MS)
        states = Counter(caption.state for caption in current.values())
        print(
            f"kills: {kills.result()} SIGKILLs under {streams} streams, {len(current)} segments:"
            f" every caption is what the log adds up to ({dict(states)})"
        )
        await bus.shut_down()


async def _kill(system: System, speaking: Sequence["asyncio.Task[None]"]) -> int:
    services = itertools.cycle([*system.correlators, *system.translators])
    for n_kills, service in enumerate(services):
        await asyncio.wait(speaking, timeout=KILL_EVERY_S)
        if all(task.done() for task in speaking):
            return n_kills
        await asyncio.to_thread(service.kill)
        await asyncio.to_thread(service.start)
    raise AssertionError


async def _speak(bus: BusConnection, streams: Sequence[int], seconds: float) -> None:
    """Write a final every 3 s of each stream, evenly spread; the pool translates them."""
    async for final in _paced_finals(streams, seconds, promised=()):
        await _write_all(bus, [final])


async def _speak_and_translate(bus: BusConnection, streams: Sequence[int], seconds: float) -> None:
    """Write finals and, as a provider that is not at its best, their translations."""
    chance = random.Random(0)
    owed: list[tuple[float, TranslationFinal]] = []
    loop = asyncio.get_running_loop()
    async for final in _paced_finals(streams, seconds, promised=LANGUAGES):
        await _write_all(bus, [final])
        for language in LANGUAGES:
            event = translation_of(final, language, source_sequence=None)
            for _ in range(chance.choice((0, 1, 1, 1, 1, 2))):
                delay_s = chance.choice((0.0, 0.05, 0.5, 1.0, 3.0))
                owed.append((loop.time() + delay_s, event))
        due = [event for at_s, event in owed if at_s <= loop.time()]
        owed = [each for each in owed if each[0] > loop.time()]
        chance.shuffle(due)
        await _write_all(bus, due)
    await _write_all(bus, [event for _, event in owed])


async def _paced_finals(
    streams: Sequence[int], seconds: float, *, promised: tuple[str, ...]
) -> AsyncIterator[SegmentFinal]:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    step_s = FINAL_EVERY_S / len(streams)
    turns = itertools.product(range(int(seconds / FINAL_EVERY_S)), streams)
    for number, (index, stream) in enumerate(turns):
        await asyncio.sleep(began_s + number * step_s - loop.time())
        yield final_of(
            index,
            stream_id=f"s{stream}",
            text=f"segment {index} of {stream}",
            target_languages=LANGUAGES,
            promised_languages=promised,
        )


async def _write_all(bus: BusConnection, events: Iterable[SegmentFinal | TranslationFinal]) -> None:
    async with asyncio.TaskGroup() as writes:
        writer = Bus(bus)
        for event in events:
            writes.create_task(writer.write(event))


async def _sequences_of_finals(bus: BusConnection) -> dict[str, int]:
    found: dict[str, int] = {}
    for message in await read_all(bus, TRANSCRIPT_STORE, "speech.v1.write.*.*.final"):
        event = decode_event(message.payload)
        assert isinstance(event, SegmentFinal)
        found[event.transcription_id] = message.sequence
    return found


async def _latencies_ms(bus: BusConnection) -> list[float]:
    """From the event that completed a caption to the caption, both by the store's clock."""
    log = {
        message.sequence: message.stored_at_ms
        for message in await read_all(bus, TRANSCRIPT_STORE, "speech.v1.write.>")
    }
    latencies: list[float] = []
    for message in await read_all(bus, CAPTION_STORE, "speech.v1.caption.>"):
        caption = decode_event(message.payload)
        assert isinstance(caption, CaptionJoined)
        if caption.state == "complete":
            latencies.append(message.stored_at_ms - log[caption.revision])
    return latencies


async def _n_captions(bus: BusConnection) -> int:
    return len(await read_all(bus, CAPTION_STORE, "speech.v1.caption.>"))


def _cpu_s(services: Sequence[Service]) -> float:
    times = [psutil.Process(service.pid).cpu_times() for service in services]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
