from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import given

from speechbus_contracts import AnyEvent
from speechbus_ingest.doors.kotoba_answers import KotobaAnswers, name_events
from speechbus_wire.kotoba import Committed, ItemCreated, Told
from speechbus_wire.kotoba_openai import ItemCompleted, ItemDelta, encode_event
from tests.support.segments import EVENTS, closed, final, item, partial, retracted

SPOKEN: list[AnyEvent] = [
    partial(0, "おは", 400),
    partial(0, "おはよう", 700),
    final(0, "おはよう。", 900),
    final(1, "はい", 1_500, start_ms=1_000),
]


def begin(*, has_turns: bool = False, has_timestamps: bool = False) -> KotobaAnswers:
    """A client that has sent its update."""
    return KotobaAnswers(name_events("sess_1"), has_turns=has_turns, has_timestamps=has_timestamps)


def say(answers: KotobaAnswers, events: Iterable[AnyEvent]) -> list[Told]:
    """Everything the client is told."""
    return [told for event in events for told in answers.take_event(event)]


def test_without_turns_there_are_deltas_that_name_the_last_append() -> None:
    """As the vendor's sample: no `completed`, and the concatenation is the transcript."""
    answers = begin()
    told = answers.note_append("chunk_0000001")
    told += say(answers, SPOKEN[:2])
    told += answers.note_append("chunk_0000002")
    told += say(answers, [*SPOKEN[2:], closed()])

    assert told == [
        ItemCreated(event_id="sess_1-cc-1"),
        ItemDelta(item_id="chunk_0000001", delta="おは", event_id="sess_1-cd-2", content_index=0),
        ItemDelta(item_id="chunk_0000002", delta="よう。", event_id="sess_1-cd-3", content_index=0),
        ItemDelta(item_id="chunk_0000002", delta="はい", event_id="sess_1-cd-4", content_index=0),
        Committed(event_id="sess_1-ic-5"),
    ]


def test_an_append_without_an_id_is_named_by_null() -> None:
    """The field is there in any case: clients read it by name."""
    answers = begin()
    answers.note_append("chunk_1")
    answers.note_append(None)
    (delta,) = say(answers, [final(0, "はい")])

    assert msgspec.json.decode(encode_event(delta), type=dict[str, Any])["item_id"] is None


def test_with_turns_each_has_an_id_of_its_own_and_is_completed() -> None:
    """`completed` repeats what the turn's deltas said, right behind the last of them."""
    answers = begin(has_turns=True)
    answers.note_append("chunk_1")
    told = say(answers, SPOKEN)

    assert [
        (message.item_id, message.delta)
        if isinstance(message, ItemDelta)
        else (message.item_id, message.transcript, "completed")
        for message in told
        if isinstance(message, ItemDelta | ItemCompleted)
    ] == [
        (item(0), "おは"),
        (item(0), "よう。"),
        (item(0), "おはよう。", "completed"),
        (item(1), "はい"),
        (item(1), "はい", "completed"),
    ]


def test_timestamps_come_when_they_were_asked_for() -> None:
    """Whole numbers of ms; the resume point moves when a turn is complete."""
    told = say(begin(has_turns=True, has_timestamps=True), SPOKEN)

    assert [
        (message.start_ms, message.end_ms, message.audio_processed_ms)
        for message in told
        if isinstance(message, ItemDelta | ItemCompleted)
    ] == [(0, 400, 0), (400, 900, 0), (0, 900, 900), (1_000, 1_500, 900), (1_000, 1_500, 1_500)]


def test_without_timestamps_there_are_none() -> None:
    """A client that did not ask may be strict."""
    (delta,) = say(begin(), [final(0, "はい")])

    assert "ms" not in encode_event(delta)


def test_a_turn_that_came_to_nothing_is_completed_with_nothing() -> None:
    """A client that shows deltas can take them away."""
    told = say(begin(has_turns=True), [partial(0, "え"), partial(0, "え"), retracted(0)])

    assert [
        message.transcript if isinstance(message, ItemCompleted) else None for message in told
    ] == [None, ""]


def test_only_a_client_that_committed_is_told_so() -> None:
    """`committed` means that everything is transcribed; a server that goes away may not say it."""
    for reason in ("shutdown", "idle", "no_provider", "client_gone"):
        assert say(begin(), [closed(reason)]) == []


@given(events=EVENTS)
def test_a_turn_is_completed_once_and_nothing_of_it_follows(events: list[AnyEvent]) -> None:
    """Whatever comes over the bus, in whatever order; and each turn that was shown is completed."""
    told = say(begin(has_turns=True), [*events, final(9, "bye"), closed()])
    texts = [m for m in told if isinstance(m, ItemDelta | ItemCompleted)]
    done: list[str | None] = []
    for message in texts:
        assert message.item_id not in done
        if isinstance(message, ItemCompleted):
            done.append(message.item_id)

    assert {message.item_id for message in texts} == set(done)
    assert isinstance(told[-1], Committed)


@given(events=EVENTS)
def test_turns_change_nothing_about_the_deltas(events: list[AnyEvent]) -> None:
    """The transcript is the same for whoever asks for them and whoever does not."""
    texts = [
        [m.delta for m in say(begin(has_turns=turns), events) if isinstance(m, ItemDelta)]
        for turns in (True, False)
    ]

    assert texts[0] == texts[1]
