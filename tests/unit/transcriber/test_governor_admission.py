"""Who gets which credential, and that no pool of workers takes more than there is."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from speechbus_transcriber.governor.admission import REFUSED_S, Admission, WithoutSlot
from speechbus_transcriber.governor.ledger import EMPTY, Ledger
from speechbus_transcriber.governor.seats import Lease, Ticket
from speechbus_transcriber.providers.echo import CAPABILITIES, EchoProtocol
from speechbus_transcriber.providers.registry import Account, Provider

LIMITS: dict[str, Sequence[int | None]] = {"full": [2, 2], "open": [None]}


def build(
    limits: dict[str, Sequence[int | None]] = LIMITS,
    *,
    without_slot: WithoutSlot = "next",
    worker: str = "me",
) -> Admission:
    """An admission to providers with so many sessions for each of their credentials."""
    providers = {
        name: Provider(
            capabilities=CAPABILITIES,
            accounts=tuple(
                Account(id=f"{name}-{n}", sessions_max=limit, open_protocol=EchoProtocol)
                for n, limit in enumerate(each)
            ),
        )
        for name, each in limits.items()
    }
    return Admission(providers, worker=worker, without_slot=without_slot)


def ask(admission: Admission, *names: str, dead: Sequence[str] = ()) -> Ticket:
    """A ticket, which may have a lease at once."""
    ticket = Ticket(names, lambda: None)
    admission.add(ticket)
    admission.place(now_s=0.0, dead=dead)
    return ticket


def write(admission: Admission) -> None:
    """Write all ledgers, as the only worker."""
    for seats in admission.by_id.values():
        settled = seats.propose("me")
        if settled is not None:
            seats.take(settled.ledger, seats.sequence + 1, worker="me")
            seats.spare += settled.n_granted
    admission.place(now_s=0.0, dead=())


def know_ledgers(admission: Admission, **held: int) -> None:
    """Say what stands in the ledgers."""
    for seats in admission.by_id.values():
        if seats.limit is not None:
            n_others = held.get(seats.account.id.replace("-", "_"), 0)
            seats.take(Ledger(held={"other": n_others}) if n_others else EMPTY, 1, worker="me")


def account_of(ticket: Ticket) -> str | None:
    """The credential that a ticket has."""
    return None if ticket.lease is None else ticket.lease.account.id


def test_without_a_limit_a_session_begins_at_once() -> None:
    """And nothing is written for it."""
    admission = build()

    assert account_of(ask(admission, "open")) == "open-0"
    assert all(seats.propose("me") is None for seats in admission.by_id.values())


def test_the_credential_with_most_room_is_used() -> None:
    """Relative to what it may have."""
    admission = build({"full": [4, 4], "open": [None, None]})
    know_ledgers(admission, full_0=2, full_1=1)
    first = ask(admission, "full")
    write(admission)

    assert account_of(first) == "full-1"
    assert {account_of(ask(admission, "open")) for _ in range(2)} == {"open-0", "open-1"}


def test_without_a_slot_a_stream_goes_on_to_the_next_or_waits_as_is_set() -> None:
    """The pool's ledger says that there is none, without a question to the provider."""
    moving = build(without_slot="next")
    know_ledgers(moving, full_0=2, full_1=2)
    assert account_of(ask(moving, "full", "open")) == "open-0"

    waiting = build(without_slot="wait")
    know_ledgers(waiting, full_0=2, full_1=2)
    ticket = ask(waiting, "full", "open")
    write(waiting)
    assert ticket.lease is None
    assert waiting.by_id["full-0"].ledger == Ledger(held={"other": 2}, waiting=("me",))
    waiting.by_id["full-1"].take(EMPTY, 3, worker="me")
    waiting.place(now_s=1.0, dead=())
    write(waiting)
    assert account_of(ticket) == "full-1"
    write(waiting)  # it does not wait for the other one any more
    assert waiting.by_id["full-0"].ledger == Ledger(held={"other": 2})


