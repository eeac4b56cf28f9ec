"""A stream's segments for clients who append: pieces of text while a segment is open, then its end.

Pure: the bus's events in, pieces and turns out.
"""

import msgspec

from speechbus_contracts import Gap, SegmentFinal, SegmentPartial, SegmentRetracted, StreamCovered
from speechbus_ingest.doors.stabilizer import Stabilizer, separator

__all__ = ["AppendOnly", "Heard", "Piece", "Turn"]

Heard = SegmentPartial | SegmentFinal | SegmentRetracted | StreamCovered | Gap


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Text to append."""

    transcription_id: str
    text: str
    start_ms: int
    end_ms: int
    """Of this piece, as far as it is known."""
    processed_ms: int
    """Whatever is sent later starts no earlier."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that has had its last word."""

    transcription_id: str
    text: str
    """The truth, whatever was sent before; empty: taken back."""
    start_ms: int
    end_ms: int
    processed_ms: int


class _Open(msgspec.Struct):
    transcription_id: str
    stabilizer: Stabilizer
    start_ms: int
    sent_to_ms: int
    heard_to_ms: int
    is_begun: bool = False


class AppendOnly:
    """One client's view of its stream.

    Segments come one after the other: a partial is shown when everything before its segment is
    settled, so that all pieces appended make the transcript. Where words are set apart by blanks,
    so are segments, by a blank in front of the later one.
    """

    def __init__(self) -> None:
        self._next_index = 0
        self._open: _Open | None = None
        self._tail = ""  # the last piece sent
        self._processed_ms = 0

    def take(self, event: Heard) -> list[Piece | Turn]:
        """Return what an event adds, in order."""
        match event:
            case SegmentPartial() if event.index == self._next_index:
                return self._show(event)
            case SegmentFinal() if event.index >= self._next_index:
                return [*self._end(event.index, 0), *self._finish(event)]
            case SegmentRetracted() if event.index >= self._next_index:
                return self._end(event.index + 1, self._processed_ms)
            case Gap():
                return self._end(event.next_index, event.to_ms)
            case StreamCovered():
                return self._end(event.next_index, event.covered_ms)
            case _:
                return []

    def break_off(self) -> None:
        """What comes next does not follow what was sent: no blank between them."""
        self._tail = ""

    def _show(self, partial: SegmentPartial) -> list[Piece | Turn]:
        segment = self._reach(partial)
        # What two revisions agree on was heard by the end of the first.
        end_ms = min(segment.heard_to_ms, partial.end_ms)
        segment.heard_to_ms = partial.end_ms
        return self._send(segment, segment.stabilizer.revise(partial.text), end_ms)

    def _finish(self, final: SegmentFinal) -> list[Piece | Turn]:
        segment = self._reach(final)
        start_ms = max(final.start_ms, self._processed_ms)
        pieces = self._send(segment, segment.stabilizer.finish(final.text), final.end_ms)
        self._next_index, self._open = final.index + 1, None
        self._processed_ms = max(self._processed_ms, final.covered_ms)
        if not final.text and not segment.is_begun:
            return []
        return [*pieces, self._build_turn(segment, final.text, start_ms, final.end_ms)]

    def _end(self, next_index: int, processed_ms: int) -> list[Piece | Turn]:
        """Go on behind what has no final; an open segment came to nothing."""
        self._processed_ms = max(self._processed_ms, processed_ms)
        if next_index <= self._next_index:
            return []
        segment, self._open = self._open, None
        self._next_index = next_index
        if segment is None or not segment.is_begun:
            return []
        return [self._build_turn(segment, "", segment.start_ms, segment.sent_to_ms)]

    def _reach(self, event: SegmentPartial | SegmentFinal) -> _Open:
        if self._open is None or self._open.transcription_id != event.transcription_id:
            start_ms = max(event.start_ms, self._processed_ms)
            self._open = _Open(
                transcription_id=event.transcription_id,
                stabilizer=Stabilizer(),
                start_ms=start_ms,
                sent_to_ms=start_ms,
                heard_to_ms=event.end_ms,
            )
        return self._open

    def _send(self, segment: _Open, text: str, end_ms: int) -> list[Piece | Turn]:
        if not text:
            return []
        start_ms = segment.sent_to_ms
        segment.sent_to_ms = max(start_ms, end_ms)
        if not segment.is_begun:
            segment.is_begun = True
            text = separator(self._tail, text) + text
        self._tail = text
        return [
            Piece(
                transcription_id=segment.transcription_id,
                text=text,
                start_ms=start_ms,
                end_ms=segment.sent_to_ms,
                processed_ms=self._processed_ms,
            )
        ]

    def _build_turn(self, segment: _Open, text: str, start_ms: int, end_ms: int) -> Turn:
        return Turn(
            transcription_id=segment.transcription_id,
            text=text,
            start_ms=start_ms,
            end_ms=max(start_ms, end_ms),
            processed_ms=self._processed_ms,
        )
