"""Events on their way to a client that may be slow."""

import asyncio

import pytest

from speechbus_ingest.doors.outbox import EVENTS_MAX, LIVE_MAX, Outbox, OutboxFullError
from tests.support.virtual_time import run_virtual


def test_events_come_in_order_and_all_at_once() -> None:
    """One socket write for everything that came since the last."""

    async def main() -> None:
        outbox = Outbox()
        outbox.take_event("partial", b"1")
        outbox.take_event("final", b"2")
        assert await outbox.next_events() == [("partial", b"1"), ("final", b"2")]
        outbox.take_event("turn", b"3")
        assert await outbox.next_events() == [("turn", b"3")]

    run_virtual(main())


def test_a_client_waits_until_something_comes() -> None:
    """No polling: a thousand quiet streams cost nothing."""

    async def main() -> None:
        outbox = Outbox()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(outbox.next_events())
            asyncio.get_running_loop().call_later(60, outbox.take_event, "final", b"late")
        assert waiting.result() == [("final", b"late")]

    run_virtual(main())


@pytest.mark.parametrize("kind", ["partial", "turn"])
def test_a_slow_client_misses_what_newer_events_replace(kind: str) -> None:
    """Partials pile up fastest, and nobody reads old ones."""

    async def main() -> None:
        outbox = Outbox()
        for number in range(LIVE_MAX + 10):
            outbox.take_event(kind, b"%d" % number)
        outbox.take_event("final", b"final")
        events = await outbox.next_events()
        assert len(events) == LIVE_MAX + 1
        assert events[-1] == ("final", b"final")

    run_virtual(main())


def test_a_client_that_is_far_too_slow_is_told_so_and_holds_no_memory() -> None:
    """It would miss a final: better an error than a transcript with a hole."""

    async def main() -> None:
        outbox = Outbox()
        for number in range(EVENTS_MAX):
            outbox.take_event("final", b"%d" % number)
        assert len(await outbox.next_events()) == EVENTS_MAX
        for number in range(EVENTS_MAX + 1):
            outbox.take_event("final", b"%d" % number)
        for _ in range(2):
            with pytest.raises(OutboxFullError):
                await outbox.next_events()

    run_virtual(main())
