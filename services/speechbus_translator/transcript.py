"""What the log already says about the translations of a final."""

from typing import Final

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    ContractError,
    SegmentFinal,
    TranslationFinal,
    TranslationMissing,
    decode_event,
)
from speechbus_contracts.subjects import WRITE_ROOT
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import fetch_stored

__all__ = ["Transcript"]

TRANSLATIONS_READ_MAX: Final = 200
"""Behind a final, its own translations are among the first few of its stream."""


class Transcript:
    """Reads TRANSCRIPT.

    A replica that lags may answer. Then a text is translated once more, and the store drops the
    second translation by its dedup id.

    Args:
        bus: the connection.
    """

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus

    async def find_translated(self, final: SegmentFinal, sequence: int) -> frozenset[str]:
        """Return the languages of which the log says something, for this revision of the segment.

        Args:
            final: the source.
            sequence: of the source in the log.

        Raises:
            JetStreamUnavailableError: no answer.
        """
        messages = await fetch_stored(
            self._bus,
            TRANSCRIPT_STORE,
            f"{WRITE_ROOT}.{final.tenant}.{final.stream_id}.translation.*",
            start_sequence=sequence,
            messages_max=TRANSLATIONS_READ_MAX,
        )
        found: set[str] = set()
        for message in messages:
            try:
                event = decode_event(message.payload)
            except ContractError:
                continue  # dropped and logged where it is delivered
            if (
                isinstance(event, TranslationFinal | TranslationMissing)
                and event.transcription_id == final.transcription_id
                and event.revision == final.revision
            ):
                found.add(event.language)
        return frozenset(found)
