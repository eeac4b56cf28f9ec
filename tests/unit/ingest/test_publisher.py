"""Audio on its way to the store: repeated until it is safe, bounded meanwhile."""

import asyncio
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import AUDIO_MAX_AGE_S, AudioChunk, ChunkKind, decode_chunk
from speechbus_ingest.publisher import (
    ACK_TIMEOUT_S,
    CREDIT_S,
    HELD_CHUNKS_MAX,
    REFRESH_S,
    RESEND_BATCH,
    WINDOW_CHUNKS,
    AudioLane,
    AudioPublisher,
    LaneStart,
)
from tests.support.fake_bus import FakeBus, Sent
from tests.support.virtual_time import run_virtual

RATE_HZ: Final = 100
"""Low, so that credit and retention are small numbers."""
SECOND: Final = bytes(2 * RATE_HZ)
ACK: Final = b'{"stream":"AUDIO_0","seq":1}'


class Desk:
    """A publisher on a fake bus, with a clock in the test's hands."""

    def __init__(self) -> None:
        self.bus = FakeBus()
        self.clock_s = 1_000.0
        self.publisher = AudioPublisher(self.bus, now_s=lambda: self.clock_s)
        self.lane = self.open_lane("speech.v1.audio.0.acme.s1")
        self._n_read = 0

    def open_lane(self, subject: str) -> AudioLane:
        """Begin another stream."""
        return self.publisher.open_lane(subject, sample_rate_hz=RATE_HZ)

    def publish(self, payload: bytes = SECOND, kind: ChunkKind = ChunkKind.AUDIO) -> int:
        """Publish one chunk, a second long if not said otherwise."""
        return self.lane.publish(kind, payload, captured_at_ns=5)

    def new_messages(self) -> list[Sent]:
        """What has been sent since the last call."""
        new = self.bus.sent[self._n_read :]
        self._n_read = len(self.bus.sent)
        return new

    def new_chunks(self) -> list[AudioChunk]:
        """What has been sent since the last call, decoded."""
        return [decode_chunk(message.payload) for message in self.new_messages()]

    def new_numbers(self) -> list[int]:
        """Their numbers."""
        return [chunk.number for chunk in self.new_chunks()]

    def acknowledge(self, messages: list[Sent], payload: bytes = ACK, headers: bytes = b"") -> None:
        """Answer as JetStream does."""
        for message in messages:
            self.bus.deliver(message.reply, payload, headers=headers)

    def store(self, n_seconds: int) -> None:
        """Publish and acknowledge some audio."""
        for _ in range(n_seconds):
            self.publish()
        self.acknowledge(self.new_messages())

    def sweep(self, after_s: float = 0.0) -> list[int]:
        """Let time pass; return the numbers of what is sent again."""
        self.clock_s += after_s
        self.publisher.resend_late()
        return self.new_numbers()


def test_chunks_are_numbered_and_placed_in_the_stream() -> None:
    """Everything behind ingest sorts by these numbers and tells the time by these samples."""
    desk = Desk()
    desk.publish()
    desk.publish(b"", ChunkKind.FLUSH)
    desk.publish(SECOND[:100])
    desk.publish(b"{}", ChunkKind.END)
    chunks = desk.new_chunks()

    assert [(c.number, c.kind, c.first_sample, c.n_samples) for c in chunks] == [
        (0, ChunkKind.AUDIO, 0, 100),
        (1, ChunkKind.FLUSH, 100, 0),
        (2, ChunkKind.AUDIO, 100, 50),
        (3, ChunkKind.END, 150, 0),
    ]
    assert {chunk.ingest_epoch for chunk in chunks} == {1}
    assert desk.lane.position == 150


def test_the_window_closes_and_opens() -> None:
    """A store that is slow to answer slows the client down, and only as long as it is slow."""
    desk = Desk()
    desk.lane.consume(10**6)
    for _ in range(WINDOW_CHUNKS - 1):
        desk.publish()
    assert desk.lane.has_room
    desk.publish()
    assert not desk.lane.has_room
    desk.acknowledge(desk.new_messages()[:1])
    assert desk.lane.has_room


