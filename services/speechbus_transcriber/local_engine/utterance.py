"""One open utterance: what it has heard, and whether there is something new to show."""

from typing import Final

from speechbus_transcriber.local_engine.blocks import ENGINE_RATE_HZ
from speechbus_transcriber.local_engine.decoder import DecodedWord
from speechbus_transcriber.local_engine.priming import PrimedDecoder

__all__ = ["PARTIAL_INTERVAL_MS", "UTTERANCE_MS_MAX", "Utterance"]

PARTIAL_INTERVAL_MS: Final = 200
"""Faster than people read, and five encodings a second at most."""

UTTERANCE_MS_MAX: Final = 20_000
"""PocketSphinx keeps 0.3 MB for each second of an utterance, and subscribers wait for its final:
who speaks without a pause is cut here."""


class Utterance:
    """Feeds the decoder with one utterance and remembers what was shown of it."""

    def __init__(self, decoder: PrimedDecoder, *, start_sample: int, pre_roll: list[bytes]) -> None:
        """Begin an utterance.

        Args:
            decoder: The session's decoder, with no utterance open.
            start_sample: Position of the pre-roll's first sample in the run of audio.
            pre_roll: Blocks from just before the speech was noticed.
        """
        self.start_sample = start_sample
        self._decoder = decoder
        self._samples = sum(map(len, pre_roll)) // 2
        self._samples_at_partial = self._samples
        self._shown: list[str] = []
        decoder.start(pre_roll)

    @property
    def end_sample(self) -> int:
        """Position just after the last sample heard."""
        return self.start_sample + self._samples

    @property
    def is_full(self) -> bool:
        """Whether the next audio belongs to another utterance, however it goes on."""
        return self._samples >= UTTERANCE_MS_MAX * ENGINE_RATE_HZ // 1000

    def hear(self, block: bytes) -> None:
        """Take the next audio."""
        self._decoder.hear(block)
        self._samples += len(block) // 2

    def news(self) -> list[DecodedWord]:
        """Return the words so far if a partial is due and they changed; else nothing."""
        interval = PARTIAL_INTERVAL_MS * ENGINE_RATE_HZ // 1000
        if self._samples - self._samples_at_partial < interval:
            return []
        self._samples_at_partial = self._samples
        words = self._decoder.words()
        texts = [word.text for word in words]
        if texts == self._shown:
            return []
        self._shown = texts
        return words

    def end(self) -> list[DecodedWord]:
        """End the utterance; return its words."""
        return self._decoder.end()
