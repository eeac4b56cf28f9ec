"""Which ingest's chunks count, by number: each ingest epoch begins at a number. Pure."""

from typing import Final

__all__ = ["IngestEpochs"]

EPOCHS_MAX: Final = 16
"""Epochs remembered: chunks of older ones have left AUDIO long ago."""


class IngestEpochs:
    """The ingest epochs of one stream, as far as their chunks were seen."""

    def __init__(self) -> None:
        self.latest = 0
        """The highest one; its chunks always count."""
        self._starts: dict[int, int] = {}

    def is_superseded(self, ingest_epoch: int, number: int) -> bool:
        """Whether a higher epoch begins at this number or before it."""
        return any(
            epoch > ingest_epoch and start <= number for epoch, start in self._starts.items()
        )

    def learn(self, ingest_epoch: int, start: int) -> bool:
        """Note where an epoch begins; return whether that was news."""
        if ingest_epoch in self._starts:
            return False
        self._starts[ingest_epoch] = start
        self.latest = max(self.latest, ingest_epoch)
        if len(self._starts) > EPOCHS_MAX:
            del self._starts[min(self._starts)]
        return True
