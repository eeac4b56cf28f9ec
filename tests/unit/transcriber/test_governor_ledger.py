"""A credential's slots, whoever writes when, dies, freezes or thaws."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from speechbus_transcriber.governor.ledger import EMPTY, Ledger, forget, settle

WORKERS = ("a", "b", "c", "d")


def ledgers() -> st.SearchStrategy[Ledger]:
    """Any ledger of the four, also one that another limit has left."""
    return st.builds(
        lambda held, waiting: Ledger(held=held, waiting=tuple(waiting)),
        st.dictionaries(st.sampled_from(WORKERS), st.integers(1, 6), max_size=4),
        st.permutations(WORKERS).flatmap(lambda order: st.integers(0, 4).map(lambda n: order[:n])),
    )


@given(
    ledger=ledgers(),
    worker=st.sampled_from(WORKERS),
    held=st.integers(0, 8),
    wanted=st.integers(0, 8),
    limit=st.integers(1, 12),
)
def test_no_turn_takes_more_than_there_is_nor_from_others(
    ledger: Ledger, worker: str, held: int, wanted: int, limit: int
) -> None:
    """What others hold stays; what is held never grows above the limit."""
    settled = settle(ledger, worker, held=held, wanted=wanted, limit=limit)
    after = settled.ledger

    assert after.n_held <= max(limit, ledger.n_held)
    assert {**after.held, worker: 0} == {**ledger.held, worker: 0}
    assert after.held.get(worker, 0) <= min(held, ledger.held.get(worker, 0)) + settled.n_granted
    assert 0 <= settled.n_granted <= wanted
    assert (worker in after.waiting) == (settled.n_granted < wanted)
    assert len(set(after.waiting)) == len(after.waiting)


@given(ledger=ledgers(), wanted=st.integers(0, 8), limit=st.integers(1, 12))
def test_a_turn_twice_is_a_turn_once_unless_there_was_something_to_win(
    ledger: Ledger, wanted: int, limit: int
) -> None:
    """Who has nothing to say does not write: a pool that waits is silent."""
    first = settle(ledger, "a", held=0, wanted=wanted, limit=limit)
    if first.n_granted == 0:
        assert settle(first.ledger, "a", held=0, wanted=wanted, limit=limit) == first


def test_who_has_waited_longest_is_served_first_and_goes_to_the_end() -> None:
    """A worker whose sessions come and go must not keep its slots from all others."""
    ledger = Ledger(held={"a": 2})
    for name in ("b", "c"):
        ledger = settle(ledger, name, held=0, wanted=5, limit=2).ledger
    freed = settle(ledger, "a", held=1, wanted=3, limit=2)

    assert (freed.n_granted, freed.ledger.waiting) == (0, ("b", "c", "a"))
    assert settle(freed.ledger, "c", held=0, wanted=5, limit=2).n_granted == 0
    served = settle(freed.ledger, "b", held=0, wanted=5, limit=2)
    assert (served.n_granted, served.ledger.waiting) == (1, ("c", "a", "b"))


def test_free_slots_are_shared_among_those_who_wait() -> None:
    """Many streams of one worker do not take all of them."""
    ledger = Ledger(waiting=("a", "b"))

    assert settle(ledger, "a", held=0, wanted=9, limit=6).n_granted == 3
    assert settle(EMPTY, "a", held=0, wanted=9, limit=6).n_granted == 6


class Pool(RuleBasedStateMachine):
    """Four workers, each with its own view, and a store that compares and sets."""

    @initialize(limit=st.integers(1, 5))
    def begin(self, limit: int) -> None:
        """Nobody has anything."""
        self.limit = limit
        self.stored, self.sequence = EMPTY, 0
        self.views = dict.fromkeys(WORKERS, (EMPTY, 0))
        self.used = dict.fromkeys(WORKERS, 0)
        self.frozen: set[str] = set()
        self.forgotten: set[str] = set()

    @rule(worker=st.sampled_from(WORKERS))
    def read(self, worker: str) -> None:
        """A message arrives; who has lost slots drops their sessions at once."""
        if worker not in self.frozen:
            self.views[worker] = self.stored, self.sequence
            self.used[worker] = min(self.used[worker], self.stored.held.get(worker, 0))
            self.forgotten.discard(worker)

    @rule(worker=st.sampled_from(WORKERS), wanted=st.integers(0, 4), released=st.integers(0, 4))
    def take_turn(self, worker: str, wanted: int, released: int) -> None:
        """Give back, take, and write if nobody else has written since the view."""
        if worker in self.frozen:
            return
        self.used[worker] = max(0, self.used[worker] - released)
        view, sequence = self.views[worker]
        dead = self.frozen - {worker}
        settled = settle(
            forget(view, dead), worker, held=self.used[worker], wanted=wanted, limit=self.limit
        )
        if sequence == self.sequence:
            self.stored, self.sequence = settled.ledger, self.sequence + 1
            self.views[worker] = self.stored, self.sequence
            self.used[worker] += settled.n_granted
            self.forgotten |= dead

    @rule(worker=st.sampled_from(WORKERS))
    def freeze(self, worker: str) -> None:
        """It stands still, and others may take its slots; a dead one never thaws."""
        self.frozen.add(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def thaw(self, worker: str) -> None:
        """It goes on with the view that it had."""
        self.frozen.discard(worker)

    @invariant()
    def nobody_has_more_than_there_is(self) -> None:
        """Sessions of all workers whose slots nobody has taken from them."""
        if hasattr(self, "used"):
            assert self.stored.n_held <= self.limit
            counted = sum(n for name, n in self.used.items() if name not in self.forgotten)
            assert counted <= self.limit


TestPool = Pool.TestCase