def test_a_stream_whose_former_session_ends_waits_a_moment_for_its_slot() -> None:
    """A pool whose slots are all in use is drained: nobody has to change the provider for that."""
    admission = build({"full": [1], "open": [None]})
    know_ledgers(admission, full_0=1)
    ticket = Ticket(("full", "open"), lambda: None, patient_until_s=1.5)
    admission.add(ticket)
    admission.place(now_s=0.0, dead=())
    assert (ticket.lease, admission.next_at_s(now_s=0.0)) == (None, 1.5)
    admission.place(now_s=1.5, dead=())
    assert account_of(ticket) == "open-0"

    # A pause is no matter of a moment.
    admission.by_id["full-0"].throttle.refuse(began_at_s=0.0, retry_after_s=None, now_s=2.0)
    hasty = Ticket(("full", "open"), lambda: None, patient_until_s=3.5)
    admission.add(hasty)
    admission.place(now_s=2.0, dead=())
    assert account_of(hasty) == "open-0"


def test_a_dead_provider_is_skipped_unless_there_is_no_other() -> None:
    """Also by those that would rather wait."""
    for without_slot in ("next", "wait"):
        admission = build({"a": [None], "b": [None]}, without_slot=without_slot)

        assert account_of(ask(admission, "a", "b", dead=["a"])) == "b-0"
        assert account_of(ask(admission, "a", dead=["a"])) == "a-0"


def test_a_dead_provider_is_let_be_for_a_while_unless_it_is_found_well() -> None:
    """The pool's handshakes tell sooner than the sessions of a hundred streams, and for less."""
    admission = build({"a": [None]})
    first = Ticket(["a"], lambda: None, rest_until_s=15.0)
    admission.add(first)

    assert admission.place(now_s=14.9, dead=["a"]) == []
    assert admission.next_at_s(now_s=14.9) == 15.0
    assert admission.place(now_s=15.0, dead=["a"]) == [first]

    second = Ticket(["a"], lambda: None, rest_until_s=30.0)
    admission.add(second)
    assert admission.place(now_s=20.0, dead=[]) == [second]


def test_a_refused_credential_is_left_out_while_others_work() -> None:
    """One expired key of several takes no provider down; the last one is asked again."""
    admission = build({"open": [None, None]})
    first = ask(admission, "open").lease
    assert first is not None
    assert admission.refuse(first, now_s=0.0)
    admission.give_back(first, now_s=0.0)
    others = [ask(admission, "open").lease for _ in range(3)]
    assert {one.account.id for one in others if one} == {"open-1"}
    assert not admission.is_refused("open-0", now_s=REFUSED_S)

    assert others[0] is not None
    assert not admission.refuse(others[0], now_s=1.0)
    assert account_of(ask(admission, "open")) == "open-0"


def test_a_slot_is_handed_on_within_the_worker_unless_another_one_waits() -> None:
    """The first needs no write; with the second, no worker keeps its slots for ever."""
    admission = build({"full": [1]})
    seats = admission.by_id["full-0"]
    know_ledgers(admission)
    first, second = ask(admission, "full"), ask(admission, "full")
    write(admission)
    assert first.lease is not None
    assert second.lease is None
    admission.give_back(first.lease, now_s=1.0)
    admission.place(now_s=1.0, dead=())
    assert second.lease is not None

    third = ask(admission, "full")
    seats.take(Ledger(held={"me": 1}, waiting=("other",)), 9, worker="me")
    admission.give_back(second.lease, now_s=2.0)
    admission.place(now_s=2.0, dead=())
    write(admission)
    assert third.lease is None
    assert seats.ledger == Ledger(waiting=("other", "me"))


def test_a_session_can_hold_two_leases_for_a_planned_change() -> None:
    """A second one while the first runs; without a free slot it has to wait for the first."""
    admission = build({"full": [2]})
    know_ledgers(admission)
    tickets = [ask(admission, "full") for _ in range(3)]
    write(admission)

    assert [account_of(ticket) for ticket in tickets] == ["full-0", "full-0", None]


