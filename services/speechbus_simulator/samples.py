"""Samples as the vendors spell them, however they are cut, to signed 16 bit. Pure.

Not ingest's converter: services do not import each other, and one session needs no speed.
"""

import math
import struct
from array import array
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

__all__ = ["RATES_HZ", "Encoding", "SampleReader"]

Encoding = Literal["pcm_s16le", "pcm_f32le", "pcm_f32be", "pcm_s32le", "pcm_s32be", "mulaw", "alaw"]
RATES_HZ: Final = range(8_000, 48_001)
"""Rates in use at both vendors (providers.md 1.4, 3.3)."""

_FULL_SCALE: Final = 32_768


def _read_mulaw(code: int) -> int:
    """G.711, table 2a."""
    code = ~code & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return -magnitude if code & 0x80 else magnitude


def _read_alaw(code: int) -> int:
    """G.711, table 1a."""
    code ^= 0x55
    segment = (code & 0x70) >> 4
    magnitude = ((code & 0x0F) << 4) + (0x108 if segment else 8)
    magnitude <<= max(0, segment - 1)
    return magnitude if code & 0x80 else -magnitude


def _read_float(value: float) -> int:
    if math.isnan(value):
        return 0
    return max(-_FULL_SCALE, min(_FULL_SCALE - 1, round(max(-1.0, min(1.0, value)) * _FULL_SCALE)))


def _read_s32(value: int) -> int:
    return min(_FULL_SCALE - 1, round(value / 65_536))


_MULAW: Final = tuple(map(_read_mulaw, range(256)))
_ALAW: Final = tuple(map(_read_alaw, range(256)))

_SPELLINGS: Final[Mapping[Encoding, tuple[str, str, Callable[[Any], int]]]] = {
    "pcm_s16le": ("<", "h", int),
    "pcm_f32le": ("<", "f", _read_float),
    "pcm_f32be": (">", "f", _read_float),
    "pcm_s32le": ("<", "i", _read_s32),
    "pcm_s32be": (">", "i", _read_s32),
    "mulaw": ("<", "B", _MULAW.__getitem__),
    "alaw": ("<", "B", _ALAW.__getitem__),
}


class SampleReader:
    """One session's samples; what comes out does not depend on how the bytes were cut.

    Args:
        encoding: of what comes in, mono.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._byteorder, self._typecode, self._read = _SPELLINGS[encoding]
        self._rest = b""

    def read(self, data: bytes) -> "array[int]":
        """Return the whole samples so far, typecode `h`; the bytes of a part wait."""
        joined = self._rest + data
        n_samples = len(joined) // struct.calcsize(f"<{self._typecode}")
        spelling = f"{self._byteorder}{n_samples}{self._typecode}"
        n_whole = struct.calcsize(spelling)
        self._rest = joined[n_whole:]
        return array("h", map(self._read, struct.unpack(spelling, joined[:n_whole])))
