"""The order of a stream's audio, whatever the bus does to it."""

from array import array
from fractions import Fraction
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from speechbus_contracts import AudioChunk, ChunkKind
from speechbus_transcriber import audio_tail
from speechbus_transcriber.audio_tail import STASH_CHUNKS_MAX, AudioTail, Lost

STASH_MAX = 4
"""Small, so that the machine fills it."""
MARKERS = [ChunkKind.FLUSH, ChunkKind.SILENCE, ChunkKind.RECONFIGURE]


class OpenTail(AudioTail):
    """A tail that tells how much it keeps."""

    @property
    def n_stashed(self) -> int:
        """Chunks that wait for an earlier one."""
        return len(self._stash)


def chunk_of(
    number: int,
    first_sample: int,
    n_samples: int = 0,
    *,
    kind: ChunkKind = ChunkKind.AUDIO,
    ingest_epoch: int = 1,
) -> AudioChunk:
    """Return a chunk whose samples hold their own position in the stream."""
    pcm = array("h", range(first_sample, first_sample + n_samples)).tobytes()
    return AudioChunk(
        kind=kind,
        number=number,
        first_sample=first_sample,
        captured_at_ns=0,
        payload=memoryview(pcm),
        ingest_epoch=ingest_epoch,
    )


def take_all(tail: AudioTail) -> list[AudioChunk | Lost]:
    items: list[AudioChunk | Lost] = []
    while (item := tail.take()) is not None:
        items.append(item)
    return items


def shapes_of(items: list[AudioChunk | Lost]) -> list[tuple[int, int, int] | Lost]:
    """Return number, first sample and length of each chunk; losses as they are."""
    return [
        item if isinstance(item, Lost) else (item.number, item.first_sample, item.n_samples)
        for item in items
    ]


class TailMachine(RuleBasedStateMachine):
    """An ingest, the AUDIO store and a lossy live subscription around one tail."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch.object(audio_tail, "STASH_CHUNKS_MAX", STASH_MAX)
        self.patch.start()
        self.published: list[AudioChunk] = []
        self.store: dict[int, AudioChunk] = {}
        self.in_flight: list[AudioChunk] = []
        self.n_samples = 0
        self.is_ended = False
        self.start = 0
        self.jumped_to = 0
        self.tail = OpenTail(start_sample=0)
        self.taken: list[AudioChunk | Lost] = []

    @initialize(
        before=st.lists(st.integers(0, 6), max_size=8), share=st.fractions(0, 1), hidden=st.data()
    )
    def begin(self, before: list[int], share: Fraction, hidden: st.DataObject) -> None:
        """The worker comes when the stream has been running; 0 stands for a marker."""
        for n_samples in before:
            kind = ChunkKind.AUDIO if n_samples else ChunkKind.FLUSH
            self.publish(kind, n_samples)
        self.in_flight.clear()
        self.start = int(self.n_samples * share)
        self.tail = OpenTail(start_sample=self.start)
        for number in hidden.draw(st.sets(st.sampled_from(sorted(self.store) or [0]))):
            self.store.pop(number, None)

    @precondition(lambda self: not self.is_ended)
    @rule(n_samples=st.integers(1, 6))
    def publish_audio(self, n_samples: int) -> None:
        """The source speaks."""
        self.publish(ChunkKind.AUDIO, n_samples)

    @precondition(lambda self: not self.is_ended)
    @rule(kind=st.sampled_from([*MARKERS, ChunkKind.END]))
    def publish_marker(self, kind: ChunkKind) -> None:
        """The source pauses, flushes or ends."""
        self.publish(kind, 0)
        self.is_ended = kind is ChunkKind.END

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), is_twice=st.booleans())
    def deliver_live(self, data: st.DataObject, is_twice: bool) -> None:  # noqa: FBT001
        """Any of those on their way arrives, perhaps to come again."""
        chunk = data.draw(st.sampled_from(self.in_flight))
        if not is_twice:
            self.in_flight.remove(chunk)
        self.tail.add(chunk)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def drop_live(self, data: st.DataObject) -> None:
        """One never arrives."""
        self.in_flight.remove(data.draw(st.sampled_from(self.in_flight)))

    @precondition(lambda self: self.store)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """AUDIO forgets one for ever."""
        del self.store[data.draw(st.sampled_from(sorted(self.store)))]

    @rule()
    def read(self) -> None:
        """The provider takes what is in order."""
        self.take()

    @rule()
    def fetch(self) -> None:
        """All that is stored comes once more, and is read as it comes."""
        n_before = -1
        while len(self.taken) != n_before:
            n_before = len(self.taken)
            for number in sorted(self.store):
                self.tail.add(self.store[number])
            self.take()

    @precondition(lambda self: self.tail.is_missing)
    @rule()
    def fetch_in_vain(self) -> None:
        """What even the store does not have is given up."""
        self.fetch()
        if self.tail.is_missing:
            self.tail.give_up()
            self.take()

    @precondition(lambda self: self.tail.n_behind > 0)
    @rule(share=st.fractions(0, 1))
    def jump(self, share: Fraction) -> None:
        """The worker is too far behind."""
        self.take()
        n_samples = int(self.tail.n_behind * share)
        if n_samples > 0:
            self.taken.append(self.tail.jump(self.tail.position + n_samples))
            self.jumped_to = self.tail.position

    @invariant()
    def nothing_is_double_or_out_of_order(self) -> None:
        """From the start to the tail's position, each sample is in one chunk or one loss."""
        position = self.start
        number = -1
        for item in self.taken:
            if isinstance(item, Lost):
                assert item.from_sample == position < item.to_sample
                position = item.to_sample
                continue
            assert item.number > number
            number = item.number
            if item.kind is ChunkKind.AUDIO:
                assert item.first_sample == position
                position += item.n_samples
                assert list(memoryview(item.payload).cast("h")) == list(
                    range(item.first_sample, position)
                )
        assert self.tail.position == position

    @invariant()
    def the_stash_is_bounded(self) -> None:
        """A stream that waits for one chunk does not fill the worker's memory."""
        assert self.tail.n_stashed <= STASH_MAX

    def teardown(self) -> None:
        """However it went: in the end everything stored was read, and all of the rest named."""
        try:
            # A number beyond all others tells of them, as the next chunk of a live stream would.
            self.publish(ChunkKind.SILENCE, 0)
            self.tail.add(self.published[-1])
            for _ in range(len(self.published) + 1):
                self.fetch_in_vain()

            assert not self.tail.is_missing
            assert self.tail.position == self.n_samples
            self.nothing_is_double_or_out_of_order()
            read = {item.number for item in self.taken if isinstance(item, AudioChunk)}
            wanted = {n for n, chunk in self.store.items() if self.is_wanted(chunk)}
            assert wanted <= read
        finally:
            self.patch.stop()

    def is_wanted(self, chunk: AudioChunk) -> bool:
        """Whether a chunk is not wholly before the start, or before what was jumped to."""
        start = max(self.start, self.jumped_to)
        if chunk.kind is ChunkKind.AUDIO:
            return chunk.first_sample + chunk.n_samples > start
        return chunk.first_sample >= start

    def publish(self, kind: ChunkKind, n_samples: int) -> None:
        """Number one chunk, store it and send it."""
        chunk = chunk_of(len(self.published), self.n_samples, n_samples, kind=kind)
        self.published.append(chunk)
        self.store[chunk.number] = chunk
        self.in_flight.append(chunk)
        self.n_samples += n_samples

    def take(self) -> None:
        """Drain the tail."""
        self.taken += take_all(self.tail)


