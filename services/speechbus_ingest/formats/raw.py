"""Raw samples of any spelling, however they are cut, to PCM s16le mono. Pure.

Imported only for streams that need it: numpy costs a process 20 MB.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from speechbus_ingest.formats.names import AudioFormat, RawFormat

__all__ = ["RawConverter"]

Floats = npt.NDArray[np.float64]
"""Samples in units of s16: -32,768 to 32,767."""

FULL_SCALE: Final = 32_768


def _build_mulaw() -> Floats:
    """G.711, table 2a: 256 codes."""
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    samples: Floats = np.where(code & 0x80, -magnitude, magnitude).astype(np.float64)
    return samples


def _build_alaw() -> Floats:
    """G.711, table 1a: 256 codes."""
    code = np.arange(256) ^ 0x55
    segment = (code & 0x70) >> 4
    magnitude = ((code & 0x0F) << 4) + np.where(segment == 0, 8, 0x108)
    magnitude = magnitude << np.maximum(segment - 1, 0)
    samples: Floats = np.where(code & 0x80, magnitude, -magnitude).astype(np.float64)
    return samples


_MULAW: Final = _build_mulaw()
_ALAW: Final = _build_alaw()


def _read_floats(samples: npt.NDArray[np.float32]) -> Floats:
    # What is no number is silence; what is infinite is as loud as can be.
    known = np.nan_to_num(samples.astype(np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
    floats: Floats = known.clip(-1.0, 1.0) * FULL_SCALE
    return floats


_READERS: Final[Mapping[RawFormat, tuple[str, Callable[[npt.NDArray[np.generic]], Floats]]]] = {
    "pcm_s16le": ("<i2", lambda samples: samples.astype(np.float64)),
    "pcm_f32le": ("<f4", lambda samples: _read_floats(samples.astype(np.float32))),
    "pcm_f32be": (">f4", lambda samples: _read_floats(samples.astype(np.float32))),
    "pcm_s32le": ("<i4", lambda samples: samples.astype(np.float64) / 65_536),
    "pcm_s32be": (">i4", lambda samples: samples.astype(np.float64) / 65_536),
    "mulaw": ("u1", lambda samples: _MULAW[samples.astype(np.intp)]),
    "alaw": ("u1", lambda samples: _ALAW[samples.astype(np.intp)]),
}


class RawConverter:
    """One stream's conversion; what comes out does not depend on how the bytes were cut.

    Holds less than one frame. Channels are mixed to their mean.

    Args:
        audio_format: of what comes in.
    """

    def __init__(self, audio_format: AudioFormat) -> None:
        spelling, self._read = _READERS[audio_format.encoding]
        self._dtype = np.dtype(spelling)
        self._channels = audio_format.channels
        self._frame_bytes = self._dtype.itemsize * audio_format.channels
        self._rest = b""

    def convert(self, data: bytes) -> bytes:
        """Return the whole frames so far as PCM s16le mono; the bytes of a part wait."""
        joined = self._rest + data if self._rest else data
        n_whole = len(joined) // self._frame_bytes * self._frame_bytes
        self._rest = joined[n_whole:]
        with np.errstate(invalid="ignore"):  # a signalling NaN is silence like any other
            samples = self._read(np.frombuffer(joined[:n_whole], self._dtype))
        if self._channels > 1:
            samples = samples.reshape(-1, self._channels).mean(axis=1)
        return np.rint(samples).clip(-FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()