def test_an_upload_is_held_back_until_the_worker_has_read_on() -> None:
    """Faster than real time, it would fill AUDIO with what expires before anybody reads it."""
    desk = Desk()
    n_credit = int(CREDIT_S)
    desk.store(n_credit - 1)
    assert desk.lane.has_room
    desk.store(1)
    assert not desk.lane.has_room
    desk.lane.consume(RATE_HZ)
    assert desk.lane.has_room
    desk.store(1)
    assert not desk.lane.has_room
    desk.lane.consume(0)  # a late heartbeat takes nothing back
    desk.lane.consume(2 * RATE_HZ)
    assert desk.lane.has_room


def test_who_waits_for_room_is_woken_by_it() -> None:
    """The door reads its socket again."""

    async def main() -> None:
        desk = Desk()
        await desk.lane.wait_for_room()
        desk.store(int(CREDIT_S))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(desk.lane.wait_for_room())
            asyncio.get_running_loop().call_later(5, desk.lane.consume, RATE_HZ)
        assert waiting.done()

    run_virtual(main())


def test_what_is_not_acknowledged_in_time_is_sent_again_as_it_was() -> None:
    """Lost on the way, or refused: the stream waits for exactly this chunk."""
    desk = Desk()
    for _ in range(3):
        desk.publish()
    first = desk.new_messages()
    desk.acknowledge(first[1:2])
    assert desk.sweep(ACK_TIMEOUT_S / 2) == []
    desk.clock_s += ACK_TIMEOUT_S
    desk.publisher.resend_late()
    assert desk.new_messages() == [first[0], first[2]]
    assert desk.sweep(ACK_TIMEOUT_S / 2) == []
    assert desk.sweep(ACK_TIMEOUT_S / 2) == [0, 2]
    desk.acknowledge(first)
    assert desk.sweep(10 * ACK_TIMEOUT_S) == []


def test_a_refusal_is_counted_and_repeated() -> None:
    """Full for now, electing, or without a permission: the next sweep tries again."""
    desk = Desk()
    desk.publish()
    sent = desk.new_messages()
    desk.acknowledge(sent, b'{"error":{"code":503,"err_code":10077},"stream":"AUDIO_0","seq":0}')
    desk.acknowledge(sent, b"", b"NATS/1.0 503\r\n\r\n")

    assert desk.publisher.refused == 2
    assert desk.sweep(ACK_TIMEOUT_S) == [0]


def test_nothing_is_sent_while_the_bus_is_away_and_everything_after() -> None:
    """Audio that came meanwhile is kept, and follows in order."""
    desk = Desk()
    desk.publish()
    desk.bus.is_away = True
    desk.publish()
    desk.publish()
    assert desk.sweep(5 * ACK_TIMEOUT_S) == [0]
    desk.bus.is_away = False
    desk.publisher.distrust_store()

    assert desk.new_numbers() == [0, 1, 2]


def test_a_store_whose_numbers_begin_anew_gets_everything_that_is_not_covered() -> None:
    """Its one server of a cluster has restarted; our connection to another has seen nothing."""
    desk = Desk()
    other = desk.open_lane("speech.v1.audio.1.acme.s2")
    for number in (41, 42):
        desk.publish()
        desk.acknowledge(desk.new_messages(), b'{"stream":"AUDIO_0","seq":%d}' % number)
    other.publish(ChunkKind.AUDIO, SECOND, captured_at_ns=5)
    desk.acknowledge(desk.new_messages(), b'{"stream":"AUDIO_1","seq":7}')
    desk.publish()
    desk.acknowledge(desk.new_messages(), b'{"stream":"AUDIO_0","seq":1}')

    sent = desk.new_messages()
    assert {message.subject for message in sent} == {b"speech.v1.audio.0.acme.s1"}
    assert [decode_chunk(message.payload).number for message in sent] == [0, 1, 2]


def test_a_store_that_lost_its_memory_gets_everything_that_is_not_covered() -> None:
    """AUDIO lives in memory: a restarted NATS has none of what was acknowledged."""
    desk = Desk()
    desk.store(10)
    desk.lane.cover(4 * RATE_HZ)
    desk.publisher.distrust_store()

    # Number 3 ends where the covered part does: it shows that no marker is missing there.
    assert desk.new_numbers() == [3, 4, 5, 6, 7, 8, 9]


