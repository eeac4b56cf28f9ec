"""Finds pauses in speech, where a stream may change its session without cutting a word. Pure."""

from typing import Final

__all__ = ["PauseFinder"]

BLOCK_MS: Final = 20
PAUSE_MS: Final = 200
"""Longer than the stops within words."""
QUIET_RATIO: Final = 10
"""A pause is so much quieter than the loudest of late (20 dB); soft sounds of words are less so."""
QUIET_MAX: Final = 128
"""From peak to peak: nobody speaks there, whatever was heard of late."""
LOUD_FALL: Final = 0.997
"""Per block: half of it is left after 5 s."""


class PauseFinder:
    """One run of audio.

    Args:
        sample_rate_hz: of the audio, 8,000 to 48,000.
    """

    def __init__(self, *, sample_rate_hz: int) -> None:
        self._block_bytes = 2 * (sample_rate_hz * BLOCK_MS // 1000)
        self._rest = b""
        self._loud = 0.0
        self._quiet_ms = 0

    def feed(self, pcm: memoryview) -> bool:
        """Take PCM s16le mono, whole samples; return whether it ends in a pause."""
        audio = self._rest + pcm
        n_whole = len(audio) // self._block_bytes * self._block_bytes
        for start in range(0, n_whole, self._block_bytes):
            samples = memoryview(audio)[start : start + self._block_bytes].cast("h")
            level = max(samples) - min(samples)
            self._loud = max(level, self._loud * LOUD_FALL)
            is_quiet = level <= max(QUIET_MAX, self._loud / QUIET_RATIO)
            self._quiet_ms = self._quiet_ms + BLOCK_MS if is_quiet else 0
        self._rest = audio[n_whole:]
        return self._quiet_ms >= PAUSE_MS
