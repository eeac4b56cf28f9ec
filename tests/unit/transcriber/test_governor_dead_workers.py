"""When a worker is taken for dead."""

import asyncio

from speechbus_transcriber.governor.dead_workers import ASKED_MAX, DEAD_S, DeadWorkers
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import run_virtual


async def answer(_subject: str) -> bytes:
    """As a worker does that lives."""
    return b""


async def wait_for_death(workers: DeadWorkers) -> float:
    """Ask after one worker, once a second, until it is dead; return how long that took."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for _ in range(100):
        if await workers.ask_after({"w"}):
            break
        await asyncio.sleep(1)
    return loop.time() - began_s


def test_a_worker_is_dead_when_it_was_silent_for_long_enough() -> None:
    """One that reconnects to NATS has no responders for a moment, and lives."""

    async def play() -> float:
        bus = FakeBus()
        workers = DeadWorkers(bus)
        for _ in range(int(DEAD_S)):
            assert await workers.ask_after({"w"}) == set()
            await asyncio.sleep(1)
        bus.answer_request = answer
        assert await workers.ask_after({"w"}) == set()
        bus.answer_request = None
        return await wait_for_death(workers)

    assert DEAD_S <= run_virtual(play()) <= DEAD_S + 1


def test_silence_while_this_side_was_away_or_did_not_ask_counts_for_nothing() -> None:
    """It says nothing about the worker."""

    async def play() -> float:
        bus = FakeBus()
        workers = DeadWorkers(bus)
        await workers.ask_after({"w"})
        await asyncio.sleep(60)
        await workers.ask_after(set())
        await asyncio.sleep(60)
        await workers.ask_after({"w"})
        await asyncio.sleep(DEAD_S)
        for hook in bus.disconnected:
            hook()
        return await wait_for_death(workers)

    assert run_virtual(play()) >= DEAD_S


def test_of_many_workers_some_are_asked() -> None:
    """A large pool must not drown the bus in questions."""

    async def play() -> int:
        bus = FakeBus()
        bus.answer_request = answer
        await DeadWorkers(bus).ask_after({str(n) for n in range(500)})
        return len(bus.requests)

    assert run_virtual(play()) == ASKED_MAX