def test_a_marker_at_the_covered_position_is_not_forgotten() -> None:
    """A flush that nobody has answered, or the end, may stand there."""
    desk = Desk()
    desk.store(2)
    desk.publish(b"", ChunkKind.FLUSH)
    desk.acknowledge(desk.new_messages())
    desk.lane.cover(2 * RATE_HZ)
    desk.publisher.distrust_store()

    assert desk.new_numbers() == [1, 2]


def test_many_chunks_are_repeated_in_portions() -> None:
    """Hundreds of streams share the connection after a restart; the oldest audio goes first."""
    desk = Desk()
    desk.store(80)
    desk.publisher.distrust_store()
    first = desk.new_messages()
    desk.acknowledge(first)
    desk.publisher.resend_late()
    second = desk.new_messages()
    numbers = [decode_chunk(message.payload).number for message in [*first, *second]]

    assert (len(first), len(second)) == (RESEND_BATCH, RESEND_BATCH)
    assert numbers == list(range(2 * RESEND_BATCH))


def test_what_is_covered_but_not_stored_is_still_repeated() -> None:
    """The worker heard it live; an answer that is on its way will free it."""
    desk = Desk()
    desk.publish()
    desk.publish()
    desk.new_messages()
    desk.lane.cover(3 * RATE_HZ)

    assert desk.sweep(ACK_TIMEOUT_S) == [0, 1]
    assert desk.sweep(ACK_TIMEOUT_S) == [0, 1]


def test_what_is_kept_is_bounded_in_samples() -> None:
    """AUDIO forgets by itself: beyond its age nobody could use a repetition."""
    desk = Desk()
    desk.store(2 * AUDIO_MAX_AGE_S)
    desk.publish()  # one is always on its way
    desk.sweep()
    desk.publisher.distrust_store()
    sent: list[int] = []
    while messages := desk.new_messages():
        sent += [decode_chunk(message.payload).number for message in messages]
        desk.acknowledge(messages)
        desk.publisher.resend_late()

    assert sent == list(range(AUDIO_MAX_AGE_S, 2 * AUDIO_MAX_AGE_S + 1))


def test_what_is_kept_is_bounded_in_chunks() -> None:
    """Markers take no samples; a client may send any number of flushes."""
    desk = Desk()
    for _ in range(HELD_CHUNKS_MAX + 500):
        desk.publish(b"", ChunkKind.FLUSH)
    desk.acknowledge(desk.new_messages()[1:])
    desk.sweep()
    desk.publisher.distrust_store()
    n_sent = 0
    while messages := desk.new_messages():
        n_sent += len(messages)
        desk.acknowledge(messages)
        desk.publisher.resend_late()

    assert n_sent == HELD_CHUNKS_MAX


def test_a_chunk_that_is_never_stored_is_forgotten_at_last() -> None:
    """The worker has named the gap long ago; keeping it would keep all that came after."""
    desk = Desk()
    desk.publish()
    desk.new_messages()
    desk.store(AUDIO_MAX_AGE_S)
    assert desk.sweep(ACK_TIMEOUT_S) == [0]
    desk.store(1)

    assert desk.sweep(ACK_TIMEOUT_S) == []


