"""A task that is cancelled ends."""

import asyncio

import pytest

from speechbus_runtime.cancellation import keeps_cancellation


@pytest.mark.parametrize("outcome", [None, ConnectionError()], ids=["answer", "error"])
def test_a_cancellation_that_comes_with_the_answer_is_not_forgotten(
    outcome: Exception | None,
) -> None:
    """A service that is stopped in that moment would hang until it is killed."""

    async def run() -> bool:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def ask() -> None:
            with keeps_cancellation():
                await asyncio.wait_for(answer, 60)  # noqa: TID251 (what nats-py does)

        asking = asyncio.create_task(ask())  # noqa: TID251 (awaited below)
        await asyncio.sleep(0)
        if outcome is None:
            answer.set_result(None)
        else:
            answer.set_exception(outcome)
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        return asking.cancelled()

    assert asyncio.run(run())


def test_an_answer_without_a_cancellation_comes_back() -> None:
    """Also in a task that was cancelled before, and is cleaning up."""

    async def run() -> str:
        async def ask() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                with keeps_cancellation():
                    return await asyncio.wait_for(asyncio.sleep(0, "done"), 60)  # noqa: TID251
            return "not cancelled"

        asking = asyncio.create_task(ask())  # noqa: TID251 (awaited below)
        await asyncio.sleep(0)
        asking.cancel()
        return await asking

    assert asyncio.run(run()) == "done"
