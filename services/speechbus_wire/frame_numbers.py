"""Reads frame-numbered audio (design section 11): what an engine says that hears numbers. Pure.

Every sample of 20 ms frame k has the value k, from 1 to 32,000 and around. From the runs of
numbers that reached an engine it follows what was lost, doubled, or mistimed on the way.
"""

from typing import Final

__all__ = ["FRAMES_PER_S", "FRAME_NUMBER_MAX", "FrameReader"]

FRAMES_PER_S: Final = 50
FRAME_NUMBER_MAX: Final = 32_000


class FrameReader:
    """Collects the numbers of frames, however the audio is cut.

    Args:
        sample_rate_hz: of the audio.
    """

    def __init__(self, *, sample_rate_hz: int) -> None:
        self._frame_samples = sample_rate_hz // FRAMES_PER_S
        self._until_next = self._frame_samples // 2  # each frame is read at its middle
        self._runs: list[list[int]] = []

    def read(self, samples: memoryview) -> None:
        """Take samples (format `h`)."""
        n_samples = len(samples)
        if self._until_next < n_samples:
            runs = self._runs
            for number in samples[self._until_next :: self._frame_samples]:
                self._until_next += self._frame_samples
                if number > 1 and runs and number == runs[-1][1] + 1:
                    runs[-1][1] = number
                else:
                    _add_run(runs, number, number)
        self._until_next -= n_samples

    def take_text(self, *, has_silence: bool) -> str:
        """Return the runs read since the last call, such as `151-200 231-300`, and forget them."""
        text = self.show_text(has_silence=has_silence)
        self._runs = []
        return text

    def show_text(self, *, has_silence: bool) -> str:
        """Return the runs read since the last `take_text`.

        Args:
            has_silence: zeros are silence that somebody put between the numbers.
        """
        runs = self._runs
        if has_silence:
            spoken: list[list[int]] = []
            for first, last in runs:
                if first != 0:
                    _add_run(spoken, first, last)
            runs = spoken
        return " ".join(f"{first}-{last}" for first, last in runs)


def _add_run(runs: list[list[int]], first: int, last: int) -> None:
    # Of 1 it is the highest number; zero, which is silence, comes before none.
    former = first - 1 if first > 1 else FRAME_NUMBER_MAX
    if runs and first and runs[-1][1] == former:
        runs[-1][1] = last
    else:
        runs.append([first, last])
