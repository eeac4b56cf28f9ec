"""The slots of one credential: who holds how many, and who is served next. Pure.

The ledger is one message on the bus, changed by compare-and-set. A slot is a session that may be
open at the provider.
"""

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

__all__ = ["EMPTY", "Ledger", "Settled", "forget", "settle"]


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """Slots of one credential."""

    held: Mapping[str, int] = {}
    """Slots by worker; workers without any are left out."""
    waiting: tuple[str, ...] = ()
    """Workers that want more, in the order in which they are served."""

    @property
    def n_held(self) -> int:
        """Slots that are not free."""
        return sum(self.held.values())

    @property
    def workers(self) -> frozenset[str]:
        """Everybody who stands in it."""
        return frozenset(self.held) | frozenset(self.waiting)


class Settled(msgspec.Struct, frozen=True):
    """What a worker wants to be written."""

    ledger: Ledger
    n_granted: int
    """Slots that the worker has won, once it is written."""


EMPTY: Final = Ledger()


def settle(ledger: Ledger, worker: str, *, held: int, wanted: int, limit: int) -> Settled:
    """Return the ledger as it should be after one worker's turn.

    Slots that the worker does not use go back, and it takes what it wants of the free ones: those
    who have waited longer are served first, and who shares the rest takes no more than its part
    and goes to the end, so that no worker's streams wait for all of another's.

    Args:
        ledger: as it is.
        worker: whose turn it is.
        held: slots that it uses.
        wanted: slots that it could use besides.
        limit: slots that there are.
    """
    kept = min(held, ledger.held.get(worker, 0))
    others = {name: n for name, n in ledger.held.items() if name != worker}
    place = len(ledger.waiting)
    if worker in ledger.waiting:
        place = ledger.waiting.index(worker)
    n_behind = len(ledger.waiting[place + 1 :])
    n_free = limit - sum(others.values()) - kept - place
    granted = 0
    if n_free > 0:
        granted = min(wanted, max(1, n_free // (n_behind + 1)))
    waiting = [name for name in ledger.waiting if name != worker]
    if wanted > granted:
        waiting.insert(len(waiting) if granted else place, worker)
    if kept + granted:
        others[worker] = kept + granted
    return Settled(Ledger(held=others, waiting=tuple(waiting)), granted)


def forget(ledger: Ledger, dead: Collection[str]) -> Ledger:
    """Return the ledger without these workers."""
    return Ledger(
        held={name: n for name, n in ledger.held.items() if name not in dead},
        waiting=tuple(name for name in ledger.waiting if name not in dead),
    )
