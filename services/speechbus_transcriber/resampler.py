"""Another sample rate for engines and providers that do not take the stream's. Pure."""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import soxr  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["Resampler"]

_FULL_SCALE: Final = 32_768


class Resampler:
    """One run of audio; what comes out does not depend on how it was cut.

    Sample n of the output lies at n / `to_hz` s after the run's first sample: the filter's delay is
    made up for, by holding back up to 26 ms (`MQ`) or 66 ms (`HQ`) until the end (audio.md 4.3).

    Args:
        from_hz: rate of the input.
        to_hz: rate of the output.
        quality: of soxr: 137 dB both, `HQ` with less alias right below half the rate.
    """

    def __init__(self, *, from_hz: int, to_hz: int, quality: Literal["MQ", "HQ"]) -> None:
        # Floats, because soxr dithers 16-bit output from a seed of the clock: two runs over the
        # same audio would differ.
        self._soxr = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=quality)

    def feed(self, pcm: bytes | memoryview, *, is_last: bool = False) -> bytes:
        """Take PCM s16le mono, whole samples; return what is ready at the other rate."""
        samples = np.frombuffer(pcm, np.int16).astype(np.float32) / _FULL_SCALE
        resampled: npt.NDArray[np.float32] = self._soxr.resample_chunk(samples, last=is_last)
        scaled = np.rint(resampled * _FULL_SCALE).clip(-_FULL_SCALE, _FULL_SCALE - 1)
        return scaled.astype("<i2").tobytes()
