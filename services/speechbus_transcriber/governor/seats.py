"""The sessions of one credential in one worker, and the slots that they take. Pure."""

import math
from collections.abc import Callable, Collection, Sequence

from speechbus_transcriber.governor.ledger import Ledger, Settled, forget, settle
from speechbus_transcriber.governor.throttle import Throttle
from speechbus_transcriber.providers.registry import Account

__all__ = ["Lease", "Seats", "Ticket"]


def _do_nothing() -> None:
    pass


class Lease:
    """The right to one session with one credential; given back when the session has ended.

    Attributes:
        account: credential to use.
        provider: its provider.
        on_lost: called when the pool has given the slot to somebody else: end the session.
    """

    def __init__(self, account: Account, provider: str, number: int, began_at_s: float) -> None:
        self.account = account
        self.provider = provider
        self.number = number
        self.began_at_s = began_at_s
        self.has_opened = False
        """The connection stood."""
        self.was_heard = False
        """The provider has answered."""
        self.is_lost = False
        self.on_lost: Callable[[], None] = _do_nothing


class Ticket:
    """A session that wants a lease.

    Attributes:
        names: providers that will do, in the order of preference.
        wake: called when there is a lease.
        patient_until_s: before this it wants a slot of the first provider, if that has to do with
            slots only: one will be free in a moment.
        rest_until_s: before this it lets be what is taken for dead.
        lease: None: not yet.
    """

    def __init__(
        self,
        names: Sequence[str],
        wake: Callable[[], None],
        *,
        patient_until_s: float = -math.inf,
        rest_until_s: float = -math.inf,
    ) -> None:
        self.names = names
        self.wake = wake
        self.patient_until_s = patient_until_s
        self.rest_until_s = rest_until_s
        self.lease: Lease | None = None


class Seats:
    """The sessions of one credential in this worker."""

    def __init__(self, account: Account, provider: str) -> None:
        self.account = account
        self.provider = provider
        self.leases: dict[int, Lease] = {}
        """Those that have not been given back, the oldest first."""
        self.spare = 0
        """Slots that are this worker's by right and not used yet."""
        self.ledger: Ledger | None = None
        """As it was read or written last; None: not known."""
        self.sequence = 0
        self.demand = 0
        """Slots that tickets could use besides."""
        self._dead: frozenset[str] = frozenset()
        self.throttle = Throttle()
        self.refused_until_s = -math.inf

    @property
    def limit(self) -> int | None:
        """Sessions that the whole pool may have; None: not known."""
        return self.account.sessions_max

    @property
    def is_scarce(self) -> bool:
        """Whether it matters that those who hold slots still live."""
        if self.ledger is None or self.limit is None:
            return False
        return self.demand > 0 or self.ledger.n_held >= self.limit

    def take(self, ledger: Ledger, sequence: int, *, worker: str) -> list[Lease]:
        """Take the ledger as it was read, heard or written.

        Returns:
            Leases whose slots are not this worker's any more, the newest ones.
        """
        self.ledger, self.sequence = ledger, sequence
        # Who was taken out once, and stands in it again, has come back to life.
        self._dead &= ledger.workers
        standing = [lease for lease in self.leases.values() if not lease.is_lost]
        lost = standing[ledger.held.get(worker, 0) :]
        for lease in lost:
            lease.is_lost = True
        return lost

    def bury(self, dead: Collection[str]) -> None:
        """These workers are dead: the next word about the ledger takes their slots."""
        self._dead = frozenset() if self.ledger is None else self.ledger.workers.intersection(dead)

    def propose(self, worker: str) -> Settled | None:
        """Return what this worker should write, by compare-and-set; None: nothing."""
        if self.ledger is None or self.limit is None:
            return None
        settled = settle(
            forget(self.ledger, self._dead),
            worker,
            held=len(self.leases) + self.spare,
            wanted=self.demand,
            limit=self.limit,
        )
        # What was won is written also where it stands there: only that proves that it is so.
        return settled if settled.n_granted or settled.ledger != self.ledger else None
