"""Tells the stream's time from a session's, which starts anew and may leave silence out. Pure."""

from bisect import bisect_left
from typing import Final

import msgspec

from speechbus_transcriber.providers.interface import Heard

__all__ = ["SessionTimeline"]

SKIPS_MAX: Final = 4_096
"""Remembered: no provider answers about audio this many pauses ago."""


class SessionTimeline:
    """Counts the samples of one session: those it was given, and those left out between them.

    Args:
        start_sample: samples of the stream before the session's first.
        sample_rate_hz: of both.
    """

    def __init__(self, *, start_sample: int, sample_rate_hz: int) -> None:
        self._rate_hz = sample_rate_hz
        self._given = 0
        self._offset = start_sample
        # Samples given before each skip, and the offset that holds from there on.
        self._ends: list[int] = []
        self._offsets: list[int] = [start_sample]

    def give(self, n_samples: int) -> None:
        """The session gets this many samples."""
        self._given += n_samples

    def skip(self, n_samples: int) -> None:
        """This many samples of the stream are left out."""
        self._offset += n_samples
        if self._ends and self._ends[-1] == self._given:
            self._offsets[-1] = self._offset
            return
        self._ends.append(self._given)
        self._offsets.append(self._offset)
        if len(self._ends) > SKIPS_MAX:
            del self._ends[0], self._offsets[0]

    def to_stream_ms(self, session_ms: int) -> int:
        """Return the stream's time; where silence was left out: the beginning of it."""
        sample = session_ms * self._rate_hz / 1000
        offset = self._offsets[bisect_left(self._ends, sample)]
        # Each rounded for itself, so that whole milliseconds of the session stay whole.
        return session_ms + offset * 1000 // self._rate_hz

    def translate(self, heard: Heard) -> Heard:
        """Return the same result in the stream's time."""
        if self._offset == 0:
            return heard  # a stream's first session: both clocks are the same
        to_stream_ms = self.to_stream_ms
        return msgspec.structs.replace(
            heard,
            start_ms=self._begin(heard.start_ms, heard.end_ms),
            end_ms=to_stream_ms(heard.end_ms),
            covered_ms=None if heard.covered_ms is None else to_stream_ms(heard.covered_ms),
            words=None
            if heard.words is None
            else tuple(
                msgspec.structs.replace(
                    word,
                    start_ms=self._begin(word.start_ms, word.end_ms),
                    end_ms=to_stream_ms(word.end_ms),
                )
                for word in heard.words
            ),
        )

    def _begin(self, start_ms: int, end_ms: int) -> int:
        """Return the stream's time of a beginning: behind silence that was left out just there."""
        return (
            self.to_stream_ms(start_ms + 1) - 1
            if start_ms < end_ms
            else self.to_stream_ms(start_ms)
        )
