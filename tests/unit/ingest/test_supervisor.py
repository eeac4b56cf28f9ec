"""Which workers are taken for dead, and which are not."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import nats.errors

from speechbus_contracts import WorkerHeartbeat, encode_event
from speechbus_ingest.supervisor import ABSENCES_MAX, LATE_S, PING_TIMEOUT_S, Supervisor
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import run_virtual

HEARTBEAT_S = 0.2


class WatchedStream:
    """A stream as the supervisor sees it; the next worker takes it `claim_s` after `reopen`."""

    def __init__(
        self, stream_id: str, worker_id: str | None = "w1", *, claim_s: float = 0.1
    ) -> None:
        self.stream_id = stream_id
        self.worker_id = worker_id
        self.claim_s = claim_s
        self.consumed: list[int] = []
        self.reopened: list[tuple[str, float]] = []

    def consume(self, sample: int) -> None:
        """Record how far it was read."""
        self.consumed.append(sample)

    async def reopen(self, reason: str) -> None:
        """Record the verdict; let `w2` claim the stream."""
        self.reopened.append((reason, asyncio.get_running_loop().time()))
        await asyncio.sleep(self.claim_s)
        self.worker_id = "w2"


class Ward:
    """A supervisor on a fake bus, in virtual time."""

    def __init__(self) -> None:
        self.bus = FakeBus()
        self.n_beats = 0
        self.supervisor = Supervisor(
            self.bus, now_s=asyncio.get_running_loop().time, beat=self._beat
        )

    def add(self, *streams: WatchedStream) -> None:
        """Supervise streams."""
        for stream in streams:
            self.supervisor.add(stream)

    def hear(self, worker: str, consumed: Mapping[str, int] | None = None) -> None:
        """Deliver one heartbeat."""
        heartbeat = WorkerHeartbeat(worker=worker, sessions=1, capacity=2, consumed=consumed)
        self.bus.deliver(f"speech.v1.worker.{worker}.heartbeat".encode(), encode_event(heartbeat))

    async def beat_for(self, seconds: float, *workers: str) -> None:
        """Let these workers be heard for a while."""
        for _ in range(round(seconds / HEARTBEAT_S)):
            for worker in workers:
                self.hear(worker)
            await asyncio.sleep(HEARTBEAT_S)

    async def reconnect(self) -> None:
        """Tell the hooks that the bus is back."""
        self.bus.is_away = False
        for hook in self.bus.reconnected:
            await hook()

    def _beat(self) -> None:
        self.n_beats += 1


def run(main: Callable[[Ward], Coroutine[Any, Any, None]]) -> None:
    """Play beside a running supervisor."""

    async def play() -> None:
        ward = Ward()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(ward.supervisor.run())
            await main(ward)
            watching.cancel()

    run_virtual(play())


async def pong(_subject: str) -> bytes:
    """Answer at once."""
    return b""


async def stay_silent(_subject: str) -> bytes:
    """Answer never, as a frozen worker does."""
    await asyncio.sleep(PING_TIMEOUT_S)
    raise nats.errors.TimeoutError


def test_a_worker_that_is_heard_is_not_asked() -> None:
    """Questions would cost every worker and every stream."""

    async def main(ward: Ward) -> None:
        ward.add(stream := WatchedStream("s1"))
        await ward.beat_for(10, "w1")
        assert (ward.bus.requests, stream.reopened) == ([], [])

    run(main)


def test_a_dead_workers_streams_are_each_placed_once() -> None:
    """Nobody listens on its subject any more: that is certain, and quick."""

    async def main(ward: Ward) -> None:
        streams = [WatchedStream(f"s{number}") for number in range(3)]
        other = WatchedStream("s9", "w2")
        ward.add(*streams, other)
        await ward.beat_for(1, "w1", "w2")
        await ward.beat_for(5, "w2")
        assert ward.bus.requests == ["speech.v1.worker.w1.ping"]
        for stream in streams:
            ((reason, at_s),) = stream.reopened
            assert reason == "worker_lost"
            assert LATE_S < at_s - 0.8 <= LATE_S + 0.1
        assert other.reopened == []

    run(main)


def test_a_worker_that_answers_keeps_its_streams() -> None:
    """Its heartbeats were late: the machine is busy, and moving streams makes it busier."""

    async def main(ward: Ward) -> None:
        ward.bus.answer_request = pong
        ward.add(stream := WatchedStream("s1"))
        await ward.beat_for(1, "w1")
        await asyncio.sleep(3)
        assert 5 <= len(ward.bus.requests) <= 3 / LATE_S
        assert (stream.reopened, stream.worker_id) == ([], "w1")

    run(main)


def test_a_frozen_workers_streams_move() -> None:
    """It is connected and does nothing; when it thaws, its guard tells it."""

    async def main(ward: Ward) -> None:
        ward.bus.answer_request = stay_silent
        ward.add(stream := WatchedStream("s1"))
        await ward.beat_for(1, "w1")
        await ward.beat_for(5, "w2")
        ((reason, at_s),) = stream.reopened
        assert reason == "worker_frozen"
        assert at_s - 0.8 <= LATE_S + PING_TIMEOUT_S + 0.1

    run(main)


def test_a_stall_of_the_bus_is_not_a_fault_of_the_workers() -> None:
    """A server that stands still for a second gives nobody's words back; no stream need move."""

    async def main(ward: Ward) -> None:
        ward.bus.answer_request = stay_silent
        ward.add(stream := WatchedStream("s1"))
        await ward.beat_for(1, "w1")
        ward.bus.is_stalled = True
        await asyncio.sleep(3)
        ward.bus.is_stalled = False
        ward.bus.answer_request = pong
        await asyncio.sleep(1)
        assert len(ward.bus.requests) > 1
        assert stream.reopened == []

    run(main)


