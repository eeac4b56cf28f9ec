"""Correlators and translators die again and again under streams that are translated."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from speechbus_contracts import CAPTION_STORE, TRANSCRIPT_STORE, TranslationFinal, decode_event
from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.jetstream import request_api
from tests.support.caption_check import check_captions, read_all, redeliver_soon, settle
from tests.support.frame_client import Received, stream_frames
from tests.support.libretranslate import LibreTranslateServer
from tests.support.simulator import simulator
from tests.support.system import Service, System

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

WAIT_MS: Final = 2_000
STEP_IN_S: Final = 0.7
LANGUAGES: Final = ("es", "pt")
N_FRAMES: Final = 120
STREAMS: Final = 100
"""At the simulated Palabra, and as many at a provider that translates nothing."""
KILLS: Final = 6
CAPTIONS_BETWEEN: Final = 25
SCRIPT: Final = """
segment_ms = 1000
sessions_per_identity_max = 0
faults = [
  {kind = "early_translation", language = "es", after_ms = 1200},
  {kind = "late_translation", language = "es", after_ms = 2200, delay_ms = 1500},
  {kind = "reordered_translation", language = "pt", after_ms = 0},
  {kind = "missing_translation", language = "pt", after_ms = 1200},
  {kind = "duplicate_translation", after_ms = 0},
  {kind = "duplicate_final"},
  {kind = "revised_final", after_ms = 1200},
]
"""


def fail_sometimes(number: int) -> int | None:
    """The engine of the pool fails every fifth time."""
    return 500 if number % 5 == 0 else None


def test_every_final_has_its_caption_whoever_dies(tmp_path: Path) -> None:
    """200 streams, two languages; corrections; late, reordered, repeated, missing translations."""
    with ExitStack() as stack:
        variables = stack.enter_context(simulator(tmp_path, SCRIPT, provider="palabra"))
        engine = stack.enter_context(LibreTranslateServer(fault=fail_sometimes))
        system = stack.enter_context(
            System(
                tmp_path / "system",
                transcribers=2,
                correlators=2,
                translators=2,
                ingest_settings={"CHUNK_MS": "320"},
                transcriber_settings={"PROVIDERS": "palabra,echo"},
                correlator_settings={"DEADLINE_S": str(WAIT_MS / 1_000)},
                translator_settings={
                    "LIBRETRANSLATE_URL": engine.url,
                    "STEP_IN_S": str(STEP_IN_S),
                },
                environment={**variables, "PALABRA_SESSIONS_MAX": "0"},
            )
        )
        asyncio.run(_run(system))


async def _run(system: System) -> None:
    bus = await connect_bus(system.nats.url, name="test")
    try:
        await redeliver_soon(bus)
        async with asyncio.TaskGroup() as tasks:
            streams = [
                tasks.create_task(
                    stream_frames(
                        system.ingest.url,
                        system.key,
                        n_frames=N_FRAMES,
                        hello={
                            "providers": [provider],
                            "language": "en",
                            "target_languages": list(LANGUAGES),
                        },
                    )
                )
                for provider in ("palabra", "echo")
                for _ in range(STREAMS)
            ]
            services = [*system.translators, *system.correlators]
            tasks.create_task(
                _kill_in_turn(bus, services, lambda: all(stream.done() for stream in streams))
            )
        await settle(bus)
        current = await check_captions(bus, wait_ms=WAIT_MS)
        await _check_translations(bus)
    finally:
        await bus.shut_down()

    received: list[Received] = [stream.result() for stream in streams]
    finals = {final.transcription_id for each in received for final in each.finals}
    assert set(current) == finals
    for caption in current.values():
        assert caption.source is not None
        # Also where the provider broke its promise, or changed a text that it had translated.
        assert caption.translations == {
            language: f"[{language}] {caption.source.text}" for language in LANGUAGES
        }


async def _check_translations(bus: BusConnection) -> None:
    """Each was stored once, whoever made it, and both have made some."""
    stored = [
        event
        for message in await read_all(bus, TRANSCRIPT_STORE, "speech.v1.write.*.*.translation.*")
        if isinstance(event := decode_event(message.payload), TranslationFinal)
    ]
    times = Counter((each.transcription_id, each.language, each.revision) for each in stored)
    assert set(times.values()) == {1}
    assert {each.provider for each in stored} == {"palabra", "libretranslate"}


async def _kill_in_turn(
    bus: BusConnection, services: list[Service], is_over: Callable[[], bool]
) -> None:
    """Kill one after the other, each after some captions, and start it again."""
    n_before = 0
    for number in range(KILLS):
        while (n := await _n_captions(bus)) < n_before + CAPTIONS_BETWEEN and not is_over():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        n_before = n
        service = services[number % len(services)]
        await asyncio.to_thread(service.kill)
        await asyncio.to_thread(service.start)


async def _n_captions(bus: BusConnection) -> int:
    info = await request_api(bus, f"STREAM.INFO.{CAPTION_STORE}", {})
    return int(info["state"]["messages"])
