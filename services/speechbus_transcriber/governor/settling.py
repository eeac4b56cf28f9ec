"""Keeps the ledgers of limited credentials true to what this worker has and wants."""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.publisher import PublishRefusedError, StaleGuardError
from speechbus_transcriber.governor.dead_workers import DeadWorkers
from speechbus_transcriber.governor.ledger import Ledger
from speechbus_transcriber.governor.seats import Seats
from speechbus_transcriber.governor.shared_state import SharedState

__all__ = ["Settling"]

logger = logging.getLogger(__name__)

WRITE_S: Final = 2.0
"""A write that takes longer has an unknown end, and the ledger may have moved on: it is read
again. Less than `DEAD_S`: who was frozen in between does not use a slot that was taken away."""
RETRY_S: Final = 0.25


class Settling:
    """The ledgers of all credentials.

    Args:
        bus: control connection.
        state: shared with the pool.
        seats: of all credentials; those without a limit have no ledger.
        worker_id: this worker.
        place: called when there may be more to give to sessions.

    Attributes:
        n_lost: sessions ended because their slots had gone to others.
    """

    def __init__(
        self,
        bus: BusConnection,
        state: SharedState,
        seats: Collection[Seats],
        *,
        worker_id: str,
        place: Callable[[], None],
    ) -> None:
        self._state = state
        self._seats = [one for one in seats if one.limit is not None]
        self._worker_id = worker_id
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._dead_workers = DeadWorkers(bus)
        self._changed = asyncio.Event()
        self._changed.set()
        self._settled = asyncio.Event()
        self.n_lost = 0

    def wake(self) -> None:
        """Something may have to be written."""
        self._changed.set()

    def hear(self, seats: Seats, ledger: Ledger, sequence: int) -> None:
        """Take a ledger that somebody has written; older ones are dropped."""
        if seats in self._seats and sequence > seats.sequence:
            self._take(seats, ledger, sequence)

    def distrust(self) -> None:
        """What is known of the ledgers may be out of date: read them again."""
        self._dead_workers.start_anew()
        for seats in self._seats:
            seats.ledger = None
            seats.bury(())
        self._changed.set()

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for seats in self._seats:
                if not await self._settle(seats):
                    self._changed.set()
                    await asyncio.sleep(RETRY_S)
            self._settled.set()

    async def wait_until_out(self) -> None:
        """Return when this worker stands in no ledger any more; its sessions have ended."""
        while any(
            seats.ledger is not None and self._worker_id in seats.ledger.workers
            for seats in self._seats
        ):
            self._settled.clear()
            await self._settled.wait()

    async def ask_after_workers(self) -> None:
        """Where there are no free slots: find out whether those who have them still live."""
        others: set[str] = set()
        for seats in self._seats:
            if seats.is_scarce and seats.ledger is not None:
                others |= seats.ledger.workers
        dead = await self._dead_workers.ask_after(others - {self._worker_id})
        for seats in self._seats:
            seats.bury(dead)
        if dead:
            self._changed.set()

    async def _settle(self, seats: Seats) -> bool:
        """Bring a credential's ledger up to date; False: it could not be reached."""
        while True:
            began_s = self._loop.time()
            try:
                async with asyncio.timeout(WRITE_S):
                    is_done = await self._settle_once(seats, began_s)
            except StaleGuardError:
                seats.ledger = None  # somebody was quicker
            except (TimeoutError, JetStreamUnavailableError, PublishRefusedError):
                seats.ledger = None
                return False
            else:
                if is_done:
                    return True

    async def _settle_once(self, seats: Seats, began_s: float) -> bool:
        """Write what the ledger should be; return whether it was that before."""
        name = seats.account.id
        if seats.ledger is None:
            read, sequence = await self._state.read_ledger(name)
            if sequence >= seats.sequence:
                self._take(seats, read, sequence)
            self._place()
        settled = seats.propose(self._worker_id)
        if settled is None:
            return seats.ledger is not None  # else it was lost sight of again
        sequence = await self._state.replace(
            "slots", name, settled.ledger, last_sequence=seats.sequence
        )
        if self._loop.time() - began_s > WRITE_S:
            raise TimeoutError  # frozen meanwhile: the slots may be somebody else's by now
        if sequence > seats.sequence:
            self._take(seats, settled.ledger, sequence)
        seats.spare += settled.n_granted
        self._place()
        return False

    def _take(self, seats: Seats, ledger: Ledger, sequence: int) -> None:
        lost = seats.take(ledger, sequence, worker=self._worker_id)
        self.n_lost += len(lost)
        for lease in lost:
            logger.warning("a slot has gone to another worker", extra={"provider": lease.provider})
            lease.on_lost()
