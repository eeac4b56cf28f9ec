"""Everything that a subscriber of the transcript tree sees, by stream."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

from speechbus_contracts import AnyEvent, SegmentFinal, StreamClaimed, decode_event
from speechbus_contracts.subjects import TRANSCRIPT_ROOT
from speechbus_runtime.bus import BusConnection

__all__ = ["BusLog", "wait_until"]


class BusLog:
    """Subscribes at once and keeps all events in order."""

    def __init__(self, bus: BusConnection) -> None:
        self.events: dict[str, list[AnyEvent]] = defaultdict(list)
        bus.subscribe_direct(f"{TRANSCRIPT_ROOT}.>", self._receive)

    @property
    def n_with_final(self) -> int:
        """Streams that have a final."""
        return sum(
            any(isinstance(event, SegmentFinal) for event in events)
            for events in self.events.values()
        )

    def streams_of(self, worker: str) -> list[str]:
        """Streams whose last claim is this worker's."""
        return [stream for stream, events in self.events.items() if _owner(events) == worker]

    def assert_only_owners_are_heard(self) -> None:
        """Every event carries the epoch of the claim before it, and epochs grow."""
        for events in self.events.values():
            owner = 0
            for event in events:
                if isinstance(event, StreamClaimed):
                    assert event.epoch > owner
                    owner = event.epoch
                else:
                    assert getattr(event, "epoch", owner) == owner

    def _receive(self, subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        self.events[subject.split(b".")[4].decode()].append(decode_event(payload))


def _owner(events: Sequence[AnyEvent]) -> str | None:
    return next((e.worker for e in reversed(events) if isinstance(e, StreamClaimed)), None)


async def wait_until(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Return as soon as a condition holds; raises TimeoutError when it does not in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 (what is awaited happens in other processes)
            await asyncio.sleep(0.005)
