from collections.abc import Iterable
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import AnyEvent
from speechbus_ingest.doors.kotoba_answers import name_events
from speechbus_ingest.doors.openai_answers import COMMITS_MAX, OpenAIAnswers
from speechbus_wire.kotoba_openai import (
    Item,
    ItemAdded,
    ItemCompleted,
    ItemDelta,
    ItemDone,
    ItemMade,
    OpenAIMessage,
    SpeechStarted,
    SpeechStopped,
    TurnCommitted,
    Usage,
)
from tests.support.segments import EVENTS, closed, final, flushed, gap, item, partial, retracted


def begin(
    *, has_turns: bool = True, dialect: Literal["beta", "general"] = "general"
) -> OpenAIAnswers:
    """A client that has sent its settings."""
    return OpenAIAnswers(name_events("s"), dialect=dialect, has_turns=has_turns)


def say(answers: OpenAIAnswers, events: Iterable[AnyEvent]) -> list[OpenAIMessage]:
    """Everything the client is told."""
    return [told for event in events for told in answers.take_event(event)]


def transcripts(messages: Iterable[OpenAIMessage]) -> list[str]:
    """Of the completed items."""
    return [message.transcript for message in messages if isinstance(message, ItemCompleted)]


def test_with_turn_detection_each_segment_is_an_item() -> None:
    """Announced before its first delta, committed and completed at its end."""
    told = say(
        begin(),
        [partial(0, "good", 400), partial(0, "good day", 700), final(0, "good day", 900)],
    )

    assert told == [
        SpeechStarted(event_id="s-event-1", audio_start_ms=0, item_id=item(0)),
        ItemAdded(
            event_id="s-event-2",
            previous_item_id=None,
            item=Item(id=item(0), status="in_progress"),
        ),
        ItemDelta(item_id=item(0), delta="good", event_id="s-event-3", content_index=0),
        ItemDelta(item_id=item(0), delta=" day", event_id="s-event-4", content_index=0),
        SpeechStopped(event_id="s-event-5", audio_end_ms=900, item_id=item(0)),
        TurnCommitted(event_id="s-event-6", item_id=item(0), previous_item_id=None),
        ItemDone(
            event_id="s-event-7",
            previous_item_id=None,
            item=Item(id=item(0), status="completed"),
        ),
        ItemCompleted(
            item_id=item(0),
            transcript="good day",
            event_id="s-event-8",
            content_index=0,
            usage=Usage(seconds=0.9),
        ),
    ]


def test_the_beta_knows_one_event_for_an_item() -> None:
    """`conversation.item.created`, where the later form has `added` and `done`."""
    told = say(begin(dialect="beta"), [final(0, "hi")])

    assert [type(message) for message in told] == [
        SpeechStarted,
        ItemMade,
        ItemDelta,
        SpeechStopped,
        TurnCommitted,
        ItemCompleted,
    ]


def test_items_name_the_one_before_them() -> None:
    """Clients order by this chain, not by arrival."""
    told = say(begin(), [final(0, "a"), final(1, "b", 1_900), final(2, "c", 2_900)])

    assert [
        (message.item_id, message.previous_item_id)
        for message in told
        if isinstance(message, TurnCommitted)
    ] == [(item(0), None), (item(1), item(0)), (item(2), item(1))]


def test_no_item_begins_with_the_blank_between_items() -> None:
    """Items are texts of their own; nobody glues them together."""
    told = say(begin(), [final(0, "good"), final(1, "day", 1_900, start_ms=900)])

    assert [message.delta for message in told if isinstance(message, ItemDelta)] == ["good", "day"]


def test_a_turn_that_came_to_nothing_is_completed_with_nothing() -> None:
    """Every item that was announced is completed."""
    told = say(begin(), [partial(0, "uh"), partial(0, "uh"), retracted(0)])

    assert transcripts(told) == [""]


