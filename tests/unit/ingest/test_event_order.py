"""Each stored event is taken once and in order, whatever a connection has lost of them."""

from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.event_order import EventOrder, Position, StoredEvent, read_event

N_EVENTS_MAX = 30
LANGUAGES = ("de", "es")


def draw_log(data: st.DataObject) -> list[StoredEvent]:
    """Return a stream's log: of its owners, and of translators and ingests between their events."""
    some_kind = st.sampled_from(
        ["final", "claim", "translation", "own translation", "reconfigured"]
    )
    kinds = data.draw(st.lists(some_kind, max_size=N_EVENTS_MAX))
    log = [StoredEvent(1, 0, "opened", b""), StoredEvent(3, 1, "claim", b"")]
    owners = [3]
    translated = dict.fromkeys(LANGUAGES, 0)
    for kind in kinds:
        sequence = log[-1].sequence + data.draw(st.integers(1, 3))
        previous = 0 if kind == "claim" else owners[-1]
        if "translation" in kind:
            language = data.draw(st.sampled_from(LANGUAGES))
            before, translated[language] = translated[language], sequence
            is_aside = kind == "translation"
            source = data.draw(st.sampled_from(owners)) if is_aside else previous
            log.append(
                StoredEvent(sequence, source, "translation", b"", language, before, is_aside)
            )
        elif kind == "change":
            log.append(StoredEvent(sequence, 0, "reconfigured", b"", is_aside=True))
        else:
            log.append(StoredEvent(sequence, previous, kind, b""))
        if not log[-1].is_aside:
            owners.append(sequence)
    return [*log, StoredEvent(log[-1].sequence + 1, owners[-1], "closed", b"")]


def read(order: EventOrder, log: Sequence[StoredEvent]) -> list[StoredEvent]:
    """Read the store as `StreamEvents` does."""
    taken: list[StoredEvent] = []
    for language, after in order.late_languages().items():
        late = [e for e in log if e.language == language and e.sequence > after]
        taken += order.add_translations(late)
    taken += order.add_stored([e for e in log if e.sequence > order.sequence])
    return [*taken, *order.release()]


def are_other(events: Iterable[StoredEvent]) -> list[StoredEvent]:
    return [event for event in events if event.kind != "translation"]


@given(st.data())
def test_every_event_is_taken_once_and_in_order_whatever_is_missed(
    data: st.DataObject,
) -> None:
    """Republished messages get lost at elections and cuts, replicas answer late, reads overlap.

    A `reconfigured` is awaited by who writes it. A client that comes back after any of it has
    its own part of the log, and gets the rest of it, each event once.
    """
    log = draw_log(data)
    order = EventOrder(LANGUAGES)
    taken: list[StoredEvent] = []

    for index, event in enumerate(log):
        known = log[: index + 1]
        is_awaited = event.kind == "reconfigured"
        if is_awaited:
            order.await_event()
        is_seen = event is log[-1] or data.draw(st.booleans())
        if is_seen and order.receive(event):
            taken.append(event)
        if is_awaited:
            order.await_event(event.sequence)
        if data.draw(st.booleans()):
            order.hold()
        if order.is_holding and data.draw(st.booleans()):
            # One that answers late knows of none of the languages more than of all the rest.
            taken += read(order, known[: data.draw(st.integers(0, len(known)))])
    left_off = data.draw(st.integers(0, len(taken)))
    if order.is_holding:
        taken += read(order, log)

    assert are_other(taken) == are_other(log)
    for language in LANGUAGES:
        of_language = [event for event in log if event.language == language]
        assert [event for event in taken if event.language == language] == of_language
    for index, event in enumerate(taken):
        assert event.previous in {0, *(former.sequence for former in taken[:index])}
    assert not order.is_holding
    assert {event.sequence for event in come_back(taken[:left_off], log)} == {
        event.sequence for event in taken[left_off:]
    }


def come_back(had: Sequence[StoredEvent], log: Sequence[StoredEvent]) -> list[StoredEvent]:
    """Resume at another ingest with what a client says of the events that it has."""
    others = are_other(had)
    translations = {event.language: event.sequence for event in had if event.language}
    position = Position(others[-1].sequence if others else 0, translations)
    order = EventOrder(LANGUAGES)
    order.begin(3)
    order.go_back(position)
    return [event for event in read(order, log) if not position.has(event)]


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

    assert event == StoredEvent(4, 3, "translation", translation, "de", is_aside=True)
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
