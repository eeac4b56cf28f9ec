"""Audio that a server may ask for once more: read once, kept until it is accepted."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

__all__ = ["KeptAudio"]

AHEAD_S: Final = 10.0
"""Audio read before it can be sent: a microphone goes on while its server is away."""
SEND_BYTES_MAX: Final = 64 << 10
"""Of one message: what has waited for a server comes in several."""
_BYTES_PER_SAMPLE: Final = 2


class KeptAudio:
    """PCM s16le mono between what is accepted and what was read.

    One task runs `fill`; of those that read, one at a time.

    Args:
        audio: yields it.
        sample_rate_hz: of it.
    """

    def __init__(self, audio: AsyncIterator[bytes], *, sample_rate_hz: int) -> None:
        self._audio = audio
        self._ahead_bytes = int(AHEAD_S * sample_rate_hz) * _BYTES_PER_SAMPLE
        self._kept = bytearray()
        self._kept_from = 0
        self._sent = 0
        self._is_whole = False
        self._grown = asyncio.Event()
        self._wanted = asyncio.Event()
        self._wanted.set()

    @property
    def kept_from(self) -> int:
        """Samples before the first that is kept."""
        return self._kept_from // _BYTES_PER_SAMPLE

    async def fill(self) -> None:
        """Read all audio."""
        async for pcm in self._audio:
            self._kept += pcm
            self._grown.set()
            self._update_wanted()
            await self._wanted.wait()
        self._is_whole = True
        self._grown.set()

    def forget(self, accepted_samples: int) -> None:
        """What is before this sample will not be asked for again."""
        n_bytes = accepted_samples * _BYTES_PER_SAMPLE - self._kept_from
        if n_bytes > 0:
            del self._kept[:n_bytes]
            self._kept_from += n_bytes

    async def read_from(self, sample: int) -> AsyncGenerator[bytes, None]:
        """Yield the audio from a sample on that is not forgotten, as it comes."""
        self._sent = sample * _BYTES_PER_SAMPLE
        while True:
            self._grown.clear()
            start = self._sent - self._kept_from
            pcm = bytes(self._kept[start : start + SEND_BYTES_MAX])
            if pcm:
                yield pcm
                self._sent += len(pcm)
                self._update_wanted()
            elif self._is_whole:
                return
            else:
                await self._grown.wait()

    def _update_wanted(self) -> None:
        if self._kept_from + len(self._kept) - self._sent < self._ahead_bytes:
            self._wanted.set()
        else:
            self._wanted.clear()
