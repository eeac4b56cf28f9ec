"""Remembers when ingest had which audio, for what is not covered yet. Pure."""

from collections import deque
from typing import Final

__all__ = ["CaptureTimes"]

MARKS_MAX: Final = 4_500
"""90 s, which is what AUDIO retains, of the shortest chunks."""


class CaptureTimes:
    """Maps stream positions to the time ingest had their audio.

    Args:
        started_at_ms: when it had the audio before the first note, ms since 1970.
    """

    def __init__(self, *, started_at_ms: int) -> None:
        self._marks: deque[tuple[int, int]] = deque(maxlen=MARKS_MAX)
        self._before_ms = started_at_ms

    def note(self, end_sample: int, captured_at_ns: int) -> None:
        """A chunk that ends before `end_sample` was captured then."""
        self._marks.append((end_sample, captured_at_ns))

    @property
    def latest_ms(self) -> int:
        """When ingest had the newest audio noted, ms since 1970."""
        return self._marks[-1][1] // 1_000_000 if self._marks else self._before_ms

    def look_up(self, sample: int) -> int:
        """Return when ingest had the audio before `sample`, ms since 1970; forgets what is older.

        Ask with growing positions.
        """
        marks = self._marks
        while marks:
            self._before_ms = marks[0][1] // 1_000_000
            if marks[0][0] >= sample:
                break
            marks.popleft()
        return self._before_ms

    def rewind(self) -> None:
        """Forget all notes after the last look-up: the audio is read again."""
        self._marks.clear()
