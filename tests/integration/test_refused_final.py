"""A final that the store will never take: said as a gap, and the stream goes on."""

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import nats
import pytest

from speechbus_contracts import TRANSCRIPT_STORE, Gap, SegmentFinal, TranslationFinal
from tests.support.frame_client import Received, stream_frames
from tests.support.simulator import simulator
from tests.support.system import System

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]

LONG: Final = "word " * 800
MESSAGE_BYTES_MAX: Final = len(LONG) + 620
"""Takes the translation of LONG, and not its final, which says more around the text."""
SCRIPT: Final = f"""
mode = "text"
texts = [
  {{text = "good morning", ms = 1000}},
  {{text = "{LONG.strip()}", ms = 1000}},
  {{text = "good night", ms = 1000}},
]
"""


def test_a_final_that_is_refused_becomes_a_gap_and_has_no_translation(tmp_path: Path) -> None:
    """Nothing is said about a segment that no reader has, and those around it are whole."""
    with contextlib.ExitStack() as stack:
        variables = stack.enter_context(simulator(tmp_path, SCRIPT))
        system = stack.enter_context(
            System(
                tmp_path / "system",
                transcriber_settings={"PROVIDERS": "palabra"},
                environment=variables,
            )
        )
        received = asyncio.run(_stream_into_small_store(system))

    shown = [event for event in received.events if isinstance(event, SegmentFinal)]
    assert [(final.text, final.start_ms // 1000) for final in shown] == [
        ("good morning", 0),
        ("good night", 2),
    ]
    (gap,) = [event for event in received.events if isinstance(event, Gap)]
    assert (gap.reason, gap.from_ms, gap.to_ms) == ("refused", 1_000, 2_000)
    translated = [
        event.transcription_id for event in received.events if isinstance(event, TranslationFinal)
    ]
    assert translated == [final.transcription_id for final in shown]
    assert received.closed is not None
    assert (received.closed.finals, received.closed.gap_ms) == (2, 1_000)


async def _stream_into_small_store(system: System) -> Received:
    connection = await nats.connect(system.nats.url)  # pyright: ignore[reportUnknownMemberType]
    jetstream = connection.jetstream()  # pyright: ignore[reportUnknownMemberType]
    config = (await jetstream.stream_info(TRANSCRIPT_STORE)).config
    config.max_msg_size = MESSAGE_BYTES_MAX
    await jetstream.update_stream(config)  # pyright: ignore[reportUnknownMemberType]
    await connection.close()
    return await stream_frames(
        system.ingest.url,
        system.key,
        n_frames=150,
        hello={"providers": ["palabra"], "language": "en", "target_languages": ["es"]},
    )