def test_a_worker_that_was_only_busy_gets_more_time_from_then_on() -> None:
    """Streams that go round among busy workers begin anew each time, and fall behind."""

    async def answer_late(_subject: str) -> bytes:
        await asyncio.sleep(PING_TIMEOUT_S * 1.5)
        return b""

    async def main(ward: Ward) -> None:
        ward.bus.answer_request = answer_late
        first, second = WatchedStream("s1"), WatchedStream("s2")
        ward.add(first)
        await ward.beat_for(1, "w1")
        await ward.beat_for(1, "w2")
        await ward.beat_for(1, "w1", "w2")
        ward.add(second)
        await ward.beat_for(1, "w2")
        await ward.beat_for(1, "w1", "w2")
        assert [reason for reason, _ in first.reopened] == ["worker_frozen"]
        assert second.reopened == []

    run(main)


def test_one_question_at_a_time_is_asked_of_a_worker() -> None:
    """However long its streams take to find another place."""

    async def main(ward: Ward) -> None:
        ward.add(stream := WatchedStream("s1", claim_s=30))
        await ward.beat_for(1, "w1")
        await asyncio.sleep(20)
        assert len(ward.bus.requests) == len(stream.reopened) == 1

    run(main)


def test_a_worker_known_only_from_its_claim_is_watched_as_well() -> None:
    """It may die before its first heartbeat reaches this ingest."""

    async def main(ward: Ward) -> None:
        ward.add(stream := WatchedStream("s1"))
        await asyncio.sleep(0.3)
        assert ward.bus.requests == []
        await asyncio.sleep(0.3)
        assert [reason for reason, _ in stream.reopened] == ["worker_lost"]

    run(main)


def test_streams_that_nobody_has_claimed_are_left_to_the_queue() -> None:
    """They wait in JOBS; placing them again would change nothing."""

    async def main(ward: Ward) -> None:
        ward.add(stream := WatchedStream("s1", None))
        await asyncio.sleep(5)
        assert (ward.bus.requests, stream.reopened) == ([], [])

    run(main)


def test_an_outage_of_the_bus_is_not_a_fault_of_the_workers() -> None:
    """All would look dead at once, and all streams would move for nothing."""

    async def main(ward: Ward) -> None:
        ward.bus.answer_request = stay_silent
        ward.add(stream := WatchedStream("s1"))
        await ward.beat_for(1, "w1")
        await asyncio.sleep(LATE_S)  # a question is on its way when the bus goes
        ward.bus.is_away = True
        await asyncio.sleep(10)
        n_asked = len(ward.bus.requests)
        await ward.reconnect()
        await asyncio.sleep(0.3)
        await ward.beat_for(2, "w1")
        assert n_asked <= 1
        assert len(ward.bus.requests) == n_asked
        assert stream.reopened == []

    run(main)


def test_a_stream_that_ended_is_not_placed_again() -> None:
    """Its worker may well be gone by then."""

    async def main(ward: Ward) -> None:
        ward.add(stream := WatchedStream("s1"))
        await ward.beat_for(1, "w1")
        ward.supervisor.remove(stream)
        await asyncio.sleep(5)
        assert (ward.bus.requests, stream.reopened) == ([], [])

    run(main)


def test_heartbeats_tell_how_far_their_workers_streams_were_read() -> None:
    """A worker that lost a stream may still count; its figures are not the stream's."""

    async def main(ward: Ward) -> None:
        ward.add(mine := WatchedStream("s1", "w1"), moved := WatchedStream("s2", "w2"))
        ward.hear("w1", {"s1": 16_000, "s2": 8_000, "unknown": 1})
        ward.hear("w1")
        assert (mine.consumed, moved.consumed) == ([16_000], [])

    run(main)


def test_what_is_no_heartbeat_is_ignored() -> None:
    """Anybody may publish there; the supervisor serves everybody."""

    async def main(ward: Ward) -> None:
        stream = WatchedStream("s")
        ward.add(stream)
        for payload in (b"", b"{", b'{"type":"worker.heartbeat"}', b'{"type":"unknown"}', b"\xff"):
            ward.bus.deliver(b"speech.v1.worker.w1.heartbeat", payload)
        ward.hear("w1", {"s": 7})
        assert stream.consumed == [7]
        await asyncio.sleep(HEARTBEAT_S)
        assert ward.n_beats > 1

    run(main)


def test_a_stream_that_its_living_worker_does_not_carry_is_placed_again() -> None:
    """A claim alone carries nothing: the worker may have lost the stream and live on."""

    async def play(ward: Ward) -> None:
        lost, carried = WatchedStream("lost"), WatchedStream("carried")
        ward.add(lost, carried)
        for _ in range(ABSENCES_MAX - 1):
            ward.hear("w1", {"carried": 1})
            await asyncio.sleep(HEARTBEAT_S)
        assert lost.reopened == []
        ward.hear("w1", {"carried": 2})
        await asyncio.sleep(HEARTBEAT_S)
        assert [reason for reason, _ in lost.reopened] == ["worker_lost"]
        assert carried.reopened == []

    run(play)


def test_a_stream_that_is_named_again_in_time_stays() -> None:
    """A worker that has just claimed it may report once without it."""

    async def play(ward: Ward) -> None:
        stream = WatchedStream("s")
        ward.add(stream)
        for _ in range(4):
            for consumed in ({}, {}, {"s": 1}):
                ward.hear("w1", consumed)
                await asyncio.sleep(HEARTBEAT_S)
        assert stream.reopened == []

    run(play)
