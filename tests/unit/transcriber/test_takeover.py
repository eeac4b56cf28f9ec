"""Another ingest takes a stream over while the former one may still be sending."""

from array import array
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_contracts import AudioChunk, ChunkKind
from speechbus_ingest.audio_end import find_end
from speechbus_transcriber.audio_tail import AudioTail, Lost

SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=6)
"""Samples of each chunk; 0 stands for a marker."""


class Source:
    """What one ingest publishes of a stream whose samples hold their own position."""

    def __init__(self, epoch: int, *, number: int = 0, position: int = 0) -> None:
        self.epoch = epoch
        self.position = position
        self._first_number = number
        self._n_chunks = 0

    def publish(self, n_samples: int, kind: ChunkKind = ChunkKind.FLUSH) -> AudioChunk:
        """Return the next chunk: audio, or a marker when there is none."""
        samples = range(self.position, self.position + n_samples)
        chunk = AudioChunk(
            kind=ChunkKind.AUDIO if n_samples else kind,
            ingest_epoch=self.epoch,
            number=self._first_number + self._n_chunks,
            chunks_before=self._n_chunks,
            first_sample=self.position,
            captured_at_ns=0,
            payload=memoryview(array("h", samples).tobytes()),
        )
        self.position += n_samples
        self._n_chunks += 1
        return chunk


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What two or three ingests made of one stream."""

    stored: Sequence[AudioChunk]
    """In the order of storing."""
    published: Sequence[AudioChunk]
    n_samples: int
    epoch: int
    """Of the last ingest."""


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Each ingest goes on where the stored audio ends; the one before it thaws and goes on, too."""
    stored: list[AudioChunk] = []
    published: list[AudioChunk] = []
    late: list[AudioChunk] = []
    source = Source(1)
    n_ingests = draw(st.integers(2, 3))
    furthest = 0
    for epoch in range(1, n_ingests + 1):
        first = [] if epoch == 1 else [source.publish(0, ChunkKind.SILENCE)]
        spoken = [*first, *(source.publish(size) for size in draw(SIZES))]
        is_last = epoch == n_ingests
        if is_last:  # the client has said everything to it that it had said to the others
            spoken.append(source.publish(max(1, furthest - source.position)))
            spoken.append(source.publish(0, ChunkKind.END))
        published += spoken
        # Of what its death or its freeze caught, some is stored late, and some never.
        kept = spoken if is_last else [c for c in spoken if draw(st.integers(0, 5))]
        n_in_time = len(kept) if is_last else draw(st.integers(0, len(kept)))
        stored += first
        stored += draw(st.permutations([*(c for c in kept[:n_in_time] if c not in first), *late]))
        late = kept[n_in_time:]
        if not is_last:
            end = find_end(stored, covered_sample=0)
            thawed = [source.publish(size) for size in draw(SIZES)]
            published += thawed
            late += [*thawed, source.publish(0, ChunkKind.END)]
            furthest = max(furthest, source.position)
            source = Source(epoch + 1, number=end.number, position=end.position)
    return Story(stored=stored, published=published, n_samples=source.position, epoch=n_ingests)


@settings(max_examples=150)
@given(story=stories(), data=st.data())
def test_ingests_never_interleave(story: Story, data: st.DataObject) -> None:
    """Every sample comes out once and in order, whatever came live, and however often.

    Once a chunk of the later ingest was seen, nothing of a former one comes out behind its
    beginning: neither audio nor markers, least of all its end.
    """
    start = data.draw(st.integers(0, story.n_samples))
    tail = AudioTail(start_sample=start)
    taken: list[AudioChunk] = []
    seen: list[AudioChunk] = []

    def read() -> None:
        while (item := tail.take()) is not None:
            assert not isinstance(item, Lost)
            assert not any(
                chunk.ingest_epoch > item.ingest_epoch and chunk.epoch_start <= item.number
                for chunk in seen
            )
            taken.append(item)

    live = data.draw(st.lists(st.sampled_from(story.published), max_size=20))
    for chunk in live:
        tail.add(chunk)
        seen.append(chunk)
        if data.draw(st.booleans()):
            read()
    is_done = False
    while not is_done:
        n_taken = len(taken)
        for chunk in story.stored:
            tail.add(chunk)
            seen.append(chunk)
        read()
        is_done = len(taken) == n_taken
        if is_done and tail.is_missing:
            tail.give_up()
            read()

    assert not tail.is_missing
    assert tail.position == story.n_samples
    position = start
    for item in taken:
        if item.kind is ChunkKind.AUDIO:
            assert list(memoryview(item.payload).cast("h")) == list(
                range(position, position + item.n_samples)
            )
            position += item.n_samples
    assert position == story.n_samples
    ends = [item for item in taken if item.kind is ChunkKind.END]
    assert [item.ingest_epoch for item in ends] == [story.epoch]
