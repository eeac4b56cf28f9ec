from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.doors.append_only import AppendOnly, Heard, Piece, Turn
from speechbus_ingest.doors.stabilizer import separator
from tests.support.segments import covered, final, gap, item, partial, retracted

WORDS = ["good", "goo", "morning", "more", "おはよう", "おは", "a"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)


def take(events: Iterable[Heard]) -> list[Piece | Turn]:
    """Everything they add."""
    view = AppendOnly()
    return [part for event in events for part in view.take(event)]


def pieces(parts: Iterable[Piece | Turn]) -> list[str]:
    """Texts to append."""
    return [part.text for part in parts if isinstance(part, Piece)]


def turns(parts: Iterable[Piece | Turn]) -> list[str]:
    """Texts of turns."""
    return [part.text for part in parts if isinstance(part, Turn)]


def test_a_turn_has_its_times_and_each_piece_its_own() -> None:
    """A piece ends where the revision ended that had it first."""
    parts = take(
        [
            partial(0, "good", 400, start_ms=100),
            partial(0, "good morning", 700, start_ms=100),
            final(0, "good morning all", 900, start_ms=90, covered_ms=950),
        ]
    )

    assert parts == [
        Piece(transcription_id=item(0), text="good", start_ms=100, end_ms=400, processed_ms=0),
        Piece(
            transcription_id=item(0),
            text=" morning all",
            start_ms=400,
            end_ms=900,
            processed_ms=0,
        ),
        Turn(
            transcription_id=item(0),
            text="good morning all",
            start_ms=90,
            end_ms=900,
            processed_ms=950,
        ),
    ]


def test_a_partial_that_overtakes_the_final_before_it_waits() -> None:
    """Partials and finals come by different ways; appended text cannot change places."""
    parts = take(
        [
            partial(0, "one"),
            partial(1, "two"),
            partial(1, "two"),
            final(0, "one", 900),
            partial(1, "two three", 1_500, start_ms=900),
            final(1, "two three", 1_900, start_ms=900),
        ]
    )

    assert pieces(parts) == ["one", " two three"]
    assert turns(parts) == ["one", "two three"]


def test_what_comes_after_the_last_word_is_not_told() -> None:
    """Old partials, the same final again, and corrections: what was sent stands."""
    assert len(take([final(0, "one"), partial(0, "x"), final(0, "two"), retracted(0)])) == 2


@pytest.mark.parametrize(
    "end", [retracted(0), gap(1, 0, 900), covered(1, 900), final(1, "", 1_000)]
)
def test_a_segment_that_comes_to_nothing_ends_empty(end: Heard) -> None:
    """Its text was sent and cannot be taken back; its turn says that there is none."""
    parts = take([partial(0, "uh"), partial(0, "uh"), end, final(2, "yes", 1_900, start_ms=900)])

    assert pieces(parts) == ["uh", " yes"]
    assert turns(parts) == ["", "yes"]


@pytest.mark.parametrize("end", [retracted(0), gap(1, 0, 900), covered(1, 900), final(0, "")])
def test_a_segment_that_nobody_saw_ends_unseen(end: Heard) -> None:
    """There is nothing to tell."""
    assert take([partial(0, "uh"), end]) == []


def test_text_after_silence_or_a_gap_starts_no_earlier_than_was_said() -> None:
    """Clients resend from there after a disconnect."""
    parts = take([covered(0, 5_000), gap(0, 5_000, 6_000), final(0, "so", 6_500, start_ms=5_990)])

    assert [(part.start_ms, part.processed_ms) for part in parts] == [
        (6_000, 6_000),
        (6_000, 6_500),
    ]


SEGMENTS = st.lists(st.tuples(st.lists(TEXTS, max_size=5), TEXTS), max_size=5)


def speak(segments: list[tuple[list[str], str]]) -> list[Heard]:
    """Partials and finals, one segment each second."""
    events: list[Heard] = []
    for index, (texts, last) in enumerate(segments):
        start_ms = 1_000 * index
        events += [
            partial(index, text, start_ms + 100 * at + 100, start_ms=start_ms)
            for at, text in enumerate(texts)
        ]
        events.append(final(index, last, start_ms + 900, start_ms=start_ms))
    return events


@given(
    segments=st.lists(st.tuples(TEXTS, st.lists(st.integers(0, 30), max_size=5)), max_size=5),
)
def test_pieces_make_the_transcript(segments: list[tuple[str, list[int]]]) -> None:
    """Whatever a recognizer puts behind what it is sure of: deltas alone are everything, once."""
    parts = take(
        speak(
            [
                ([last[:cut] + "?!*"[at % 3] for at, cut in enumerate(sorted(cuts))], last)
                for last, cuts in segments
            ]
        )
    )
    transcript = ""
    for last, _ in segments:
        transcript += separator(transcript, last) + last

    assert "".join(pieces(parts)) == transcript


@given(segments=SEGMENTS)
def test_turns_are_the_finals(segments: list[tuple[list[str], str]]) -> None:
    """Whatever was shown before."""
    assert turns(take(speak(segments))) == [last for _, last in segments]


@given(segments=SEGMENTS)
def test_times_never_run_backwards(segments: list[tuple[list[str], str]]) -> None:
    """Nor does any text start before what was said to be processed."""
    sent_to_ms = processed_ms = 0
    for part in take(speak(segments)):
        assert processed_ms <= part.start_ms <= part.end_ms
        assert processed_ms <= part.processed_ms
        if isinstance(part, Piece):
            assert sent_to_ms <= part.start_ms
            sent_to_ms = part.end_ms
        processed_ms = part.processed_ms
