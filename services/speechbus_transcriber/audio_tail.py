"""Puts a stream's chunks in order, wherever they come from.

Live chunks and stored ones arrive in any order, some twice, some never. What comes out is every
sample once, in order, starting at a given sample; what can no longer be had comes out as `Lost`.
Where another ingest has taken the stream over, only its chunks count from there on. Pure: the
caller does the fetching.
"""

from typing import Final

import msgspec

from speechbus_contracts import AudioChunk, ChunkKind, IngestEpochs

__all__ = ["STASH_CHUNKS_MAX", "AudioTail", "Lost"]

STASH_CHUNKS_MAX: Final = 1_000
"""Chunks kept while an earlier one is missing: 100 s of 100 ms chunks, more than AUDIO retains, so
whatever is dropped here can be fetched again, and 3.2 MB at most for a stream at 16 kHz."""


class Lost(msgspec.Struct, frozen=True):
    """Samples `from_sample` up to `to_sample` (exclusive) are not transcribed."""

    from_sample: int
    to_sample: int
    reason: str = "audio_lost"
    """As `Gap.reason` has it: they are gone, unless it is said otherwise."""


class AudioTail:
    """Merge of live and stored chunks of one stream.

    Call `add` for each chunk, then `take` until it returns None. While `is_missing`, fetch stored
    chunks and `add` them; when they cannot be had, `give_up`.
    """

    def __init__(self, *, start_sample: int, epochs: IngestEpochs | None = None) -> None:
        self.epochs = epochs or IngestEpochs()
        """Ingests seen so far; a tail that reads the stream again had better know them."""
        self._position = start_sample
        # Which number holds the first sample is known only for a stream's beginning.
        self._next_number: int | None = 0 if start_sample == 0 else None
        self._stash: dict[int, AudioChunk] = {}
        self._highest = -1
        self._highest_epoch = 0
        self._end = start_sample
        # Of the chunks wholly before the first sample, the last one seen tells whether the one
        # behind it is first; keeping them would fill the stash before the position comes.
        self._before = -1
        self._taken_epoch = 0
        self._searched_epoch = 0

    @property
    def position(self) -> int:
        """Samples of the stream before the next one that `take` returns."""
        return self._position

    @property
    def end(self) -> int:
        """The end of the newest chunk seen, in samples of the stream."""
        return self._end

    @property
    def n_behind(self) -> int:
        """Samples between the position and the end of the newest chunk seen."""
        return self._end - self._position

    @property
    def is_missing(self) -> bool:
        """Whether a chunk is known to exist that `take` cannot return yet."""
        if self._next_number is None:
            return True
        return self._highest >= self._next_number and self._next_number not in self._stash

    def add(self, chunk: AudioChunk) -> None:
        """Take one chunk; what is old, double or of a superseded ingest is dropped."""
        number = chunk.number
        if chunk.ingest_epoch != self.epochs.latest and not self._admit(chunk):
            return
        if number > self._highest:
            self._highest = number
            self._highest_epoch = chunk.ingest_epoch
            end = chunk.first_sample + chunk.n_samples
            if end > self._end:
                self._end = end
        if self._next_number is None:
            if self._is_before_position(chunk):
                self._before = max(self._before, number)
                return
        elif number < self._next_number:
            return
        if number in self._stash:
            return  # of the same ingest: those of others are gone
        if len(self._stash) >= STASH_CHUNKS_MAX:
            newest = max(self._stash)
            if number > newest:
                return  # fetched again when its turn comes
            del self._stash[newest]
        self._stash[number] = chunk

    def take(self) -> AudioChunk | Lost | None:
        """Return what comes next, or None when that is not here (yet).

        Audio chunks are cut so that each begins exactly where the one before ended. A jump in
        the numbering of samples comes out as `Lost` before the chunk behind it, of any kind.
        """
        if self._next_number is None and not self._locate(is_complete=False):
            return None
        assert self._next_number is not None
        chunk = self._stash.get(self._next_number)
        if chunk is None:
            return None
        if chunk.first_sample > self._position:
            if chunk.ingest_epoch > max(self._taken_epoch + 1, self._searched_epoch):
                # Between the ingests seen there was another, whose chunks replaced some taken here.
                self._search()
                return None
            lost = Lost(self._position, chunk.first_sample)
            self._position = chunk.first_sample
            return lost
        if chunk.kind is ChunkKind.AUDIO:
            if chunk.first_sample < self._position:
                chunk = _cut(chunk, self._position - chunk.first_sample)
            self._position += chunk.n_samples
        self._taken_epoch = max(self._taken_epoch, chunk.ingest_epoch)
        del self._stash[self._next_number]
        self._next_number += 1
        return chunk

    def jump(self, to_sample: int) -> Lost:
        """Leave out what lies before a later position; call when `take` has returned audio."""
        lost = Lost(self._position, to_sample, "lag")
        self._position = to_sample
        self._next_number = None
        for number, chunk in list(self._stash.items()):
            if self._is_before_position(chunk):
                self._before = max(self._before, number)
                del self._stash[number]
        return lost

    def give_up(self) -> None:
        """What is missing now cannot be had: `take` goes on behind it."""
        if self._next_number is None:
            self._searched_epoch = self.epochs.latest
            if not self._locate(is_complete=True):
                # All there is lies before the position: the stream has not gone on since.
                self._next_number = self._highest + 1
        elif self.is_missing:
            # Without any later chunk here, the highest number seen is all there is to go by.
            self._next_number = min(self._stash, default=self._highest + 1)

    def _admit(self, chunk: AudioChunk) -> bool:
        """See whether a chunk of another ingest than the last one's counts."""
        # Also of one that does not count: where its epoch begins, lower ones end.
        if self.epochs.learn(chunk.ingest_epoch, chunk.epoch_start):
            self._go_back(chunk.ingest_epoch, chunk.epoch_start)
        return not self.epochs.is_superseded(chunk.ingest_epoch, chunk.number)

    def _go_back(self, ingest_epoch: int, start: int) -> None:
        """From number `start` on, forget the chunks of lower ingest epochs.

        Those taken already held the same samples, cut elsewhere: `take` leaves out what it had.
        """
        for number, chunk in list(self._stash.items()):
            if number >= start and chunk.ingest_epoch < ingest_epoch:
                del self._stash[number]
        if self._next_number is None:
            # What is wholly before the position beyond `start` is so at `start`, too.
            self._before = min(self._before, start - 1)
        elif start < self._next_number and ingest_epoch > self._taken_epoch:
            self._search()
        if self._highest >= start and self._highest_epoch < ingest_epoch:
            self._highest = max(self._stash, default=-1)
            ends = (chunk.first_sample + chunk.n_samples for chunk in self._stash.values())
            self._end = max(ends, default=self._position)

    def _search(self) -> None:
        """Which number holds the position is not known any more."""
        self._next_number = None
        self._before = -1

    def _is_before_position(self, chunk: AudioChunk) -> bool:
        if chunk.n_samples == 0:
            return chunk.first_sample < self._position
        return chunk.first_sample + chunk.n_samples <= self._position

    def _locate(self, *, is_complete: bool) -> bool:
        """Find the first chunk that is not wholly before the position.

        Args:
            is_complete: there is nothing earlier than the stash, so its first one will do.
        """
        if not self._stash:
            return False
        first = self._stash[min(self._stash)]
        # One that begins at the position may have a marker of the same position before it.
        if not (
            is_complete
            or first.number == 0
            or first.first_sample < self._position
            or first.number - 1 == self._before
        ):
            return False
        self._next_number = first.number
        return True


def _cut(chunk: AudioChunk, n_samples: int) -> AudioChunk:
    """Return `chunk` without its first `n_samples` (all of them at most)."""
    n_cut = min(n_samples, chunk.n_samples)
    return msgspec.structs.replace(
        chunk, first_sample=chunk.first_sample + n_cut, payload=chunk.payload[2 * n_cut :]
    )