class Pool(RuleBasedStateMachine):
    """Two workers at one credential; the store compares and sets."""

    @initialize(limit=st.integers(1, 3))
    def begin(self, limit: int) -> None:
        """Nobody has anything."""
        self.limit = limit
        self.stored, self.sequence = EMPTY, 0
        self.workers = {name: build({"full": [limit]}, worker=name) for name in ("a", "b")}
        for admission in self.workers.values():
            admission.by_id["full-0"].take(EMPTY, 0, worker="nobody")
        self.leases: dict[str, list[Lease]] = {name: [] for name in self.workers}
        self.closing: dict[str, list[Lease]] = {name: [] for name in self.workers}
        self.frozen: set[str] = set()
        self.robbed: set[str] = set()

    def place(self, name: str) -> None:
        """Give out what a worker has."""
        for ticket in self.workers[name].place(now_s=0.0, dead=()):
            assert ticket.lease is not None
            self.leases[name].append(ticket.lease)

    @rule(name=st.sampled_from("ab"))
    def want(self, name: str) -> None:
        """A session is asked for."""
        if name not in self.frozen:
            self.workers[name].add(Ticket(("full",), lambda: None))
            self.place(name)

    @rule(name=st.sampled_from("ab"), is_lost=st.booleans())
    def end(self, name: str, *, is_lost: bool) -> None:
        """A session has ended on both sides, by itself or because its slot was lost."""
        ended = (self.closing if is_lost else self.leases)[name]
        if name not in self.frozen and ended:
            self.workers[name].give_back(ended.pop(0), now_s=0.0)
            self.place(name)

    def hear(self, name: str) -> None:
        """The newest message arrives; whoever has lost slots closes the sessions at once."""
        seats = self.workers[name].by_id["full-0"]
        if self.sequence <= seats.sequence:
            return
        lost = seats.take(self.stored, self.sequence, worker=name)
        for lease in lost:
            self.leases[name].remove(lease)
            self.closing[name].append(lease)
        self.robbed.discard(name)
        self.place(name)

    @rule(name=st.sampled_from("ab"), hears=st.booleans())
    def write(self, name: str, *, hears: bool) -> None:
        """Compare and set, with the newest message read before, or not."""
        if name in self.frozen:
            return
        if hears:
            self.hear(name)
        seats = self.workers[name].by_id["full-0"]
        dead = self.frozen - {name}
        seats.bury(dead)
        settled = seats.propose(name)
        if settled is not None and seats.sequence == self.sequence:
            self.robbed |= dead
            self.stored, self.sequence = settled.ledger, self.sequence + 1
            assert seats.take(self.stored, self.sequence, worker=name) == []
            seats.spare += settled.n_granted
            self.place(name)

    @rule(name=st.sampled_from("ab"))
    def freeze_or_thaw(self, name: str) -> None:
        """It stands still, and others take its slots if they want them; or goes on as it was."""
        self.frozen ^= {name}

    @rule(name=st.sampled_from("ab"))
    def take_over(self, name: str) -> None:
        """The other one freezes and thaws when its slots have gone: chance alone is slow."""
        (other,) = {"a", "b"} - {name}
        self.frozen.add(other)
        self.want(name)
        self.write(name, hears=True)
        self.frozen.discard(other)

    @invariant()
    def no_more_sessions_than_slots(self) -> None:
        """All that stand, but those of a worker that was taken for dead and has not heard of it."""
        if hasattr(self, "leases"):
            assert self.stored.n_held <= self.limit
            standing = [
                len(leases) for name, leases in self.leases.items() if name not in self.robbed
            ]
            assert sum(standing) <= self.limit


def test_no_interleaving_of_workers_takes_more_than_there_is() -> None:
    """Whoever reads, writes, dies, freezes and thaws when."""
    run_state_machine_as_test(Pool, settings=settings(max_examples=100, stateful_step_count=40))