def test_a_closed_stream_is_forgotten_and_blocks_nobody() -> None:
    """Its late acknowledgements belong to no one, least of all to the next stream."""
    desk = Desk()
    for _ in range(int(CREDIT_S)):
        desk.publish()
    late = desk.new_messages()
    assert not desk.lane.has_room
    desk.lane.close()
    assert desk.lane.has_room
    desk.lane = desk.open_lane("speech.v1.audio.0.acme.s2")
    desk.publish()
    desk.new_messages()
    desk.acknowledge(late)

    assert [message.subject for message in late][:1] == [b"speech.v1.audio.0.acme.s1"]
    assert desk.sweep(ACK_TIMEOUT_S) == [0]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.integers(1, 40)),
            st.tuples(st.just("ack"), st.integers(0, 63)),
            st.tuples(st.just("cover"), st.integers(0, 100)),
            st.tuples(st.just("away"), st.integers(0, 1)),
            st.tuples(st.just("restart"), st.just(0)),
            st.tuples(st.just("sweep"), st.integers(0, 3)),
        ),
        max_size=40,
    )
)
def test_in_the_end_the_store_has_everything_that_is_not_covered(
    steps: list[tuple[str, int]],
) -> None:
    """Whatever is lost on the way there or back, and whenever the store loses its memory."""
    desk = Desk()
    on_the_way: list[Sent] = []
    stored: set[int] = set()
    covered = 0
    for what, number in steps:
        match what:
            case "publish":
                desk.publish(bytes(2 * number))
            case "ack" if on_the_way:
                message = on_the_way.pop(number % len(on_the_way))
                stored.add(decode_chunk(message.payload).number)
                desk.acknowledge([message])
            case "cover":
                covered = max(covered, desk.lane.position * number // 100)
                desk.lane.cover(covered)
            case "away":
                desk.bus.is_away = bool(number)
            case "restart":
                stored.clear()
                on_the_way.clear()
                desk.bus.is_away = False
                desk.publisher.distrust_store()
            case _:
                desk.clock_s += number
                desk.publisher.resend_late()
        on_the_way += desk.new_messages()
    desk.bus.is_away = False
    end_samples: dict[int, int] = {}
    for message in desk.bus.sent:
        chunk = decode_chunk(message.payload)
        end_samples[chunk.number] = chunk.first_sample + chunk.n_samples
    for _ in range(4):
        desk.clock_s += ACK_TIMEOUT_S
        desk.publisher.resend_late()
        messages = desk.new_messages()
        desk.acknowledge(messages)
        stored |= {decode_chunk(message.payload).number for message in messages}

    assert {number for number, end in end_samples.items() if end > covered} <= stored
    desk.lane.cover(desk.lane.position + 1)  # else it is kept fresh in AUDIO
    assert desk.sweep(10 * ACK_TIMEOUT_S) == []


@pytest.mark.parametrize("is_read", [False, True])
def test_audio_that_no_worker_reads_is_published_again_before_the_store_forgets_it(
    *, is_read: bool
) -> None:
    """A pool that is away for minutes finds everything when it is back.

    A worker whose provider broke in a long segment reads again what it had read.
    """
    desk = Desk()
    desk.publish(bytes(3_200))
    desk.acknowledge(desk.new_messages())
    if is_read:
        desk.lane.consume(desk.lane.position)

    assert desk.sweep(REFRESH_S - 1) == []
    assert desk.sweep(2) == [0]


def test_each_chunk_of_a_live_stream_is_published_again_when_its_own_time_has_come() -> None:
    """The oldest, which was just sent again, says nothing about the age of those behind it."""
    desk = Desk()
    again: dict[int, int] = {}

    for now_s in range(85):
        desk.publish()
        desk.acknowledge(desk.new_messages())
        for number in desk.sweep(1):
            again.setdefault(number, now_s + 1)

    assert again == {number: number + REFRESH_S for number in range(85 + 1 - int(REFRESH_S))}


def test_what_is_accepted_is_stored_without_a_hole_and_never_less() -> None:
    """A client forgets what it is told of: no dying process may take that along."""
    desk = Desk()
    for _ in range(3):
        desk.publish()
    desk.publish(kind=ChunkKind.FLUSH, payload=b"")
    told = [desk.lane.stored_position]
    for sequence, number in enumerate((1, 0, 3, 2), start=1):
        desk.lane.acknowledge(number, sequence)
        told.append(desk.lane.stored_position)
    desk.lane.distrust()
    told.append(desk.lane.stored_position)

    assert told == [0, 0, 2 * RATE_HZ, 2 * RATE_HZ, 3 * RATE_HZ, 3 * RATE_HZ]


def test_an_ingest_that_takes_over_numbers_on_and_keeps_what_is_not_covered() -> None:
    """The former one's chunks are its own to repeat, when the store has lost them."""
    former = Desk()
    for _ in range(3):
        former.publish()
    stored = former.new_chunks()
    desk = Desk()
    start = LaneStart(ingest_epoch=2, number=3, position=3 * RATE_HZ, covered_sample=RATE_HZ)
    desk.lane = desk.publisher.open_lane("a", sample_rate_hz=RATE_HZ, start=start)
    desk.lane.adopt(stored[1:], now_ns=5)
    for _ in range(2):
        desk.publish()
    first, second = desk.new_chunks()
    desk.publisher.distrust_store()

    assert (first.ingest_epoch, first.number, first.first_sample) == (2, 3, 3 * RATE_HZ)
    assert [first.chunks_before, second.chunks_before] == [0, 1]
    assert desk.new_chunks() == [*stored[1:], first, second]
    assert desk.lane.has_room
