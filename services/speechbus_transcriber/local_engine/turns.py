"""Finds turns in a row of speech probabilities; knows samples, but no clock and no audio."""

from typing import Final

import msgspec

__all__ = [
    "START_MS",
    "START_PROBABILITY",
    "STOP_PROBABILITY",
    "SpeechStarted",
    "SpeechStopped",
    "TurnDetector",
    "TurnEvent",
    "blocks_of",
]

START_PROBABILITY: Final = 0.5
"""Silero's own threshold; with `STOP_PROBABILITY` it found every turn in kitchen noise at 5 dB."""

STOP_PROBABILITY: Final = 0.35
"""Lower than the start, so that a soft syllable does not end a turn."""

START_MS: Final = 100
"""Shorter bursts are clicks and breaths, not words."""


class SpeechStarted(msgspec.Struct, frozen=True):
    """A turn began at this sample."""

    at_sample: int


class SpeechStopped(msgspec.Struct, frozen=True):
    """A turn ended: this is the first sample of the silence that ended it."""

    at_sample: int


TurnEvent = SpeechStarted | SpeechStopped


def blocks_of(span_ms: int, *, block_samples: int, sample_rate_hz: int) -> int:
    """Return how many blocks it takes to last at least `span_ms`."""
    return -(-span_ms * sample_rate_hz // (1000 * block_samples))


class TurnDetector:
    """Turns one probability per block of audio into starts and stops.

    A turn starts after `START_MS` of blocks without one below `START_PROBABILITY`, and is dated to
    the first of them; it stops after `turn_stop_ms` of blocks all below `STOP_PROBABILITY`.
    """

    def __init__(self, *, block_samples: int, sample_rate_hz: int, turn_stop_ms: int) -> None:
        """Start in silence at sample 0.

        Args:
            block_samples: Samples that each probability stands for.
            sample_rate_hz: Rate of those samples.
            turn_stop_ms: Silence that ends a turn.
        """
        self._block_samples = block_samples
        self._start_blocks = blocks_of(
            START_MS, block_samples=block_samples, sample_rate_hz=sample_rate_hz
        )
        self._stop_blocks = blocks_of(
            turn_stop_ms, block_samples=block_samples, sample_rate_hz=sample_rate_hz
        )
        self._blocks_seen = 0
        self._blocks_against = 0
        self._is_speaking = False

    @property
    def is_speaking(self) -> bool:
        """Whether a turn is open."""
        return self._is_speaking

    def next_event(self, probability: float) -> TurnEvent | None:
        """Take the next block's speech probability, 0 to 1; return the change it completes."""
        self._blocks_seen += 1
        speaks_against = (
            probability < STOP_PROBABILITY
            if self._is_speaking
            else probability >= START_PROBABILITY
        )
        self._blocks_against = self._blocks_against + 1 if speaks_against else 0
        blocks_needed = self._stop_blocks if self._is_speaking else self._start_blocks
        if self._blocks_against < blocks_needed:
            return None
        return self._change()

    def stop(self) -> SpeechStopped | None:
        """End an open turn where its speech ended, without waiting for the silence to last."""
        if not self._is_speaking:
            return None
        change = self._change()
        assert isinstance(change, SpeechStopped)
        return change

    def _change(self) -> TurnEvent:
        at_sample = (self._blocks_seen - self._blocks_against) * self._block_samples
        self._is_speaking = not self._is_speaking
        self._blocks_against = 0
        return SpeechStarted(at_sample) if self._is_speaking else SpeechStopped(at_sample)
