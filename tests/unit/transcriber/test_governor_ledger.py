"""A credential's slots, whoever writes when, dies, freezes or thaws."""

from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.governor.ledger import EMPTY, Ledger, settle

WORKERS: tuple[str, ...] = ("a", "b", "c", "d")


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """Any ledger of the four, also one that another limit has left."""
    held = draw(st.dictionaries(st.sampled_from(WORKERS), st.integers(1, 6), max_size=4))
    waiting = draw(st.lists(st.sampled_from(WORKERS), unique=True))
    return Ledger(held=held, waiting=tuple(waiting))


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