TestAudioTail = TailMachine.TestCase
TestAudioTail.settings = settings(max_examples=150, stateful_step_count=30)


def test_a_jump_goes_on_with_the_chunk_that_holds_its_target() -> None:
    """What it left out is named, and not called lost."""
    tail = AudioTail(start_sample=0)
    for number in range(5):
        tail.add(chunk_of(number, 10 * number, 10))
    tail.take()
    assert tail.n_behind == 40

    assert tail.jump(35) == Lost(10, 35, "lag")
    assert shapes_of(take_all(tail)) == [(3, 35, 5), (4, 40, 10)]


def test_a_higher_ingest_epoch_wins_for_the_same_number() -> None:
    """A client that reconnected elsewhere said it anew; the old ingest may still be sending."""
    tail = AudioTail(start_sample=0)
    for number, epoch, n_samples in [(1, 1, 5), (1, 2, 6), (1, 1, 7), (0, 1, 10)]:
        tail.add(chunk_of(number, 10 * number, n_samples, ingest_epoch=epoch))

    assert shapes_of(take_all(tail)) == [(0, 0, 10), (1, 10, 6)]


def test_audio_lost_before_the_end_is_named() -> None:
    """The end marker is the only chunk behind it: its position tells what is missing."""
    tail = AudioTail(start_sample=0)
    tail.add(chunk_of(0, 0, 10))
    tail.add(chunk_of(2, 20, kind=ChunkKind.END))
    tail.take()
    assert tail.is_missing
    tail.give_up()

    assert shapes_of(take_all(tail)) == [Lost(10, 20), (2, 20, 0)]


def test_nothing_is_missing_when_the_stream_stopped_where_it_is_covered() -> None:
    """Or a stream whose ingest is gone would be looked for, and never closed."""
    tail = AudioTail(start_sample=10)
    tail.add(chunk_of(0, 0, 10))
    assert tail.take() is None
    assert tail.is_missing
    tail.give_up()
    assert not tail.is_missing
    tail.add(chunk_of(1, 10, 5))

    assert shapes_of(take_all(tail)) == [(1, 10, 5)]


def test_more_old_chunks_than_the_stash_holds_do_not_hide_the_position() -> None:
    """90 s of 20 ms chunks are 4,500: most of them are before the position of a long pause."""
    tail = OpenTail(start_sample=3 * STASH_CHUNKS_MAX)
    for number in range(3 * STASH_CHUNKS_MAX + 1):
        tail.add(chunk_of(number, number, 1))

    assert tail.n_stashed == 1
    assert shapes_of(take_all(tail)) == [(3 * STASH_CHUNKS_MAX, 3 * STASH_CHUNKS_MAX, 1)]


def test_a_flush_at_the_position_is_not_passed_over() -> None:
    """Its answer is still owed when the worker died between the final and the answer."""
    tail = AudioTail(start_sample=10)
    tail.add(chunk_of(2, 10, 5))
    assert tail.take() is None
    tail.add(chunk_of(0, 0, 10))
    tail.add(chunk_of(1, 10, kind=ChunkKind.FLUSH))

    assert shapes_of(take_all(tail)) == [(1, 10, 0), (2, 10, 5)]
