"""Which waiting session gets which credential of which provider. Pure.

Sessions ask with tickets, in the order in which they come. A credential without a limit has room
unless it is paused; one with a limit needs a slot of the pool's ledger.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal

from speechbus_transcriber.governor.ledger import settle
from speechbus_transcriber.governor.seats import Lease, Seats, Ticket
from speechbus_transcriber.providers.registry import Provider

__all__ = ["Admission", "WithoutSlot"]

WithoutSlot = Literal["next", "wait"]

REFUSED_S: Final = 300.0
"""A credential that was refused is left out this long, while others work."""


class Admission:
    """All tickets and leases of a worker.

    Args:
        providers: with their credentials.
        worker: its name in the ledgers.
        without_slot: `next`: a ticket takes what has room first, in its order; `wait`: it takes
            the first that is not dead.
    """

    def __init__(
        self, providers: Mapping[str, Provider], *, worker: str, without_slot: WithoutSlot
    ) -> None:
        self._worker = worker
        self._without_slot = without_slot
        self._tickets: list[Ticket] = []
        self._n_leases = 0
        self.seats: Mapping[str, Sequence[Seats]] = {
            name: [Seats(account, name) for account in provider.accounts]
            for name, provider in providers.items()
        }
        """Of each provider."""
        self.by_id: Mapping[str, Seats] = {
            seats.account.id: seats for group in self.seats.values() for seats in group
        }

    def add(self, ticket: Ticket) -> None:
        """A session wants a lease."""
        self._tickets.append(ticket)

    def withdraw(self, ticket: Ticket) -> None:
        """It does not any more, or has one."""
        if ticket in self._tickets:
            self._tickets.remove(ticket)

    def give_back(self, lease: Lease, *, now_s: float) -> None:
        """A session has ended."""
        seats = self.by_id[lease.account.id]
        if seats.leases.pop(lease.number, None) is None:
            return
        seats.throttle.end(lease.number, has_worked=lease.was_heard, now_s=now_s)
        # Handed on within the worker where no other worker waits: that takes no write.
        if not lease.is_lost and seats.ledger is not None:
            seats.spare += all(name == self._worker for name in seats.ledger.waiting)

    def is_refused(self, account_id: str, *, now_s: float) -> bool:
        """Whether a credential is left out."""
        return self.by_id[account_id].refused_until_s > now_s

    def refuse(self, lease: Lease, *, now_s: float) -> bool:
        """A credential was refused; return whether its provider has others."""
        group = self.seats[lease.provider]
        self.by_id[lease.account.id].refused_until_s = now_s + REFUSED_S
        if any(seats.refused_until_s <= now_s for seats in group):
            return True
        for seats in group:
            seats.refused_until_s = -math.inf  # else nobody would notice that it is accepted again
        return False

    def place(self, *, now_s: float, dead: Collection[str]) -> list[Ticket]:
        """Give leases to tickets, and count what is wanted of each ledger.

        Args:
            now_s: the caller's clock.
            dead: providers that nobody should ask who can go elsewhere.

        Returns:
            Tickets that have a lease now.
        """
        room: dict[str, float] = {}
        demand: Counter[str] = Counter()
        placed: list[Ticket] = []
        for ticket in self._tickets:
            well = [name for name in ticket.names if name not in dead]
            if not well and now_s < ticket.rest_until_s:
                continue
            names = well or ticket.names
            is_patient = now_s < ticket.patient_until_s and any(
                self._is_usable(seats, now_s=now_s) for seats in self.seats[names[0]]
            )
            if is_patient or self._without_slot == "wait":
                names = names[:1]
            if not self._place_one(ticket, names, room, demand, now_s=now_s):
                continue
            placed.append(ticket)
        for ticket in placed:
            self._tickets.remove(ticket)
        for seats in self.by_id.values():
            seats.spare = 0
            seats.demand = demand[seats.account.id]
        return placed

    def next_at_s(self, *, now_s: float) -> float | None:
        """When `place` may have another outcome by itself; None: never."""
        if not self._tickets:
            return None
        times_s = [seats.throttle.next_at_s(now_s=now_s) for seats in self.by_id.values()]
        times_s += [seats.refused_until_s for seats in self.by_id.values()]
        times_s += [ticket.patient_until_s for ticket in self._tickets]
        times_s += [ticket.rest_until_s for ticket in self._tickets]
        return min((at_s for at_s in times_s if at_s is not None and at_s > now_s), default=None)

    def _place_one(
        self,
        ticket: Ticket,
        names: Sequence[str],
        room: dict[str, float],
        demand: Counter[str],
        *,
        now_s: float,
    ) -> bool:
        possible: list[Seats] = []
        for name in names:
            group = [seats for seats in self.seats[name] if self._is_usable(seats, now_s=now_s)]
            group.sort(key=self._rank, reverse=True)
            if group and (group[0].limit is None or group[0].spare):
                ticket.lease = self._give(group[0], now_s=now_s)
                return True
            for seats in group:
                # The ledger seems to have room: its answer is worth waiting for.
                if self._take_room(seats, room):
                    demand[seats.account.id] += 1
                    return False
            possible += group
        for seats in possible:
            demand[seats.account.id] += 1
        return False

    def _is_usable(self, seats: Seats, *, now_s: float) -> bool:
        return seats.refused_until_s <= now_s and seats.throttle.has_room(now_s=now_s)

    def _rank(self, seats: Seats) -> tuple[bool, float]:
        """Most relative room first."""
        if seats.limit is None:
            return True, -len(seats.leases)
        n_held = 0 if seats.ledger is None else seats.ledger.n_held
        return seats.spare > 0, -n_held / seats.limit

    def _take_room(self, seats: Seats, room: dict[str, float]) -> bool:
        name = seats.account.id
        if name not in room:
            room[name] = self._count_room(seats)
        room[name] -= 1
        return room[name] >= 0

    def _count_room(self, seats: Seats) -> float:
        if seats.limit is None or seats.ledger is None:
            return math.inf
        held = len(seats.leases)
        return settle(
            seats.ledger, self._worker, held=held, wanted=seats.limit, limit=seats.limit
        ).n_granted

    def _give(self, seats: Seats, *, now_s: float) -> Lease:
        self._n_leases += 1
        lease = Lease(seats.account, seats.provider, self._n_leases, now_s)
        seats.leases[lease.number] = lease
        seats.throttle.begin(lease.number)
        if seats.limit is not None:
            seats.spare -= 1
        return lease
