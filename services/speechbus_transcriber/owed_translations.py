"""Translations that a stream's end waits for: `closed` is its last event."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

import msgspec

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    TRANSLATOR_CONSUMER,
    ContractError,
    SegmentFinal,
    StreamOpened,
    TranslationFinal,
    TranslationMissing,
    decode_event,
)
from speechbus_contracts.subjects import WRITE_ROOT
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import (
    JetStreamError,
    JetStreamUnavailableError,
    fetch_stored,
    request_api,
)

__all__ = ["OwedTranslations", "wait_for_translations"]

FINALS_MAX: Final = 64
"""Finals whose translations may still come: some minutes; translators take a second."""
WAIT_S: Final = 5.0
"""As long as captions wait by default."""
LOOK_EVERY_S: Final = 0.1


class _Owed(msgspec.Struct, frozen=True):
    sequence: int
    keys: frozenset[tuple[str, str, int]]
    """Segment, language and revision."""


class OwedTranslations:
    """What is to come for the last finals of a stream. Pure."""

    def __init__(self) -> None:
        self._finals: deque[_Owed] = deque(maxlen=FINALS_MAX)

    def add(self, final: SegmentFinal, sequence: int) -> None:
        """A final was stored."""
        # Also what the provider has promised: translators step in for it.
        languages = set(final.target_languages)
        if languages:
            name, revision = final.transcription_id, final.revision
            keys = frozenset((name, language, revision) for language in languages)
            self._finals.append(_Owed(sequence, keys))

    def first_sequence(self) -> int | None:
        """Return where in the log what is owed begins; None: nothing is."""
        return self._finals[0].sequence if self._finals else None

    def settle(self, payload: bytes) -> None:
        """An event of the log: a translation, or the word that none comes."""
        try:
            event = decode_event(payload)
        except ContractError:
            return
        if isinstance(event, TranslationFinal | TranslationMissing):
            key = (event.transcription_id, event.language, event.revision)
            left = [_Owed(owed.sequence, owed.keys - {key}) for owed in self._finals]
            self._finals = deque((owed for owed in left if owed.keys), maxlen=FINALS_MAX)


async def wait_for_translations(
    bus: BusConnection, opened: StreamOpened, owed: OwedTranslations
) -> None:
    """Return when everything has come, after `WAIT_S`, or when there are no translators."""
    subject = f"{WRITE_ROOT}.{opened.tenant}.{opened.stream_id}.translation.*"
    with suppress(TimeoutError, JetStreamError, JetStreamUnavailableError):
        async with asyncio.timeout(WAIT_S):
            while (sequence := owed.first_sequence()) is not None:
                for message in await fetch_stored(
                    bus, TRANSCRIPT_STORE, subject, start_sequence=sequence
                ):
                    owed.settle(message.payload)
                if owed.first_sequence() is None or not await _has_translators(bus):
                    return
                await asyncio.sleep(LOOK_EVERY_S)


async def _has_translators(bus: BusConnection) -> bool:
    """Whether anybody pulls, or has something in hand."""
    info = await request_api(bus, f"CONSUMER.INFO.{TRANSCRIPT_STORE}.{TRANSLATOR_CONSUMER}", {})
    return bool(info["num_waiting"] or info["num_ack_pending"])
