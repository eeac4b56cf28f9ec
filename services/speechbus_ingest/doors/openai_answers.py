"""What an OpenAI client is told about its stream: the bus's events as items of a conversation.

Pure: events in, messages out; no clock, no socket.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from speechbus_contracts import (
    AnyEvent,
    Gap,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamClosed,
    StreamCovered,
    StreamFlushed,
)
from speechbus_ingest.doors.append_only import AppendOnly, Piece, Turn
from speechbus_ingest.doors.stabilizer import separator
from speechbus_wire.kotoba_openai import (
    Item,
    ItemAdded,
    ItemCompleted,
    ItemDelta,
    ItemDone,
    ItemMade,
    OpenAIMessage,
    SpeechStarted,
    SpeechStopped,
    TurnCommitted,
    Usage,
)

__all__ = ["COMMITS_MAX", "OpenAIAnswers"]

COMMITS_MAX: Final = 64
"""Unanswered ones; more share the last one's item. A client commits once per turn."""


class _Item(msgspec.Struct):
    """One item, the client's turn."""

    id: str
    previous_id: str | None
    text: str = ""
    start_ms: int | None = None
    end_ms: int = 0


class OpenAIAnswers:
    """One client's view of its stream.

    With turn detection each segment is an item. Without it an item is what was said between two
    commits: it is complete when the bus has answered the flush that went out for the second.
    Deltas come while somebody speaks, which is sooner than at OpenAI: the item is announced before
    its first one.

    Args:
        name_event: makes the `event_id` of a kind of event.
        dialect: the two announce items differently.
        has_turns: whether the server ends turns.
    """

    def __init__(
        self,
        name_event: Callable[[str], str],
        *,
        dialect: Literal["beta", "general"],
        has_turns: bool,
    ) -> None:
        self._name_event = name_event
        self._dialect = dialect
        self._has_turns = has_turns
        self._text = AppendOnly()
        self._last_id: str | None = None
        self._item: _Item | None = None
        self._commits: deque[tuple[int, _Item]] = deque()

    def note_append(self, event_id: str | None) -> list[OpenAIMessage]:
        """Note that audio came in: nothing is said about it."""
        del event_id
        return []

    def note_commit(self, chunk: int) -> list[OpenAIMessage]:
        """Note that the client committed, and which flush chunk went out for it."""
        if self._has_turns:
            return []  # the flush ends the open segment, which is told like any other
        if len(self._commits) == COMMITS_MAX:
            self._commits[-1] = (chunk, self._commits[-1][1])
            return []
        item, self._item = self._item, None
        messages: list[OpenAIMessage] = []
        if item is None:
            item = self._announce(self._name_event("item"), messages)
        self._commits.append((chunk, item))
        return [*messages, *self._commit(item)]

    def take_event(self, event: AnyEvent) -> list[OpenAIMessage]:
        """Return what the client is told, in order."""
        match event:
            case SegmentPartial() if self._commits:
                return []  # it may be of the next item already
            case SegmentPartial() | SegmentFinal() | SegmentRetracted() | StreamCovered() | Gap():
                return [told for part in self._text.take(event) for told in self._tell(part)]
            case StreamFlushed(chunk=chunk):
                return self._complete_until(chunk)
            case StreamClosed():
                return self._complete_until(None)
            case _:
                return []

    def _tell(self, part: Piece | Turn) -> list[OpenAIMessage]:
        messages: list[OpenAIMessage] = []
        item = self._commits[0][1] if self._commits else self._item
        if item is None:
            item_id = part.transcription_id if self._has_turns else self._name_event("item")
            if self._has_turns:
                messages.append(
                    SpeechStarted(
                        event_id=self._name_event("event"),
                        audio_start_ms=part.start_ms,
                        item_id=item_id,
                    )
                )
            item = self._item = self._announce(item_id, messages)
        item.start_ms = part.start_ms if item.start_ms is None else item.start_ms
        item.end_ms = part.end_ms
        match part:
            case Piece():
                messages.append(
                    ItemDelta(
                        item_id=item.id,
                        delta=part.text,
                        event_id=self._name_event("event"),
                        content_index=0,
                    )
                )
            case Turn():
                item.text += separator(item.text, part.text) + part.text
                if self._has_turns:
                    messages += self._end_turn(item)
        return messages

    def _end_turn(self, item: _Item) -> list[OpenAIMessage]:
        self._item = None
        stopped = SpeechStopped(
            event_id=self._name_event("event"), audio_end_ms=item.end_ms, item_id=item.id
        )
        return [stopped, *self._commit(item), self._complete(item)]

    def _announce(self, item_id: str, messages: list[OpenAIMessage]) -> _Item:
        """Begin an item, and say so."""
        item = _Item(item_id, previous_id=self._last_id)
        self._last_id = item_id
        kind = ItemMade if self._dialect == "beta" else ItemAdded
        # The beta has no event for its end.
        status: Literal["in_progress", "completed"] = (
            "completed" if self._dialect == "beta" else "in_progress"
        )
        messages.append(
            kind(
                event_id=self._name_event("event"),
                previous_item_id=item.previous_id,
                item=Item(id=item_id, status=status),
            )
        )
        return item

    def _commit(self, item: _Item) -> list[OpenAIMessage]:
        committed = TurnCommitted(
            event_id=self._name_event("event"),
            item_id=item.id,
            previous_item_id=item.previous_id,
        )
        if self._dialect == "beta":
            return [committed]
        done = ItemDone(
            event_id=self._name_event("event"),
            previous_item_id=item.previous_id,
            item=Item(id=item.id, status="completed"),
        )
        return [committed, done]

    def _complete_until(self, chunk: int | None) -> list[OpenAIMessage]:
        """Complete the items whose flush is answered; None: all."""
        messages: list[OpenAIMessage] = []
        while self._commits and (chunk is None or self._commits[0][0] <= chunk):
            messages.append(self._complete(self._commits.popleft()[1]))
        return messages

    def _complete(self, item: _Item) -> ItemCompleted:
        self._text.break_off()
        spoken_ms = item.end_ms - (item.end_ms if item.start_ms is None else item.start_ms)
        return ItemCompleted(
            item_id=item.id,
            transcript=item.text,
            event_id=self._name_event("event"),
            content_index=0,
            usage=Usage(seconds=spoken_ms / 1000),
        )
