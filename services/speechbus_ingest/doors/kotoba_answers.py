"""What a Kotoba client is told about its stream: the bus's events as the vendor's messages.

Pure: events in, messages out; no clock, no socket.
"""

from collections.abc import Callable

from speechbus_contracts import (
    AnyEvent,
    Gap,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamClosed,
    StreamCovered,
)
from speechbus_ingest.doors.append_only import AppendOnly, Piece, Turn
from speechbus_wire.kotoba import Committed, ItemCreated, Told
from speechbus_wire.kotoba_openai import ItemCompleted, ItemDelta

__all__ = ["KotobaAnswers", "name_events"]


def name_events(session_id: str) -> Callable[[str], str]:
    """Return what names a session's events: `<session>-<kind>-<number>`, as the vendor's are."""
    numbers = iter(range(1, 1 << 62))
    return lambda kind: f"{session_id}-{kind}-{next(numbers)}"


class KotobaAnswers:
    """One client's view of its stream.

    Deltas are appended in the order they come, whether turns are told or not.

    Args:
        name_event: makes the `event_id` of a kind of event.
        has_turns: each segment is a turn with an id of its own, and ends with `completed`.
            Otherwise deltas name the append that came last, and nothing else tells them apart.
        has_timestamps: whether texts come with times.
    """

    def __init__(
        self, name_event: Callable[[str], str], *, has_turns: bool, has_timestamps: bool
    ) -> None:
        self._name_event = name_event
        self._has_turns = has_turns
        self._has_timestamps = has_timestamps
        self._text = AppendOnly()
        self._append_id: str | None = None
        self._has_item = False

    def note_append(self, event_id: str | None) -> list[Told]:
        """Note that audio came in."""
        self._append_id = event_id
        if self._has_item:
            return []
        self._has_item = True
        return [ItemCreated(event_id=self._name_event("cc"))]

    def take_event(self, event: AnyEvent) -> list[Told]:
        """Return what the client is told, in order."""
        match event:
            case SegmentPartial() | SegmentFinal() | SegmentRetracted() | StreamCovered() | Gap():
                told = (self._tell(part) for part in self._text.take(event))
                return [message for message in told if message is not None]
            case StreamClosed(reason="end"):
                return [Committed(event_id=self._name_event("ic"))]
            case _:
                return []

    def _tell(self, part: Piece | Turn) -> ItemDelta | ItemCompleted | None:
        start_ms, end_ms, processed_ms = (
            (part.start_ms, part.end_ms, part.processed_ms)
            if self._has_timestamps
            else (None, None, None)
        )
        item_id = part.transcription_id if self._has_turns else self._append_id
        match part:
            case Piece():
                return ItemDelta(
                    item_id=item_id,
                    delta=part.text,
                    start_ms=start_ms,
                    end_ms=end_ms,
                    audio_processed_ms=processed_ms,
                    event_id=self._name_event("cd"),
                    content_index=0,
                )
            case Turn() if self._has_turns:
                return ItemCompleted(
                    item_id=item_id,
                    transcript=part.text,
                    start_ms=start_ms,
                    end_ms=end_ms,
                    audio_processed_ms=processed_ms,
                    event_id=self._name_event("ct"),
                    content_index=0,
                )
            case Turn():
                return None
