"""Finds pauses in speech, where a stream may change its session without cutting a word. Pure."""

from array import array
from operator import itemgetter
from typing import Final

import webrtcvad  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["PauseFinder"]

BLOCK_MS: Final = 20
PAUSE_MS: Final = 200
"""Longer than the stops within words."""
_VAD_RATE_HZ: Final = 8_000
_VAD_SAMPLES: Final = _VAD_RATE_HZ * BLOCK_MS // 1000
_VAD_MODE: Final = 2


class PauseFinder:
    """One run of audio.

    Args:
        sample_rate_hz: of the audio, 8,000 to 48,000.
    """

    def __init__(self, *, sample_rate_hz: int) -> None:
        n_samples = sample_rate_hz * BLOCK_MS // 1000
        self._block_bytes = 2 * n_samples
        self._vad = webrtcvad.Vad(_VAD_MODE)
        # The nearest samples: what the alias adds can only be taken for speech.
        self._bring_to_vad = itemgetter(
            *(number * n_samples // _VAD_SAMPLES for number in range(_VAD_SAMPLES))
        )
        self._rest = b""
        self._silent_ms = 0

    def feed(self, pcm: memoryview) -> bool:
        """Take PCM s16le mono, whole samples; return whether it ends in a pause."""
        audio = self._rest + pcm
        n_whole = len(audio) // self._block_bytes * self._block_bytes
        for start in range(0, n_whole, self._block_bytes):
            block = audio[start : start + self._block_bytes]
            self._silent_ms = self._silent_ms + BLOCK_MS if self._is_silent(block) else 0
        self._rest = audio[n_whole:]
        return self._silent_ms >= PAUSE_MS

    def _is_silent(self, block: bytes) -> bool:
        narrow = array("h", self._bring_to_vad(memoryview(block).cast("h"))).tobytes()
        return not self._vad.is_speech(narrow, _VAD_RATE_HZ)  # pyright: ignore[reportUnknownMemberType]
