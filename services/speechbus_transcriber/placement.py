"""Offers this worker's free slots to the queue of waiting streams.

A worker pulls in ten priority slices of its capacity: the server serves the lowest priority first,
so streams go to whoever carries the least in relation to what it can (nats.md 3).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from speechbus_contracts import (
    JOBS_CONSUMER,
    JOBS_PRIORITY_GROUP,
    JOBS_STORE,
    ContractError,
    JobOpen,
    decode_event,
)
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.tracing import read_traceparent

__all__ = ["SLICES", "JobPuller", "count_deliveries", "free_by_slice"]

logger = logging.getLogger(__name__)

SLICES: Final = 10
"""The server knows priorities 0 to 9."""
PULL_S: Final = 1.0
"""Pulls are renewed this often and expire by themselves: those of a frozen worker attract jobs no
longer than this, and a reconnect loses no more than one round."""
_NEXT: Final = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS_STORE}.{JOBS_CONSUMER}".encode()
ACK: Final = b"+ACK"
NAK: Final = b"-NAK"
LATER_S: Final = 0.5
LATER: Final = b'-NAK {"delay": %d}' % (LATER_S * 1e9)
"""Longer than an answer takes, and short beside an election."""


def free_by_slice(*, capacity: int, carried: int) -> list[int]:
    """Split the free slots of a worker into priority slices, lowest priority first.

    Args:
        capacity: streams it can carry.
        carried: streams it carries.

    Returns:
        `SLICES` numbers whose sum is `capacity - carried` (0 if that is negative).
    """
    free: list[int] = []
    for slice_number in range(SLICES):
        low = capacity * slice_number // SLICES
        high = capacity * (slice_number + 1) // SLICES
        free.append(high - max(low, min(carried, high)))
    return free


def count_deliveries(reply: bytes) -> int:
    """Return how often a message was delivered, this time included.

    Args:
        reply: where it is acknowledged: `$JS.ACK.<store>.<consumer>.<deliveries>.…` of nine tokens;
            longer ones have two more before the store (ADR-15 of NATS).
    """
    tokens = reply.split(b".")
    return int(tokens[4] if len(tokens) == 9 else tokens[6])


class JobPuller:
    """Pulls jobs and hands them on.

    Args:
        bus: connection for pulls and acknowledgements.
        capacity: streams this worker can carry.
        carried: tells how many it carries now.
        take: gets each job, the subject to acknowledge it on, and its `traceparent`; False: no room
            after all.
    """

    def __init__(
        self,
        bus: BusConnection,
        *,
        capacity: int,
        carried: Callable[[], int],
        take: Callable[[JobOpen, bytes, str], bool],
    ) -> None:
        self._bus = bus
        self._capacity = capacity
        self._carried = carried
        self._take = take
        self._inbox = bus.new_inbox().encode()
        self._is_stopped = False
        self._sid = bus.subscribe_direct(self._inbox.decode(), self._receive)

    async def run(self) -> None:
        """Renew the pulls until `stop`."""
        while not self._is_stopped:
            for priority, batch in enumerate(
                free_by_slice(capacity=self._capacity, carried=self._carried())
            ):
                if batch:
                    self._pull(priority, batch)
            await asyncio.sleep(PULL_S)

    def stop(self) -> None:
        """Take no more; what still comes goes back at once.

        Without a subscriber the server drops the open pulls, which would draw this worker's own
        jobs back again and again.
        """
        self._is_stopped = True
        self._bus.unsubscribe_direct(self._sid)

    def acknowledge(self, reply: bytes) -> None:
        """The job is claimed or stale: nobody needs to see it again."""
        self._bus.publish_nowait(reply, ACK)

    def refuse(self, reply: bytes) -> None:
        """Give the job to somebody else."""
        self._bus.publish_nowait(reply, NAK)

    def postpone(self, reply: bytes, *, times_max: int | None = None) -> bool:
        """Have the job delivered again, to anybody, in `LATER_S`.

        Returns:
            False: it has been delivered `times_max` times already, and stays with this worker.
        """
        if times_max is not None and count_deliveries(reply) >= times_max:
            return False
        self._bus.publish_nowait(reply, LATER)
        return True

    def _pull(self, priority: int, batch: int) -> None:
        request = {
            "batch": batch,
            "expires": int(PULL_S * 1e9),
            "group": JOBS_PRIORITY_GROUP,
            "priority": priority,
        }
        self._bus.publish_nowait(_NEXT, msgspec.json.encode(request), reply=self._inbox)

    def _receive(self, _subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        if headers[9:12].isdigit() or not reply:
            return  # a pull that expired or was answered with a status; the next round renews it
        try:
            job = decode_event(payload)
        except ContractError:
            job = None
        if not isinstance(job, JobOpen):
            logger.warning("a job that is none was removed")
            self.acknowledge(reply)
        elif self._is_stopped or not self._take(job, reply, read_traceparent(headers)):
            self.refuse(reply)
