"""Raw samples of any spelling, however they are cut, to PCM s16le mono. Pure.

Numpy is loaded with it, 20 MB and a quarter of a second when cold: not while streams run.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from speechbus_ingest.formats.names import RawFormat

__all__ = ["Encoding", "RawConverter"]

Encoding = RawFormat | Literal["pcm_u8", "pcm_s24le", "pcm_f64le"]
"""How one sample is spelled; those that no door takes by themselves occur in WAV."""

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


def _read_s24(packed: npt.NDArray[np.generic]) -> Floats:
    # As the upper three bytes of 32 bits, so that the sign comes along.
    wide = np.zeros((len(packed), 4), "u1")
    wide[:, 1:] = packed.view("u1").reshape(-1, 3)
    floats: Floats = wide.view("<i4").reshape(-1).astype(np.float64) / 65_536
    return floats


def _read_floats(samples: npt.NDArray[np.generic]) -> Floats:
    # What is no number is silence; what is infinite is as loud as can be.
    known = np.nan_to_num(samples.astype(np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
    floats: Floats = known.clip(-1.0, 1.0) * FULL_SCALE
    return floats


_READERS: Final[Mapping[Encoding, tuple[str, Callable[[npt.NDArray[np.generic]], Floats]]]] = {
    "pcm_s16le": ("<i2", lambda samples: samples.astype(np.float64)),
    "pcm_f32le": ("<f4", _read_floats),
    "pcm_f32be": (">f4", _read_floats),
    "pcm_f64le": ("<f8", _read_floats),
    "pcm_u8": ("u1", lambda samples: (samples.astype(np.float64) - 128) * 256),
    "pcm_s24le": ("V3", _read_s24),
    "pcm_s32le": ("<i4", lambda samples: samples.astype(np.float64) / 65_536),
    "pcm_s32be": (">i4", lambda samples: samples.astype(np.float64) / 65_536),
    "mulaw": ("u1", lambda samples: _MULAW[samples.astype(np.intp)]),
    "alaw": ("u1", lambda samples: _ALAW[samples.astype(np.intp)]),
}


class RawConverter:
    """One stream's conversion; what comes out does not depend on how the bytes were cut.

    Holds less than one frame.

    Args:
        encoding: of each sample.
        channels: of each frame.
        is_split: give each channel by itself, instead of the mean of all.
    """

    def __init__(self, encoding: Encoding, channels: int = 1, *, is_split: bool = False) -> None:
        spelling, self._read = _READERS[encoding]
        self._dtype = np.dtype(spelling)
        self._channels = channels
        self._is_split = is_split
        self._frame_bytes = self._dtype.itemsize * channels
        self._rest = b""

    @property
    def n_waiting(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._rest)

    def convert(self, data: bytes) -> list[bytes]:
        """Return the whole frames so far as PCM s16le; the bytes of a part wait.

        Returns:
            One piece, or one for each channel when they are split; all have the same length.
        """
        joined = self._rest + data if self._rest else data
        n_whole = len(joined) // self._frame_bytes * self._frame_bytes
        self._rest = joined[n_whole:]
        with np.errstate(invalid="ignore"):  # a signalling NaN is silence like any other
            samples = self._read(np.frombuffer(joined[:n_whole], self._dtype))
        frames = samples.reshape(-1, self._channels)
        is_mixed = self._channels > 1 and not self._is_split
        channels = [frames.mean(axis=1)] if is_mixed else frames.T
        return [_write(channel) for channel in channels]


def _write(samples: Floats) -> bytes:
    return np.rint(samples).clip(-FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()
