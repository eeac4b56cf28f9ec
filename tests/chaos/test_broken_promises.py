"""A provider promises translations and does not deliver: translators step in."""

import asyncio
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from speechbus_contracts import StreamClosed, TranslationFinal, TranslationMissing
from speechbus_runtime.bus import connect_bus
from tests.support.caption_check import captions_stored, check_captions, settle
from tests.support.frame_client import Received, stream_frames
from tests.support.libretranslate import LibreTranslateServer
from tests.support.provider_streams import EXACT
from tests.support.simulator import simulator
from tests.support.system import System

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

WAIT_MS: Final = 5_000
N_FRAMES: Final = 150
TARGETS: Final = ("es", "pt", "fr")
"""The engine here can the first two."""
SCRIPT: Final = """
segment_ms = 1000
faults = [
  {kind = "late_translation", language = "es", delay_ms = 2500},
  {kind = "missing_translation", language = "pt"},
  {kind = "missing_translation", language = "fr"},
  {kind = "reset", after_ms = 1900, session = 1},
]
"""


def test_a_promise_that_is_broken_is_kept_by_the_pool(tmp_path: Path) -> None:
    """Mute, too late, or its session breaks between a final and its translation: one of each."""
    with ExitStack() as stack:
        variables = stack.enter_context(simulator(tmp_path, SCRIPT, provider="palabra"))
        engine = stack.enter_context(LibreTranslateServer())
        system = stack.enter_context(
            System(
                tmp_path / "system",
                correlators=1,
                translators=1,
                transcriber_settings={"PROVIDERS": "palabra,echo"},
                correlator_settings={"DEADLINE_S": str(WAIT_MS / 1_000)},
                translator_settings={"LIBRETRANSLATE_URL": engine.url, "STEP_IN_S": "0.5"},
                environment=variables,
            )
        )
        received = asyncio.run(_run(system))

    assert received.check_tiling(N_FRAMES) == EXACT
    assert received.gaps == []
    assert isinstance(received.events[-1], StreamClosed)
    ids = [final.transcription_id for final in received.finals]
    translated = [e for e in received.events if isinstance(e, TranslationFinal)]
    assert Counter((e.transcription_id, e.language) for e in translated) == Counter(
        (name, language) for name in ids for language in ("es", "pt")
    )
    assert {e.provider for e in translated} == {"libretranslate"}
    missing = [e for e in received.events if isinstance(e, TranslationMissing)]
    assert [(e.transcription_id, e.language, e.reason) for e in missing] == [
        (name, "fr", "undelivered") for name in ids
    ]


def test_a_provider_that_follows_and_promises_nothing_is_translated_at_once(tmp_path: Path) -> None:
    """Palabra dies for good in the middle; nobody waits for what the next one does not make."""
    script = """
    segment_ms = 1000
    faults = [
      {kind = "reset", after_ms = 2500, session = 1},
      {kind = "refuse", session = 2, status = 503},
      {kind = "refuse", session = 3, status = 503},
    ]
    """
    with ExitStack() as stack:
        variables = stack.enter_context(simulator(tmp_path, script, provider="palabra"))
        engine = stack.enter_context(LibreTranslateServer())
        system = stack.enter_context(
            System(
                tmp_path / "system",
                correlators=1,
                translators=1,
                transcriber_settings={"PROVIDERS": "palabra,echo"},
                correlator_settings={"DEADLINE_S": "60"},
                translator_settings={"LIBRETRANSLATE_URL": engine.url, "STEP_IN_S": "59"},
                environment=variables,
            )
        )
        received = asyncio.run(_run_along_a_route(system))

    assert received.check_tiling(N_FRAMES) == EXACT
    assert isinstance(received.events[-1], StreamClosed)
    makers = {"palabra": "palabra", "echo": "libretranslate"}
    assert {final.provider for final in received.finals} == set(makers)
    translated = [e for e in received.events if isinstance(e, TranslationFinal)]
    assert Counter((e.transcription_id, e.language, e.provider) for e in translated) == Counter(
        (final.transcription_id, language, makers[final.provider])
        for final in received.finals
        for language in ("es", "pt")
    )


async def _run_along_a_route(system: System) -> Received:
    hello = {
        "providers": ["palabra", "echo"],
        "language": "en",
        "target_languages": ["es", "pt"],
    }
    received = await stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES, hello=hello)
    bus = await connect_bus(system.nats.url, name="test")
    await captions_stored(bus, len(received.finals))
    captions = await check_captions(bus, wait_ms=60_000)
    await bus.shut_down()
    assert {caption.state for caption in captions.values()} == {"complete"}
    return received


async def _run(system: System) -> Received:
    hello = {"providers": ["palabra"], "language": "en", "target_languages": list(TARGETS)}
    received = await stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES, hello=hello)
    bus = await connect_bus(system.nats.url, name="test")
    await settle(bus)
    captions = await check_captions(bus, wait_ms=WAIT_MS)
    await bus.shut_down()
    for final in received.finals:
        caption = captions[final.transcription_id]
        assert caption.translations == {
            language: f"[{language}] {final.text}" for language in ("es", "pt")
        }
        assert caption.reasons == {"fr": "undelivered"}
    return received
