"""Where the stored audio of a stream ends: there another ingest goes on. Pure."""

from collections.abc import Sequence

import msgspec

from speechbus_contracts import AudioChunk, ChunkKind, IngestEpochs

__all__ = ["AudioEnd", "find_end"]


class AudioEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Everything before it is stored, without a hole."""

    number: int = 0
    """Of the next chunk."""
    position: int = 0
    """Samples of the stream before it."""
    chunks: Sequence[AudioChunk] = ()
    """Those that count, in order."""
    end: AudioChunk | None = None
    """The stream's end marker, if it is among them."""


def find_end(stored: Sequence[AudioChunk], *, covered_sample: int) -> AudioEnd:
    """Find the end of what is stored without a hole, from the covered position on.

    Args:
        stored: chunks of a stream in any order, also twice, of any ingest.
        covered_sample: what lies before it is in finals and gaps, and may be stored or not.
    """
    epochs = IngestEpochs()
    for chunk in stored:
        epochs.learn(chunk.ingest_epoch, chunk.epoch_start)
    by_number = {
        chunk.number: chunk
        for chunk in stored
        if not epochs.is_superseded(chunk.ingest_epoch, chunk.number)
    }
    before = [n for n, chunk in by_number.items() if chunk.first_sample < covered_sample]
    if before:
        number = max(before)
    elif covered_sample:  # what joins it is gone
        number = max(0, min(by_number, default=0) - 1)
    else:
        number = 0
    chunks: list[AudioChunk] = []
    while number in by_number:
        chunks.append(by_number[number])
        number += 1
    return AudioEnd(
        number=number,
        position=chunks[-1].first_sample + chunks[-1].n_samples if chunks else covered_sample,
        chunks=chunks,
        end=next((chunk for chunk in chunks if chunk.kind is ChunkKind.END), None),
    )
