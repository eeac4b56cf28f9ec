"""Holds the stored captions against the stored log."""

import asyncio
from typing import Final

from speechbus_contracts import (
    CAPTION_STORE,
    CORRELATOR_CONSUMER,
    TRANSCRIPT_STORE,
    TRANSLATOR_CONSUMER,
    CaptionJoined,
    ContractError,
    SegmentFinal,
    TranslationFinal,
    decode_event,
)
from speechbus_correlator.join import Stored, join, parse_part
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import StoredMessage, fetch_stored, request_api

__all__ = ["captions_stored", "check_captions", "read_all", "redeliver_soon", "settle"]

PATIENCE_S: Final = 60.0
"""Only a hang reaches it."""
POLL_S: Final = 0.05


async def redeliver_soon(bus: BusConnection) -> None:
    """Have what a killed process held come again after 1 s, not after 10."""
    for name in (CORRELATOR_CONSUMER, TRANSLATOR_CONSUMER):
        where = f"{TRANSCRIPT_STORE}.{name}"
        config = (await request_api(bus, f"CONSUMER.INFO.{where}", {}))["config"]
        body = {
            "stream_name": TRANSCRIPT_STORE,
            "action": "update",
            "config": {**config, "ack_wait": 1_000_000_000},
        }
        await request_api(bus, f"CONSUMER.CREATE.{where}", body)


async def settle(bus: BusConnection) -> None:
    """Return when translators and correlators have dealt with every stored event."""
    async with asyncio.timeout(PATIENCE_S):
        # In this order: what a translator writes, a correlator has to deal with.
        for name in (TRANSLATOR_CONSUMER, CORRELATOR_CONSUMER):
            while True:
                info = await request_api(bus, f"CONSUMER.INFO.{TRANSCRIPT_STORE}.{name}", {})
                if info["num_pending"] == info["num_ack_pending"] == 0:
                    break
                await asyncio.sleep(POLL_S)


async def captions_stored(bus: BusConnection, n: int) -> None:
    """Return when so many captions have been published."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            info = await request_api(bus, f"STREAM.INFO.{CAPTION_STORE}", {})
            if info["state"]["messages"] >= n:
                return
            await asyncio.sleep(POLL_S)


async def read_all(bus: BusConnection, jetstream_name: str, subject: str) -> list[StoredMessage]:
    """Return everything that a store has of a subject."""
    messages: list[StoredMessage] = []
    while True:
        last = messages[-1].sequence if messages else 0
        batch = await fetch_stored(bus, jetstream_name, subject, start_sequence=last + 1)
        if not batch:
            return messages
        messages += batch


async def check_captions(bus: BusConnection, *, wait_ms: int) -> dict[str, CaptionJoined]:
    """Check that the current captions are what the log adds up to; return them by segment.

    Each final has one; each translation stands in the caption of its own segment and revision.
    """
    segments: dict[str, list[Stored]] = {}
    for message in await read_all(bus, TRANSCRIPT_STORE, "speech.v1.write.>"):
        try:
            event = parse_part(message.subject, message.payload)
        except ContractError:
            continue  # claims and the like
        stored = Stored(message.sequence, message.stored_at_ms, event)
        segments.setdefault(event.transcription_id, []).append(stored)
    current: dict[str, CaptionJoined] = {}
    for message in await read_all(bus, CAPTION_STORE, "speech.v1.caption.>"):
        caption = decode_event(message.payload)
        assert isinstance(caption, CaptionJoined)
        known = current.get(caption.transcription_id)
        if known is None or caption.revision > known.revision:
            current[caption.transcription_id] = caption
    expected = {
        name: joined.caption
        for name, events in segments.items()
        if (joined := join(events, wait_ms=wait_ms)) is not None
    }
    assert current == expected
    for name, caption in current.items():
        _check_segment(caption, segments[name])
    return current


def _check_segment(caption: CaptionJoined, events: list[Stored]) -> None:
    finals = [each.event for each in events if isinstance(each.event, SegmentFinal)]
    assert caption.source is not None
    assert caption.source == max(finals, key=lambda final: final.revision)
    came = {
        each.event.language: each.event.text
        for each in reversed(events)
        if isinstance(each.event, TranslationFinal)
        and each.event.revision == caption.source.revision
    }
    assert caption.translations == came
