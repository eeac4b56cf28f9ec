"""Each stored event is taken once and in order, whatever a connection has lost of them."""

from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.event_order import EventOrder, StoredEvent

N_EVENTS_MAX = 30


@given(st.data())
def test_every_event_is_taken_once_and_in_order_whatever_is_missed(
    data: st.DataObject,
) -> None:
    """Republished messages get lost at elections and cuts, replicas answer late, reads overlap."""
    some_kind = st.sampled_from(["final", "claim", "reconfigured"])
    kinds = data.draw(st.lists(some_kind, max_size=N_EVENTS_MAX))
    log = [StoredEvent(1, 0, "opened", b""), StoredEvent(3, 1, "claim", b"")]
    for kind in kinds:
        sequence = log[-1].sequence + data.draw(st.integers(1, 3))
        owners = [one for one in log if one.kind != "reconfigured"]
        previous = owners[-1].sequence if kind == "final" else 0
        log.append(StoredEvent(sequence, previous, kind, b""))
    last = [one for one in log if one.kind != "reconfigured"][-1].sequence
    log.append(StoredEvent(log[-1].sequence + 1, last, "closed", b""))
    order = EventOrder()
    taken: list[StoredEvent] = []

    def read(known: list[StoredEvent]) -> None:
        taken.extend(order.add_stored([one for one in known if one.sequence > order.sequence]))
        taken.extend(order.release())

    for index, event in enumerate(log):
        is_seen = event is log[-1] or event.kind == "reconfigured" or data.draw(st.booleans())
        if is_seen and order.receive(event):
            taken.append(event)
        if data.draw(st.booleans()):
            order.hold()
        if order.is_holding and data.draw(st.booleans()):
            read(log[: data.draw(st.integers(0, index + 1))])
    if order.is_holding:
        read(log)

    assert taken == log
    assert not order.is_holding


def test_what_never_comes_is_not_waited_for_for_ever() -> None:
    """An event that was deleted from the store must not silence the stream."""
    order = EventOrder()
    late = StoredEvent(9, 7, "final", b"")

    assert not order.receive(late)
    assert [*order.release()] == []
    assert [*order.release(is_last=True)] == [late]
    assert not order.is_holding
