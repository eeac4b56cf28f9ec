"""Each stored event is taken once and in order, whatever a connection has lost of them."""

from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.event_order import EventOrder, StoredEvent, read_event

N_EVENTS_MAX = 30


def draw_log(data: st.DataObject) -> list[StoredEvent]:
    """Return a stream's log: of its owners, and of translators and ingests between their events."""
    some_kind = st.sampled_from(["final", "claim", "aside", "reconfigured"])
    kinds = data.draw(st.lists(some_kind, max_size=N_EVENTS_MAX))
    log = [StoredEvent(1, 0, "opened", b""), StoredEvent(3, 1, "claim", b"")]
    owners = [3]
    for kind in kinds:
        sequence = log[-1].sequence + data.draw(st.integers(1, 3))
        if kind == "aside":
            source = data.draw(st.sampled_from(owners))
            log.append(StoredEvent(sequence, source, "translation", b"", is_aside=True))
        elif kind == "reconfigured":
            log.append(StoredEvent(sequence, 0, kind, b"", is_aside=True))
        else:
            log.append(StoredEvent(sequence, 0 if kind == "claim" else owners[-1], kind, b""))
            owners.append(sequence)
    return [*log, StoredEvent(log[-1].sequence + 1, owners[-1], "closed", b"")]


@given(st.data())
def test_every_event_is_taken_once_and_in_order_whatever_is_missed(
    data: st.DataObject,
) -> None:
    """Republished messages get lost at elections and cuts, replicas answer late, reads overlap.

    Of others' events only those that were seen are sure to be taken.
    """
    log = draw_log(data)
    order = EventOrder()
    taken: list[StoredEvent] = []
    live: list[StoredEvent] = []

    def read(known: list[StoredEvent]) -> None:
        taken.extend(order.add_stored([one for one in known if one.sequence > order.sequence]))
        taken.extend(order.release())

    for index, event in enumerate(log):
        is_seen = event is log[-1] or data.draw(st.booleans())
        if is_seen:
            live.append(event)
            if order.receive(event):
                taken.append(event)
        if data.draw(st.booleans()):
            order.hold()
        if order.is_holding and data.draw(st.booleans()):
            read(log[: data.draw(st.integers(0, index + 1))])
    if order.is_holding:
        read(log)

    assert [event for event in taken if not event.is_aside] == [
        event for event in log if not event.is_aside
    ]
    assert len({event.sequence for event in taken}) == len(taken)
    assert {event.sequence for event in live} <= {event.sequence for event in taken}
    for index, event in enumerate(taken):
        assert event.previous in {0, *(former.sequence for former in taken[:index])}
    assert not order.is_holding


def test_a_translation_does_not_hide_that_its_final_was_missed() -> None:
    """A translator reads the final from the store, whose leader died before republishing it."""
    translation = b'{"type":"translation.final","source_sequence":3}'
    event = read_event(
        b"speech.v1.transcript.acme.stream.translation.de",
        translation,
        b"NATS/1.0\r\nNats-Sequence: 4\r\n\r\n",
    )
    order = EventOrder()
    order.sequence = 2

    assert event == StoredEvent(4, 3, "translation", translation, is_aside=True)
    assert not order.receive(event)
    final = StoredEvent(3, 2, "final", b"")
    assert [*order.add_stored([final]), *order.release()] == [final, event]


def test_what_never_comes_is_not_waited_for_for_ever() -> None:
    """An event that was deleted from the store must not silence the stream."""
    order = EventOrder()
    late = StoredEvent(9, 7, "final", b"")

    assert not order.receive(late)
    assert [*order.release()] == []
    assert [*order.release(is_last=True)] == [late]
    assert not order.is_holding
