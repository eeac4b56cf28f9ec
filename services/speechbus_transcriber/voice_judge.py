"""Whether somebody may be speaking in a short stretch of audio; in doubt, somebody is. Pure."""

import math
from array import array
from operator import itemgetter
from typing import Final

import webrtcvad  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["BLOCK_MS", "DIGITAL_SILENCE", "SoundCheck", "VoiceJudge", "is_number"]

BLOCK_MS: Final = 20
DIGITAL_SILENCE: Final = 2
"""Nobody speaks there, however quietly."""
ROOM_RATIO: Final = 3
"""A room is as loud all the time, within this (10 dB); speech rises 15 dB above itself."""
ROOM_MIN: Final = 8
"""From peak to peak; where less than this is heard, it is dither."""
_VAD_RATE_HZ: Final = 8_000
_VAD_SAMPLES: Final = _VAD_RATE_HZ * BLOCK_MS // 1000
_VAD_MODE: Final = 0
"""The one that takes most for speech."""


class VoiceJudge:
    """WebRTC's detector, in the mode that takes most for speech.

    Args:
        sample_rate_hz: of the audio, 8,000 to 48,000.
    """

    def __init__(self, *, sample_rate_hz: int) -> None:
        n_samples = sample_rate_hz * BLOCK_MS // 1000
        self.block_bytes = 2 * n_samples
        self._vad = webrtcvad.Vad(_VAD_MODE)
        # The nearest samples: what the alias adds can only be taken for speech.
        self._bring_to_vad = itemgetter(
            *(number * n_samples // _VAD_SAMPLES for number in range(_VAD_SAMPLES))
        )

    def may_be_speech(self, samples: "memoryview[int]") -> bool:
        """Judge a block."""
        highest, lowest = max(samples), min(samples)
        if is_number(highest, lowest):
            return True
        if max(highest, -lowest) <= DIGITAL_SILENCE:
            return False
        return self.hears_voice(samples)

    def hears_voice(self, samples: "memoryview[int]") -> bool:
        """Ask the detector alone."""
        narrow = array("h", self._bring_to_vad(samples)).tobytes()
        return bool(self._vad.is_speech(narrow, _VAD_RATE_HZ))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


class SoundCheck:
    """Whether anybody may have spoken in all of some audio.

    Two judges must agree that nobody has: WebRTC's detector, and loudness that never rises. In
    noise the detector alone passes over quiet speech.

    Args:
        sample_rate_hz: of the audio.
    """

    def __init__(self, *, sample_rate_hz: int) -> None:
        self._judge = VoiceJudge(sample_rate_hz=sample_rate_hz)
        self._rest = b""
        self._quietest = math.inf
        self._loudest = 0.0
        self.may_have_speech = False

    def feed(self, pcm: memoryview) -> None:
        """Take PCM s16le mono, whole samples."""
        if self.may_have_speech:
            return
        audio = self._rest + pcm
        block_bytes = self._judge.block_bytes
        n_whole = len(audio) // block_bytes * block_bytes
        self.may_have_speech = any(
            self._stands_out(samples) or self._judge.may_be_speech(samples)
            for at in range(0, n_whole, block_bytes)
            for samples in [memoryview(audio)[at : at + block_bytes].cast("h")]
        )
        self._rest = audio[n_whole:]

    def _stands_out(self, samples: "memoryview[int]") -> bool:
        """Note how loud a block is; return whether that is more than a room's noise varies."""
        level = max(ROOM_MIN, max(samples) - min(samples))
        self._quietest = min(self._quietest, level)
        self._loudest = max(self._loudest, level)
        return self._loudest > self._quietest * ROOM_RATIO


def is_number(highest: int, lowest: int) -> bool:
    """Whether a block is a number that somebody counts, as tests do: no microphone is so steady."""
    return lowest > 0 and highest - lowest <= 1
