"""Palabra's segments, open and final, as results in order. Pure.

Every message has the whole segment, so the last one counts. A segment is shown while it is the
oldest open one, and ends with its final. A final whose former is still open waits a little for
that one's; when none comes, or a `finalize` is answered, the former ends as it was last heard.
"""

from typing import Final

import msgspec

from speechbus_transcriber.providers.interface import Covered, Heard, Result
from speechbus_transcriber.providers.palabra_translations import PalabraTranslations

__all__ = ["PalabraSegments", "Segment"]

FINALS_MAX: Final = 256
"""Finals remembered, for what comes after them: some ten minutes."""
OPEN_MAX: Final = 16
"""Segments open at once; Palabra has one, rarely two."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """What was last said of one segment, in the stream's time."""

    text: str
    language: str | None
    start_ms: int
    end_ms: int


class PalabraSegments:
    """The segments of one session, by Palabra's ids.

    Args:
        translations: told of each final.
    """

    def __init__(self, translations: PalabraTranslations) -> None:
        self._translations = translations
        self._open: dict[str, Segment] = {}
        self._ended: set[str] = set()  # of the open ones: those whose final waits for a former's
        self._finals: dict[str, Segment] = {}
        self._covered_ms = 0
        self._last_end_ms = 0

    @property
    def covered_ms(self) -> int:
        """Audio before this is in finals, or holds no speech."""
        return self._covered_ms

    @property
    def is_any_open(self) -> bool:
        """Whether a segment waits for its final."""
        return bool(self._open)

    @property
    def is_any_held(self) -> bool:
        """Whether a final waits for that of a former segment."""
        return bool(self._ended)

    def has_final(self, segment_id: str) -> bool:
        """Whether it has had a final with words, and not too long ago."""
        final = self._finals.get(segment_id)
        return final is not None and bool(final.text)

    def update(self, segment_id: str, segment: Segment) -> list[Result]:
        """Take a partial; after a final it is nothing new."""
        if segment_id in self._finals or segment_id in self._ended:
            return []
        is_same = self._open.get(segment_id) == segment
        self._open[segment_id] = segment
        results: list[Result] = []
        if len(self._open) > OPEN_MAX:
            results += [*self._promote(next(iter(self._open))), *self._release()]
        # One segment is shown at a time: a later one when the one before it is final.
        if not is_same and next(iter(self._open)) == segment_id:
            results.append(_hear(segment_id, segment))
        return results

    def end(self, segment_id: str, segment: Segment) -> list[Result]:
        """Take a final; said again, only a change of the newest one counts (case 06)."""
        known = self._finals.get(segment_id)
        if known is not None and known.text:
            is_newest = segment_id == next(reversed(self._finals))
            if not is_newest or segment.text in {"", known.text}:
                return []
            self._finals[segment_id] = segment
            return [_hear(segment_id, segment, covered_ms=self._covered_ms)]
        was_open = segment_id in self._open
        if not segment.text and (not was_open or segment_id in self._ended):
            return []  # nothing is shown of it that could be taken back (case 08)
        former = self._former(segment_id, segment)
        if former:
            return self._hold(segment_id, segment, former)
        self._open.pop(segment_id, None)
        return [*self._make_final(segment_id, segment), *self._release()]

    def end_as_heard(self, segment_id: str) -> list[Result]:
        """The final of a segment without its words: the last ones stand. Nothing, if not open."""
        last = self._open.get(segment_id)
        return [] if last is None else self.end(segment_id, last)

    def settle(self, before_ms: int) -> list[Result]:
        """No more comes of what began before this: it ends as it was last heard (case 07)."""
        early = [open_id for open_id, last in self._open.items() if last.start_ms < before_ms]
        results = [result for open_id in early for result in self._promote(open_id)]
        return results + self._release()

    def stop_holding(self) -> list[Result]:
        """The finals of former segments do not come: those end as they were last heard."""
        results: list[Result] = []
        while self._ended:
            results += self._promote(next(iter(self._open)))
        return results

    def cover(self, until_ms: int) -> list[Result]:
        """All audio before this was heard; what is still open began behind it or is in doubt."""
        if until_ms <= self._covered_ms or self._open:
            return []
        self._covered_ms = until_ms
        return [Covered(until_ms)]

    def _former(self, segment_id: str, segment: Segment) -> list[str]:
        """The segments still open that come before one."""
        ids = list(self._open)
        if segment_id in self._open:
            return ids[: ids.index(segment_id)]
        return [open_id for open_id in ids if self._open[open_id].start_ms <= segment.start_ms]

    def _hold(self, segment_id: str, segment: Segment, former: list[str]) -> list[Result]:
        """Put a final behind the former segments, where it waits for their finals."""
        before = {open_id: self._open[open_id] for open_id in former}
        self._open = before | {segment_id: segment} | self._open | {segment_id: segment}
        self._ended.add(segment_id)
        if len(self._open) > OPEN_MAX:
            return [*self._promote(former[0]), *self._release()]
        return []

    def _release(self) -> list[Result]:
        """The finals that have waited, now that nothing former is open."""
        results: list[Result] = []
        while self._open and (first := next(iter(self._open))) in self._ended:
            results += self._promote(first)
        return results

    def _promote(self, segment_id: str) -> list[Result]:
        """Make a final of what was last heard of a segment."""
        self._ended.discard(segment_id)
        return self._make_final(segment_id, self._open.pop(segment_id))

    def _make_final(self, segment_id: str, segment: Segment) -> list[Result]:
        # Finals tile the stream: one that begins inside another begins behind it. Words end behind
        # all that was covered, too: else the segmenter would take them for something said before.
        # But they cover no more for that.
        start_ms = max(segment.start_ms, self._last_end_ms, self._covered_ms)
        self._last_end_ms = max(segment.end_ms, start_ms, self._covered_ms + bool(segment.text))
        self._covered_ms = max(segment.end_ms, self._covered_ms)
        segment = msgspec.structs.replace(segment, start_ms=start_ms, end_ms=self._last_end_ms)
        self._finals.pop(segment_id, None)  # an empty one; what it says now is the newest
        self._finals[segment_id] = segment
        if len(self._finals) > FINALS_MAX:
            oldest = next(iter(self._finals))
            del self._finals[oldest]
            self._translations.forget(oldest)
        heard = _hear(segment_id, segment, covered_ms=self._covered_ms)
        if not segment.text:
            return [heard]
        return [heard, *self._translations.add_final(segment_id, end_ms=segment.end_ms)]


def _hear(segment_id: str, segment: Segment, *, covered_ms: int | None = None) -> Heard:
    """Return a partial, or a final, which tells what is covered."""
    return Heard(
        text=segment.text,
        is_final=covered_ms is not None,
        start_ms=segment.start_ms,
        end_ms=segment.end_ms,
        covered_ms=covered_ms,
        language=segment.language,
        provider_transcription_id=segment_id,
    )
