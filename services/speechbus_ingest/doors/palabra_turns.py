"""`finalization_mode=manual`: whatever the recognizer ends, the client's turn is one segment. Pure.

Events in, events out: segments between two flushes become one, under the id of the first.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from speechbus_contracts import (
    AnyEvent,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamClosed,
    StreamFlushed,
    TranslationFinal,
)
from speechbus_ingest.doors.stabilizer import separator

__all__ = ["TURN_CHARS_MAX", "ManualTurns"]

TURN_CHARS_MAX: Final = 20_000
"""Half an hour of speech. Each partial repeats the whole turn, so one that nobody ends is ended."""
TURNS_KEPT_MAX: Final = 64
"""Whose translations may still come: those of the last minutes."""


class _Turn:
    """Segments that the client sees as one."""

    def __init__(self) -> None:
        self.finals: dict[int, SegmentFinal] = {}
        self.translations: dict[str, dict[str, TranslationFinal]] = {}
        """By language, then by the source's id."""

    @property
    def sources(self) -> dict[str, int]:
        """Ids of what has words, in order, with the revision that is part of the turn."""
        return {
            final.transcription_id: final.revision for final in self.finals.values() if final.text
        }

    def add(self, final: SegmentFinal) -> None:
        """Take a part, or its correction: what translated its old text is none of it."""
        known = self.finals.get(final.index)
        if known is not None and known.revision != final.revision:
            for language, parts in list(self.translations.items()):
                parts.pop(final.transcription_id, None)
                if not parts:
                    del self.translations[language]
        self.finals[final.index] = final

    def join(self, last: SegmentPartial | SegmentFinal) -> SegmentPartial:
        """Return all finals and `last`, which may be one of them, as one partial."""
        parts = {index: final.text for index, final in self.finals.items()} | {
            last.index: last.text
        }
        first = next(iter(self.finals.values()), last)
        fields: dict[str, Any] = msgspec.structs.asdict(last) | {
            "transcription_id": first.transcription_id,
            "index": first.index,
            "start_ms": first.start_ms,
            "text": _join(parts.values()),
            "delta": None,
            "words": None,
        }
        return SegmentPartial(**fields)


class ManualTurns:
    """Makes a stream's segments into the turns that its client ends."""

    def __init__(self) -> None:
        self._turn = _Turn()
        self._open: SegmentPartial | None = None
        self._last_index = -1
        """Of the segments that have their final."""
        self._over: list[_Turn] = []
        self._told = ""
        """Text of the open turn as it was told last."""

    def take_event(self, event: AnyEvent) -> list[AnyEvent]:
        """Return what the client is to be told instead."""
        match event:
            case SegmentPartial():
                return self._grow(event)
            case SegmentFinal():
                return self._add(event)
            case SegmentRetracted():
                return self._retract(event)
            case TranslationFinal():
                return self._translate(event)
            case StreamFlushed():
                return [*self._end_turn(), event]
            case StreamClosed():
                return [*self._end_turn(), *self._give_up_waiting(), event]
            case _:
                return [event]

    def _grow(self, partial: SegmentPartial) -> list[AnyEvent]:
        is_next = self._open is None or self._open.index >= partial.index
        if partial.index <= self._last_index or not is_next:
            return []
        self._open = partial
        return self._tell(partial)

    def _add(self, final: SegmentFinal) -> list[AnyEvent]:
        if final.index <= self._last_index and final.index not in self._turn.finals:
            return []  # of a turn that is over
        self._turn.add(final)
        self._last_index = max(self._last_index, final.index)
        if self._open is not None and self._open.index <= final.index:
            self._open = None
        if sum(len(part.text) for part in self._turn.finals.values()) > TURN_CHARS_MAX:
            return self._end_turn()
        return self._tell(self._open or final)

    def _retract(self, retracted: SegmentRetracted) -> list[AnyEvent]:
        if self._open is not None and self._open.index == retracted.index:
            self._open = None
        self._last_index = max(self._last_index, retracted.index)
        if not self._turn.finals:
            return [retracted]
        return self._tell(next(reversed(self._turn.finals.values())))

    def _tell(self, last: SegmentPartial | SegmentFinal) -> list[AnyEvent]:
        whole = self._turn.join(last)
        if whole.text == self._told:
            return []  # a part has become final, which is the recognizer's business
        self._told = whole.text
        return [whole]

    def _end_turn(self) -> list[AnyEvent]:
        turn, self._turn = self._turn, _Turn()
        self._told = ""
        if not turn.finals:
            return []
        last = next(reversed(turn.finals.values()))
        whole = SegmentFinal(**msgspec.structs.asdict(turn.join(last)))
        self._over.append(turn)
        del self._over[:-TURNS_KEPT_MAX]
        return [whole, *(event for to in list(turn.translations) for event in _finish(turn, to))]

    # --- translations --------------------------------------------------------------------------

    def _translate(self, translation: TranslationFinal) -> list[AnyEvent]:
        source = translation.transcription_id
        for turn in (self._turn, *reversed(self._over)):
            if turn.sources.get(source) == translation.revision:
                turn.translations.setdefault(translation.language, {})[source] = translation
                return [] if turn is self._turn else _finish(turn, translation.language)
        return []

    def _give_up_waiting(self) -> list[AnyEvent]:
        """Hand out what there is of translations that lack a part: no more will come."""
        return [
            event
            for turn in self._over
            for language in list(turn.translations)
            for event in _finish(turn, language, is_whole=False)
        ]


def _finish(turn: _Turn, language: str, *, is_whole: bool = True) -> list[AnyEvent]:
    """Return a turn's translation, once all of its parts are there."""
    parts = turn.translations[language]
    if is_whole and len(parts) < len(turn.sources):
        return []
    del turn.translations[language]
    ordered = [parts[source] for source in turn.sources if source in parts]
    first = next(iter(turn.finals.values()))
    whole = msgspec.structs.replace(
        ordered[-1],
        transcription_id=first.transcription_id,
        revision=next(reversed(turn.finals.values())).revision,  # as the turn's own
        text=_join(part.text for part in ordered),
        start_ms=first.start_ms,
    )
    return [whole]


def _join(texts: Iterable[str]) -> str:
    joined = ""
    for text in texts:
        joined += separator(joined, text) + text
    return joined
