"""The log of a segment, read from JetStream.

A direct get may be answered by a replica that lags. So each answer is held against a sequence that
must be in it, and is no answer without.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from speechbus_contracts import TRANSCRIPT_STORE, ContractError, SegmentFinal
from speechbus_contracts.subjects import WRITE_ROOT
from speechbus_correlator.join import ORPHAN_AFTER_MS, Stored, parse_part
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import (
    JetStreamUnavailableError,
    StoredMessage,
    fetch_stored,
    parse_time_ms,
    read_last,
    request_api,
)

__all__ = ["Transcript"]

BATCHES: Final = (16, 500)
"""Messages of the first read and of each further one: a segment and its translations lie within
some ten events of their stream."""
FINALS_BACK_MS: Final = 900_000
"""How far before a translation its final is looked for, when the translation does not say where it
is: some 300 finals."""
KINDS: Final = frozenset({"final", "retracted", "translation"})


class Transcript:
    """Reads TRANSCRIPT; see `SegmentLog`.

    Args:
        bus: the connection.
    """

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus

    async def read(
        self,
        segment: Stored,
        *,
        from_sequence: int,
        to_sequence: int | None = None,
        to_ms: int | None = None,
    ) -> list[Stored]:
        """Return the segment's events from a sequence up to a sequence, or to a moment.

        Nothing when at `from_sequence` there is none of them: whoever named it may be wrong by a
        day of the stream.

        Raises:
            JetStreamUnavailableError: no answer, or one without what must be in it.
        """
        subject = f"{_subject(segment)}.>"
        must_reach = to_sequence
        if must_reach is None:
            last = await read_last(self._bus, TRANSCRIPT_STORE, subject)
            must_reach = 0 if last is None else last.sequence
        return await self._collect(
            segment,
            self._fetch(subject, must_reach=must_reach, start_sequence=from_sequence),
            from_sequence=from_sequence,
            to_sequence=to_sequence,
            to_ms=to_ms,
        )

    async def read_translations_before(self, final: Stored) -> list[Stored]:
        """Return the segment's translations that were stored before its final, and in time.

        Raises:
            JetStreamUnavailableError: no answer, or one without what must be in it.
        """
        messages = self._fetch(
            f"{_subject(final)}.>",
            must_reach=final.sequence,
            start_ms=final.at_ms - ORPHAN_AFTER_MS,
        )
        events = await self._collect(final, messages, to_sequence=final.sequence - 1)
        return [each for each in events if not isinstance(each.event, SegmentFinal)]

    async def find_finals(self, segment: Stored) -> list[Stored]:
        """Return the segment's finals, wherever they are.

        Raises:
            JetStreamUnavailableError: no answer, or one without what must be in it.
        """
        subject = f"{_subject(segment)}.final"
        last = await read_last(self._bus, TRANSCRIPT_STORE, subject)
        start_ms = segment.at_ms - FINALS_BACK_MS
        if last is None or last.stored_at_ms < start_ms or _ends_before(last, segment):
            return []
        messages = self._fetch(subject, must_reach=last.sequence, start_ms=start_ms)
        return await self._collect(segment, messages)

    async def read_clock(self) -> int:
        """Return the store's time, ms since 1970.

        Raises:
            JetStreamUnavailableError: no answer.
        """
        answer = await request_api(self._bus, f"STREAM.INFO.{TRANSCRIPT_STORE}", {})
        return parse_time_ms(answer["ts"])

    async def _collect(
        self,
        segment: Stored,
        messages: AsyncGenerator[StoredMessage],
        *,
        from_sequence: int | None = None,
        to_sequence: int | None = None,
        to_ms: int | None = None,
    ) -> list[Stored]:
        events: list[Stored] = []
        async with aclosing(messages):
            async for message in messages:
                if to_sequence is not None and message.sequence > to_sequence:
                    break
                if to_ms is not None and message.stored_at_ms > to_ms:
                    break
                stored = _read_part(message)
                name = segment.event.transcription_id
                if stored is not None and stored.event.transcription_id == name:
                    events.append(stored)
                if from_sequence not in (None, *(each.sequence for each in events[:1])):
                    break
        return events

    async def _fetch(
        self, subject: str, *, must_reach: int, start_sequence: int = 1, start_ms: int | None = None
    ) -> AsyncGenerator[StoredMessage]:
        """Yield messages in order; without more, the answer must have reached a sequence."""
        batch, further = BATCHES
        start_time = None if start_ms is None else _spell(start_ms)
        reached = 0
        while True:
            messages = await fetch_stored(
                self._bus,
                TRANSCRIPT_STORE,
                subject,
                start_time=start_time,
                start_sequence=start_sequence,
                messages_max=batch,
            )
            for message in messages:
                reached = message.sequence
                yield message
            if reached >= must_reach:
                return
            if not messages:
                raise JetStreamUnavailableError("a replica lags")
            start_time, start_sequence, batch = None, reached + 1, further


def _read_part(message: StoredMessage) -> Stored | None:
    if message.subject.split(".")[5] not in KINDS:
        return None
    try:
        event = parse_part(message.subject, message.payload)
    except ContractError:
        return None  # dropped and logged where it is delivered
    return Stored(message.sequence, message.stored_at_ms, event)


def _subject(segment: Stored) -> str:
    event = segment.event
    return f"{WRITE_ROOT}.{event.tenant}.{event.stream_id}"


def _ends_before(last_final: StoredMessage, segment: Stored) -> bool:
    """Whether the stream has no final yet as far as this segment: the usual case by far."""
    try:
        final = parse_part(last_final.subject, last_final.payload)
        index = int(segment.event.transcription_id.rpartition("-")[2])
    except ContractError:
        return False
    return isinstance(final, SegmentFinal) and final.index < index


def _spell(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