def test_case_16_a_commit_ends_one_turn_and_more_follow() -> None:
    """At Kotoba it ends everything; these clients commit after each sentence."""
    answers = begin(has_turns=False)
    told = say(answers, [final(0, "good"), final(1, "morning", 1_900, start_ms=1_000)])
    told += answers.note_commit(7)
    told += say(answers, [final(2, "all", 2_500, start_ms=2_000), flushed(7)])
    told += say(answers, [final(3, "bye", 3_500, start_ms=3_000)])
    told += answers.note_commit(9)
    told += say(answers, [flushed(9)])

    assert transcripts(told) == ["good morning all", "bye"]
    assert [message.delta for message in told if isinstance(message, ItemDelta)] == [
        "good",
        " morning",
        " all",
        "bye",
    ]
    (first, second) = (m for m in told if isinstance(m, TurnCommitted))
    assert second.previous_item_id == first.item_id
    assert [m.usage for m in told if isinstance(m, ItemCompleted)] == [Usage(2.5), Usage(0.5)]


def test_what_is_heard_while_a_commit_is_open_is_not_of_the_next_item() -> None:
    """Partials overtake what is stored: one of the next sentence must wait for its item."""
    answers = begin(has_turns=False)
    answers.note_commit(7)
    told = say(answers, [partial(0, "no"), partial(0, "no"), flushed(7)])

    assert transcripts(told) == [""]
    assert not any(isinstance(message, ItemDelta) for message in told)


@pytest.mark.parametrize("end", [flushed(8), closed("shutdown")])
def test_every_commit_is_answered(end: AnyEvent) -> None:
    """Also one whose own answer a worker took with it."""
    answers = begin(has_turns=False)
    answers.note_commit(7)
    answers.note_commit(8)

    assert transcripts(say(answers, [final(0, "hi"), end])) == ["hi", ""]


def test_commits_beyond_the_limit_share_an_answer() -> None:
    """A client that commits thousands of times costs no memory."""
    answers = begin(has_turns=False)
    for chunk in range(1_000):
        answers.note_commit(chunk)

    assert len(transcripts(say(answers, [flushed(998)]))) == COMMITS_MAX - 1
    assert len(transcripts(say(answers, [flushed(999)]))) == 1


def test_a_commit_under_turn_detection_ends_the_open_turn_and_nothing_else() -> None:
    """The flush that went out for it does, and the turn is told like any other."""
    answers = begin()
    told = answers.note_commit(7)
    told += say(answers, [final(0, "hi"), flushed(7), gap(1, 900, 1_000)])

    assert transcripts(told) == ["hi"]
    assert sum(isinstance(message, TurnCommitted) for message in told) == 1


@given(events=EVENTS, commits=st.sets(st.integers(0, 3)), has_turns=st.booleans())
def test_each_item_is_announced_committed_and_completed_in_this_order(
    events: list[AnyEvent], commits: set[int], *, has_turns: bool
) -> None:
    """Once each, and each names the one before it; whatever comes over the bus."""
    answers = begin(has_turns=has_turns)
    told: list[OpenAIMessage] = []
    for at, event in enumerate(events):
        told += answers.take_event(event)
        if at in commits:
            told += answers.note_commit(at)
    told += say(answers, [final(9, "bye")])
    told += answers.note_commit(99)
    told += say(answers, [closed()])
    announced = [message.item.id for message in told if isinstance(message, ItemAdded)]
    of_items: dict[str | None, list[type[object]]] = {name: [] for name in announced}
    for message in told:
        if isinstance(message, ItemAdded):
            of_items[message.item.id].append(ItemAdded)
        elif isinstance(message, ItemDelta | TurnCommitted | ItemCompleted):
            of_items[message.item_id].append(type(message))

    for kinds in of_items.values():
        assert (kinds[0], kinds[-1]) == (ItemAdded, ItemCompleted)
        assert [kinds.count(kind) for kind in (ItemAdded, TurnCommitted, ItemCompleted)] == [1] * 3
    chain = [message.previous_item_id for message in told if isinstance(message, TurnCommitted)]
    assert chain == [None, *announced][: len(chain)]
