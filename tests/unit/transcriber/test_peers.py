"""What a worker does about the streams of another one that is gone."""

import asyncio
import base64
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
import nats.errors
import pytest
from nats.aio.msg import Msg

from speechbus_contracts import (
    JobOpen,
    StreamClaimed,
    WorkerHeartbeat,
    decode_event,
    encode_event,
)
from speechbus_runtime.publisher import AckedPublisher
from speechbus_transcriber.peers import LATE_S, PATIENCE_S, START_S, PeerWatch, find_turn
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import run_virtual

HEARTBEAT_S = 0.2
NOTICED_S = 10.0
"""As the design promises."""


class Log(FakeBus):
    """A bus with a TRANSCRIPT of claims, an acknowledging JOBS, and workers that answer or not."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: dict[str, StreamClaimed] = {}
        self.closed: set[str] = set()
        self.alive: set[str] = set()
        self.jobs: list[tuple[str, int, float]] = []

    def claim(self, stream_id: str, worker: str, *, epoch: int = 1) -> None:
        """Store a claim."""
        self.claims[stream_id] = StreamClaimed(
            stream_id=stream_id,
            tenant="acme",
            epoch=epoch,
            worker=worker,
            provider="echo",
            from_ms=0,
            reason="opened",
            claimed_at=0,
        )

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109 - nats-py's signature
        old_style: bool = False,  # noqa: FBT001, FBT002 - nats-py's signature
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """Answer as JetStream and the workers would."""
        del timeout, old_style, headers
        self.requests.append(subject)
        tokens = subject.split(".")
        if tokens[-1] == "ping":
            if tokens[3] not in self.alive:
                raise nats.errors.NoRespondersError
            return Msg(self, data=b"")
        asked = msgspec.json.decode(payload)
        answer: dict[str, Any]
        if "STREAM.INFO" in subject:
            kind = asked["subjects_filter"].rpartition(".")[2]
            streams = self.claims if kind == "claim" else self.closed
            found = {f"speech.v1.write.acme.{stream}.{kind}": 1 for stream in streams}
            answer = {"state": {"subjects": found}, "total": len(found)}
        else:
            claimed = self.claims[asked["last_by_subj"].split(".")[4]]
            data = base64.b64encode(encode_event(claimed)).decode()
            answer = {"message": {"subject": "", "seq": 1, "data": data}}
        return Msg(self, data=msgspec.json.encode(answer))

    def publish_nowait(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> bool:
        """Keep a job and acknowledge it."""
        job = decode_event(payload)
        assert isinstance(job, JobOpen)
        loop = asyncio.get_running_loop()
        self.jobs.append((job.stream_id, job.epoch, loop.time()))
        loop.call_soon(self.deliver, reply, b'{"stream":"JOBS","seq":1}')
        return super().publish_nowait(subject, payload, reply=reply, headers=headers)

    async def beat_for(self, seconds: float, *workers: str, **consumed: list[str]) -> None:
        """Let workers be heard for a while."""
        for _ in range(round(seconds / HEARTBEAT_S)):
            for worker in workers:
                self.alive.add(worker)
                heartbeat = WorkerHeartbeat(
                    worker=worker,
                    sessions=1,
                    capacity=2,
                    consumed=dict.fromkeys(consumed.get(worker, []), 0),
                )
                self.deliver(
                    f"speech.v1.worker.{worker}.heartbeat".encode(), encode_event(heartbeat)
                )
            await asyncio.sleep(HEARTBEAT_S)


def run(
    main: Callable[[Log], Coroutine[Any, Any, None]], *, carried: Mapping[str, int] | None = None
) -> list[tuple[str, int, float]]:
    """Play beside the watch of worker `me`; return the jobs."""

    async def play() -> list[tuple[str, int, float]]:
        log = Log()
        watch = PeerWatch(
            log, AckedPublisher(log), worker_id="me", carried=lambda: (carried or {}).keys()
        )
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            await main(log)
            watching.cancel()
        return log.jobs

    return run_virtual(play())


def test_what_nobody_has_taken_over_is_placed_within_ten_seconds() -> None:
    """Its ingest has died in the same moment, or it would have been moved long before."""
    died_at_s = 5.0

    async def main(log: Log) -> None:
        for stream in ("s1", "s2"):
            log.claim(stream, "w1", epoch=3)
        await log.beat_for(died_at_s, "w1", "w2", w1=["s1", "s2"])
        log.alive.remove("w1")
        await log.beat_for(NOTICED_S, "w2")

    jobs = run(main)

    assert {(stream, epoch) for stream, epoch, _ in jobs} == {("s1", 4), ("s2", 4)}
    assert len(jobs) == 2
    soonest_s = LATE_S + PATIENCE_S - HEARTBEAT_S
    assert all(soonest_s < at_s - died_at_s < NOTICED_S for _, _, at_s in jobs)


def test_what_has_found_a_worker_is_left_alone() -> None:
    """Streams whose ingest lives have another one long before, perhaps this one."""

    async def main(log: Log) -> None:
        for stream in ("seen", "mine", "claimed"):
            log.claim(stream, "w1")
        await log.beat_for(5, "w1", "w2", w1=["seen", "mine", "claimed"])
        log.alive.remove("w1")
        log.claim("claimed", "w2", epoch=2)
        await log.beat_for(15, "w2", w2=["seen"])

    assert run(main, carried={"mine": 0}) == []


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "is gone"])
def test_a_worker_that_starts_finds_what_was_left_behind(answers: bool) -> None:  # noqa: FBT001
    """With the last worker everybody has died who would have noticed."""

    async def main(log: Log) -> None:
        log.claim("left", "w0", epoch=2)
        log.claim("over", "w0")
        log.closed.add("over")
        log.claim("living", "w1")
        if answers:
            log.alive.add("w0")
        await log.beat_for(START_S + 3, "w1", w1=["living"])

    jobs = run(main)

    assert [(stream, epoch) for stream, epoch, _ in jobs] == ([] if answers else [("left", 3)])


def test_workers_that_kept_their_names_carry_nothing_of_before() -> None:
    """Started again as `me` and `w1`, they are alive and have claims: that alone says nothing."""

    async def main(log: Log) -> None:
        for stream, worker in (("mine", "me"), ("old", "me"), ("theirs", "w1"), ("lost", "w1")):
            log.claim(stream, worker)
        await log.beat_for(2 * START_S + 1, "w1", w1=["theirs"])

    jobs = run(main, carried={"mine": 0})

    assert {(stream, epoch) for stream, epoch, _ in jobs} == {("old", 2), ("lost", 2)}


def test_an_outage_of_nats_says_nothing_about_the_others() -> None:
    """Nobody is heard through it; afterwards everybody gets time to be heard again."""

    async def main(log: Log) -> None:
        log.claim("s1", "w1")
        await log.beat_for(5, "w1", w1=["s1"])
        log.is_away = True
        log.alive.clear()
        await asyncio.sleep(60)
        log.is_away = False
        for hook in log.reconnected:
            await hook()
        await log.beat_for(5, "w1", w1=["s1"])

    assert run(main) == []


def test_workers_take_turns() -> None:
    """A hundred of them would otherwise ask the same four hundred questions at once."""
    workers = [f"w{number}" for number in range(100)]

    turns = [find_turn(worker, workers, lost="w100") for worker in workers]

    assert sorted(turns) == list(range(100))
    assert turns != [find_turn(worker, workers, lost="w101") for worker in workers]
