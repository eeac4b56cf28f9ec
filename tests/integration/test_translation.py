"""Streams whose provider does not translate, on the real system with a translator."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import pytest

from speechbus_contracts import (
    SegmentPartial,
    StreamClosed,
    TranslationFinal,
    TranslationMissing,
    TranslationPartial,
)
from speechbus_runtime.bus import connect_bus
from tests.support.caption_check import captions_stored, check_captions
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import build_frames
from tests.support.libretranslate import LibreTranslateServer
from tests.support.palabra import KEYS, Door
from tests.support.system import System

pytestmark = pytest.mark.nats

WAIT_MS: Final = 60_000
"""Nothing is published at the deadline: what comes sooner, comes at once."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with (
        LibreTranslateServer() as engine,
        System(
            tmp_path_factory.mktemp("translation"),
            correlators=1,
            translators=1,
            ingest_settings={"API_KEYS": KEYS},
            correlator_settings={"DEADLINE_S": str(WAIT_MS // 1_000)},
            translator_settings={"LIBRETRANSLATE_URL": engine.url, "PARTIALS": "true"},
        ) as running,
    ):
        yield running


def test_a_stream_ends_with_its_translations_or_the_reason_why_not(system: System) -> None:
    """`closed` is the last event also for those who wait for translations."""

    async def run() -> Received:
        hello = {"language": "en", "target_languages": ["es", "ja"]}
        received = await stream_frames(
            system.ingest.url, "key-of-acme", n_frames=200, is_paced=False, hello=hello
        )
        bus = await connect_bus(system.nats.url, name="test")
        await captions_stored(bus, len(received.finals))
        captions = await check_captions(bus, wait_ms=WAIT_MS)
        await bus.shut_down()
        for final in received.finals:
            caption = captions[final.transcription_id]
            assert (caption.state, caption.missing) == ("incomplete", ("ja",))
            assert caption.translations == {"es": f"[es] {final.text}"}
            assert caption.reasons == {"ja": "no_engine"}
        return received

    received = asyncio.run(run())

    assert len(received.finals) == 2
    assert isinstance(received.events[-1], StreamClosed)
    ids = [final.transcription_id for final in received.finals]
    translated = [e for e in received.events if isinstance(e, TranslationFinal)]
    missing = [e for e in received.events if isinstance(e, TranslationMissing)]
    assert sorted(e.transcription_id for e in translated) == ids
    assert sorted(e.transcription_id for e in missing) == ids


def test_what_is_being_said_is_translated_before_it_is_final(system: System) -> None:
    """Where translators are told to; each translation names the partial that it is of."""
    hello = {"language": "en", "target_languages": ["es", "ja"]}
    received = asyncio.run(
        stream_frames(system.ingest.url, "key-of-acme", n_frames=120, hello=hello)
    )

    partials = [e for e in received.events if isinstance(e, SegmentPartial)]
    texts = {(e.transcription_id, e.epoch, e.revision): e.text for e in partials}
    translated = [e for e in received.events if isinstance(e, TranslationPartial)]
    assert len({(e.transcription_id, e.revision) for e in translated}) == len(translated) >= 2
    for each in translated:
        assert each.language == "es"
        text = texts[each.transcription_id, each.epoch, each.revision]
        assert each.text == f"[es] {text}"
    finals = [e.text for e in received.events if isinstance(e, TranslationFinal)]
    assert finals == ["[es] 1-120"]


def test_a_palabra_client_gets_translations_of_a_provider_that_makes_none(system: System) -> None:
    """Whoever transcribes: the client asked for Spanish."""
    door = Door(system.ingest)

    async def run() -> list[dict[str, Any]]:
        query = {"language": "en", "translate_languages": "es"}
        async with door.connect(door.get_token(), **query) as client:
            await client.send(build_frames(1, 150))
            return await client.hear_until("[es] 1-150")

    *_, source, translated = asyncio.run(run())

    assert translated == {
        "message_type": "translated_transcription",
        "transcription_id": source["transcription_id"],
        "language": "es",
        "is_eos": True,
        "segment": {"text": "[es] 1-150", "start_time": 0.0, "end_time": 3.0},
    }
