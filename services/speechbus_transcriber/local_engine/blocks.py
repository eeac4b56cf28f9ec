"""Turns audio as it arrives, at any rate and cut anywhere, into 16 kHz blocks of one size."""

from typing import Final

from speechbus_transcriber.resampler import Resampler

__all__ = ["ENGINE_RATE_HZ", "BlockCutter"]

ENGINE_RATE_HZ: Final = 16_000
"""The rate that the acoustic model and both voice activity detectors were made for."""


class BlockCutter:
    """Resamples and re-blocks one run of audio; what comes out does not depend on how it was cut.

    Output sample n lies at n / 16,000 s after the run's first sample: the resampler's delay is made
    up for. It holds back up to 66 ms (8 kHz input) until `finish`.
    """

    def __init__(self, *, sample_rate_hz: int, block_samples: int) -> None:
        """Start a run.

        Args:
            sample_rate_hz: Rate of the input.
            block_samples: Samples per block of the output.
        """
        self._block_bytes = 2 * block_samples
        self._rest = bytearray()
        self._resampler = (
            None
            if sample_rate_hz == ENGINE_RATE_HZ
            else Resampler(from_hz=sample_rate_hz, to_hz=ENGINE_RATE_HZ, quality="HQ")
        )

    def cut(self, pcm: bytes) -> list[bytes]:
        """Take PCM s16le mono, whole samples; return the blocks that it completes."""
        if pcm:
            self._rest += self._resampled(pcm, is_last=False)
        whole = len(self._rest) // self._block_bytes * self._block_bytes
        blocks = [
            bytes(self._rest[at : at + self._block_bytes])
            for at in range(0, whole, self._block_bytes)
        ]
        del self._rest[:whole]
        return blocks

    def finish(self) -> tuple[list[bytes], bytes]:
        """End the run; return its last blocks and the remainder, shorter than a block."""
        self._rest += self._resampled(b"", is_last=True)
        return self.cut(b""), bytes(self._rest)

    def _resampled(self, pcm: bytes, *, is_last: bool) -> bytes:
        if self._resampler is None:
            return pcm
        return self._resampler.feed(pcm, is_last=is_last)
