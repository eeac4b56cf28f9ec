"""What a simulated provider hears in its audio. Pure: audio in, segments out."""

from array import array
from collections.abc import Iterator
from typing import Final

import msgspec

from speechbus_simulator.script import Script
from speechbus_wire.frame_numbers import FrameReader

__all__ = ["LEAD_MS", "Recognition", "Said"]

LEAD_MS: Final = 500
"""Audio that may be ahead of real time (providers.md 3.4)."""


CHECK_MS: Final = 10
"""Silence ends a segment at multiples of this, so that it does not matter how audio is cut."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A segment as it is understood so far, in ms of the session's audio."""

    index: int
    text: str
    is_final: bool
    start_ms: int
    end_ms: int


class Recognition:
    """One session's engine; what it says falls on exact positions, however the audio is cut.

    Args:
        script: its mode, texts and lengths.
        sample_rate_hz: of the samples.
        ends_after_silence_ms: zeros that end a segment of `echo` mode; None: only its length does.
    """

    def __init__(
        self, script: Script, *, sample_rate_hz: int, ends_after_silence_ms: int | None = None
    ) -> None:
        self._script = script
        self._rate_hz = sample_rate_hz
        self._frames = FrameReader(sample_rate_hz=sample_rate_hz)
        self._position = 0
        self._start = 0
        self._next_partial = self._samples(script.partial_ms)
        self._index = 0
        self._silence_max: int | None = None
        if ends_after_silence_ms is not None and script.mode == "echo":
            self._silence_max = max(1, self._samples(ends_after_silence_ms))
        self._check_samples = self._samples(CHECK_MS)
        self._n_silent = 0

    @property
    def resume_ms(self) -> int:
        """Where the segment that is not final begins: later text starts no earlier."""
        return self._ms(self._start)

    @property
    def heard_ms(self) -> int:
        """Audio so far."""
        return self._ms(self._position)

    def ahead_ms(self, n_samples: int, *, since_s: float) -> float:
        """How far audio would be ahead of real time with so many samples more.

        Args:
            n_samples: that have come.
            since_s: how long the session is open.
        """
        return (self._position + n_samples) * 1000 / self._rate_hz - since_s * 1000

    def feed(self, heard: "array[int]") -> Iterator[Said]:
        """Take samples of signed 16 bit; yield what comes of them."""
        samples = memoryview(heard)
        done = 0
        while done < len(samples):
            until = min(self._next_partial, self._segment_end())
            if self._silence_max is not None:
                until = min(until, self._position + self._until_check())
            piece = samples[done : done + until - self._position]
            self._frames.read(piece)
            self._count_silence(piece)
            done += len(piece)
            self._position += len(piece)
            if self._position == self._segment_end():
                yield from self.end_segment()
            elif self._position == self._next_partial:
                self._next_partial += self._samples(self._script.partial_ms)
                text = self._text(is_final=False)
                if text:
                    yield self._say(text, is_final=False)
            if self._position % self._check_samples == 0 and self._is_silent:
                yield from self.end_segment()

    def _count_silence(self, piece: memoryview) -> None:
        if self._silence_max is not None:
            n_loud = (len(piece.tobytes().rstrip(b"\0")) + 1) // 2
            self._n_silent = len(piece) - n_loud + (0 if n_loud else self._n_silent)

    def _until_check(self) -> int:
        return self._check_samples - self._position % self._check_samples

    @property
    def _is_silent(self) -> bool:
        return self._silence_max is not None and self._n_silent >= self._silence_max

    def end_segment(self) -> Iterator[Said]:
        """End the segment here, if anything was said in it."""
        text = self._text(is_final=True)
        if text and self._position > self._start:
            yield self._say(text, is_final=True)
            self._index += 1
        self._start = self._position
        self._next_partial = self._position + self._samples(self._script.partial_ms)

    def _say(self, text: str, *, is_final: bool) -> Said:
        return Said(
            index=self._index,
            text=text,
            is_final=is_final,
            start_ms=self._ms(self._start),
            end_ms=self._ms(self._position),
        )

    def _text(self, *, is_final: bool) -> str:
        if self._script.mode == "echo":
            frames = self._frames
            return (frames.take_text if is_final else frames.show_text)(has_silence=True)
        planned = self._script.texts[self._index % len(self._script.texts)]
        if is_final:
            return planned.text
        words = planned.text.split(" ")
        done_ms = self._ms(self._position - self._start)
        return " ".join(words[: len(words) * done_ms // planned.ms])

    def _segment_end(self) -> int:
        script = self._script
        if script.mode == "echo":
            return self._start + self._samples(script.segment_ms)
        return self._start + self._samples(script.texts[self._index % len(script.texts)].ms)

    def _samples(self, ms: int) -> int:
        return self._rate_hz * ms // 1000

    def _ms(self, n_samples: int) -> int:
        return n_samples * 1000 // self._rate_hz
