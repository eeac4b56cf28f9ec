from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import (
    AnyEvent,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamClosed,
    StreamFlushed,
    TranslationFinal,
    TurnStarted,
    build_transcription_id,
)
from speechbus_ingest.doors.palabra_answers import (
    FINALIZE_TIMEOUT_S,
    FINALIZES_MAX,
    HOLD_S,
    Answers,
)
from speechbus_ingest.doors.palabra_turns import TURN_CHARS_MAX
from speechbus_wire.palabra import (
    FIN,
    FinalizationMode,
    ServerMessage,
    Span,
    StreamParameters,
    Transcription,
    TranslatedTranscription,
)

STREAM = "01a1f813-a740-7bf3-a1c9-d27e40816cfe"
WORDS = ["good", "goo", "morning", "more", "ning", "おはよう", "おは", "a", ""]


def fields_of(index: int, text: str, start_ms: int, end_ms: int) -> dict[str, Any]:
    """What partials and finals have in common."""
    return {
        "stream_id": STREAM,
        "tenant": "acme",
        "transcription_id": build_transcription_id(STREAM, index),
        "index": index,
        "revision": 0,
        "epoch": 1,
        "language": None,
        "text": text,
        "start_ms": start_ms,
        "end_ms": end_ms,
        "provider": "echo",
        "covered_ms": 0,
        "audio_received_at": 0,
        "emitted_at": 0,
    }


def partial(index: int, text: str, end_ms: int = 500, *, start_ms: int = 0) -> SegmentPartial:
    """A partial of segment `index`."""
    return SegmentPartial(**fields_of(index, text, start_ms, end_ms))


def final(index: int, text: str, end_ms: int = 900, *, start_ms: int = 0) -> SegmentFinal:
    """The final of segment `index`."""
    return SegmentFinal(**fields_of(index, text, start_ms, end_ms))


def retracted(index: int) -> SegmentRetracted:
    """Segment `index` came to nothing."""
    return SegmentRetracted(
        stream_id=STREAM,
        tenant="acme",
        transcription_id=build_transcription_id(STREAM, index),
        index=index,
        epoch=1,
        finals=0,
    )


def flushed(chunk: int, at_ms: int = 900) -> StreamFlushed:
    """The answer to flush chunk `chunk`."""
    return StreamFlushed(stream_id=STREAM, tenant="acme", epoch=1, chunk=chunk, at_ms=at_ms)


def translation(index: int, text: str, language: str = "es") -> TranslationFinal:
    """A translation of segment `index`."""
    return TranslationFinal(
        stream_id=STREAM,
        tenant="acme",
        transcription_id=build_transcription_id(STREAM, index),
        language=language,
        text=text,
        start_ms=0,
        end_ms=900,
        provider="x",
        revision=0,
    )


CLOSED = StreamClosed(
    stream_id=STREAM, tenant="acme", epoch=1, reason="end", audio_ms=0, finals=0, gap_ms=0
)


def begin(
    *,
    has_filler_filter: bool = True,
    language: str | None = "en",
    target_languages: tuple[str, ...] = ("es", "de"),
    finalization_mode: FinalizationMode = "auto",
    finalization_timeout_s: float | None = None,
) -> Answers:
    """A client that has just connected."""
    parameters = StreamParameters(
        format="pcm_s16le",
        sample_rate_hz=16_000,
        language=language,
        target_languages=target_languages,
        has_filler_filter=has_filler_filter,
        finalization_mode=finalization_mode,
        finalization_timeout_s=finalization_timeout_s,
    )
    return Answers(STREAM, parameters)


def say(answers: Answers, events: Iterable[AnyEvent], *, now_s: float = 0.0) -> list[ServerMessage]:
    """Everything the client is told."""
    return [told for event in events for told in answers.take_event(event, now_s=now_s)]


def texts(messages: Iterable[ServerMessage]) -> list[tuple[str, bool]]:
    """Text and `is_eos` of each message."""
    return [(message.segment.text, message.is_eos) for message in messages]


def test_partials_are_replaced_until_the_final_as_in_the_seeds_example() -> None:
    """The vendor's own example, number by number."""
    told = say(
        begin(),
        [
            partial(0, "Hello world", 1_200, start_ms=320),
            partial(0, "Hello world how are", 1_840, start_ms=320),
            final(0, "Hello world, how are you?", 2_100, start_ms=320),
        ],
    )
    name = f"{STREAM}-0"

    assert told == [
        Transcription(
            transcription_id=name,
            language="en",
            is_eos=False,
            segment=Span(text="Hello world", start_time=0.32, end_time=1.2),
            delta=Span(text="Hello world", start_time=0.32, end_time=1.2),
        ),
        Transcription(
            transcription_id=name,
            language="en",
            is_eos=False,
            segment=Span(text="Hello world how are", start_time=0.32, end_time=1.84),
            delta=Span(text="how are", start_time=1.2, end_time=1.84),
        ),
        Transcription(
            transcription_id=name,
            language="en",
            is_eos=True,
            segment=Span(text="Hello world, how are you?", start_time=0.32, end_time=2.1),
            delta=Span(text=", how are you?", start_time=1.84, end_time=2.1),
        ),
    ]


def test_a_language_that_nobody_named_is_called_auto() -> None:
    """The field is a text on this wire; any code would be a guess."""
    (told,) = say(begin(language=None), [final(0, "hm")])

    assert told.language == "auto"


def test_a_partial_after_its_final_is_not_sent() -> None:
    """They come by different ways on the bus; a client takes what follows a final for a mistake."""
    told = say(begin(), [partial(0, "a"), final(0, "ab"), partial(0, "a"), final(0, "abc")])

    assert texts(told) == [("a", False), ("ab", True)]


def test_a_new_segment_waits_for_the_final_of_the_one_in_front_of_it() -> None:
    """A new id means that the segment before is over; its final must not come behind."""
    told = say(
        begin(),
        [partial(0, "a"), partial(1, "b"), final(0, "ab"), partial(1, "bc"), final(1, "bcd")],
    )

    assert texts(told) == [("a", False), ("ab", True), ("bc", False), ("bcd", True)]


def test_a_final_that_nobody_saw_coming_leaves_the_open_segment_alone() -> None:
    """Without the filter the client would otherwise get the open segment's text twice."""
    told = say(
        begin(has_filler_filter=False),
        [partial(1, "b"), partial(1, "b c"), final(0, "a"), partial(1, "b c d"), final(1, "b c d")],
    )

    assert [message.segment.text for message in told] == ["b", "a", "b c", "b c d"]


def test_an_empty_final_is_skipped_unless_it_takes_back_a_partial() -> None:
    """Filler only: nothing to say, but what is on a screen must go."""
    told = say(begin(), [final(0, ""), partial(1, "uh"), final(1, "")])

    assert texts(told) == [("uh", False), ("", True)]


def test_a_retracted_segment_ends_empty_if_it_was_shown() -> None:
    """This protocol has no word for taking back; an empty final clears the line."""
    told = say(begin(), [retracted(0), partial(1, "uh", 700), retracted(1)])

    assert texts(told) == [("uh", False), ("", True)]
    assert told[-1].segment == Span(text="", start_time=0.7, end_time=0.7)


def test_a_translation_is_sent_once_per_language_with_the_id_of_its_source() -> None:
    """Clients join by the id; a final that was corrected is translated again on the bus."""
    told = say(
        begin(),
        [
            final(0, "hello"),
            translation(0, "hola"),
            translation(0, "hallo", "de"),
            translation(0, "¡hola!"),
        ],
    )

    assert told[1:] == [
        TranslatedTranscription(
            transcription_id=f"{STREAM}-0",
            language=language,
            is_eos=True,
            segment=Span(text=text, start_time=0.0, end_time=0.9),
        )
        for language, text in [("es", "hola"), ("de", "hallo")]
    ]


def test_case_02_a_translation_before_its_final_waits_for_it() -> None:
    """The bus reorders by milliseconds; a client that joins by id has nothing to join it to."""
    told = say(
        begin(),
        [final(0, "one"), translation(1, "dos"), partial(1, "tw"), final(1, "two")],
    )

    assert [message.segment.text for message in told] == ["one", "tw", "two", "dos"]


def test_case_03_a_translation_long_after_its_final_is_still_sent() -> None:
    """Until the stream closes; by then the client may be many segments on."""
    finals: list[AnyEvent] = [final(index, f"segment {index}") for index in range(2_000)]
    told = say(begin(), [*finals, translation(0, "tarde"), translation(1_999, "pronto")])

    assert [message.segment.text for message in told[2_000:]] == ["tarde", "pronto"]


def test_case_04_a_translation_of_a_segment_without_a_final_is_not_sent() -> None:
    """And however many come, they take no room."""
    made_up = msgspec.structs.replace(translation(0, "¿?"), transcription_id="elsewhere")
    answers = begin()
    told = say(answers, [made_up, *(translation(index, "¿?") for index in range(1, 1_000))])

    assert told == []
    assert texts(say(answers, [final(0, "hello"), translation(0, "hola")])) == [
        ("hello", True),
        ("hola", True),
    ]


def test_case_06_a_translation_of_another_text_than_was_told_is_not_sent() -> None:
    """A corrected text has no message of its own, and its translation would stand under the old."""
    corrected = msgspec.structs.replace(final(0, "hello"), revision=1, text="yellow")
    of_it = msgspec.structs.replace(translation(0, "amarillo"), revision=1)

    told = say(begin(), [final(0, "hello"), corrected, of_it, translation(0, "hola")])
    assert texts(told) == [("hello", True), ("hola", True)]
    early = say(begin(), [translation(0, "hola"), of_it, corrected])
    assert texts(early) == [("yellow", True), ("amarillo", True)]


def test_case_05_each_target_is_sent_when_it_comes_and_no_other_language() -> None:
    """Translations are sent only for the targets of the stream's URL, whatever is on the bus."""
    events: list[AnyEvent] = [
        final(0, "hello"),
        translation(0, "bonjour", "fr"),
        translation(0, "hola", "es-MX"),
    ]

    assert texts(say(begin(), events))[1:] == [("hola", True)]
    assert texts(say(begin(target_languages=()), events))[1:] == []


def test_what_this_protocol_has_no_word_for_is_left_out() -> None:
    """Strictly the documented messages: clients fail on others."""
    turn = TurnStarted(stream_id=STREAM, tenant="acme", epoch=1, at_ms=0)

    assert say(begin(), [turn, CLOSED]) == []


# --- finalize --------------------------------------------------------------------------------


def test_the_final_of_the_open_segment_carries_the_marker() -> None:
    """Clients send finalize at the end of a turn and read until the marker."""
    answers = begin()
    told = say(answers, [partial(0, "see you")])
    answers.expect_flush(7, now_s=0.0)
    told += say(answers, [final(0, "see you later"), flushed(7)])

    assert texts(told) == [("see you", False), (f"see you later{FIN}", True)]


def test_with_nothing_open_the_marker_comes_alone_under_an_id_of_its_own() -> None:
    """Clients ignore a second message of an id that has had its final."""
    answers = begin()
    told = say(answers, [final(0, "hello")])
    for chunk in (7, 8):
        answers.expect_flush(chunk, now_s=0.0)
        told += say(answers, [flushed(chunk, at_ms=1_250)])

    assert texts(told) == [("hello", True), (FIN, True), (FIN, True)]
    assert (
        len({message.transcription_id for message in told if isinstance(message, Transcription)})
        == 3
    )
    assert told[-1].segment == Span(text=FIN, start_time=1.25, end_time=1.25)


def test_only_the_last_of_several_finals_before_the_answer_carries_the_marker() -> None:
    """The marker ends the turn: nothing of it may follow."""
    answers = begin()
    answers.expect_flush(7, now_s=0.0)
    told = say(answers, [final(0, "one"), final(1, "two"), translation(0, "uno"), flushed(7)])

    assert [message.segment.text for message in told] == ["one", "two", "uno", FIN]


def test_a_retraction_can_carry_the_marker() -> None:
    """The open segment was noise: finalize is answered all the same, and once."""
    answers = begin()
    told = say(answers, [partial(0, "uh")])
    answers.expect_flush(7, now_s=0.0)
    told += say(answers, [retracted(0), flushed(7)])

    assert texts(told) == [("uh", False), (FIN, True)]


def test_each_finalize_is_answered_once_and_an_answer_nobody_asked_for_is_ignored() -> None:
    """A new worker may repeat an answer; a lost one is made good by the next."""
    answers = begin()
    for chunk in (3, 5):
        answers.expect_flush(chunk, now_s=0.0)
    told = say(answers, [final(0, "hi"), flushed(5), flushed(5), flushed(9)])

    assert texts(told) == [(f"hi{FIN}", True), (FIN, True)]


def test_an_older_answer_does_not_answer_a_newer_finalize() -> None:
    """The marker promises finals of everything before it."""
    answers = begin()
    answers.expect_flush(7, now_s=0.0)

    assert say(answers, [flushed(5)]) == []


def test_a_final_waits_for_the_marker_for_a_limited_time() -> None:
    """A worker that died over the flush must not keep back a final that is stored."""
    answers = begin()
    answers.expect_flush(7, now_s=0.0)
    told = say(answers, [final(0, "hi")], now_s=2.0)
    deadline_s = answers.next_deadline_s()
    told += answers.handle_deadline(now_s=2.0 + HOLD_S)

    assert deadline_s == 2.0 + HOLD_S
    assert texts(told) == [("hi", True)]


def test_a_finalize_without_any_answer_gets_the_marker_after_ten_seconds() -> None:
    """Clients wait for it before they close."""
    answers = begin()
    answers.expect_flush(7, now_s=1.0)
    deadline_s = answers.next_deadline_s()
    told = answers.handle_deadline(now_s=1.0 + FINALIZE_TIMEOUT_S)

    assert deadline_s == 1.0 + FINALIZE_TIMEOUT_S
    assert texts(told) == [(FIN, True)]
    assert answers.next_deadline_s() is None


def test_the_last_final_is_sent_when_the_stream_closes_under_a_finalize() -> None:
    """Closing comes behind everything else; nothing may stay behind in the door."""
    answers = begin()
    answers.expect_flush(7, now_s=0.0)

    assert texts(say(answers, [final(0, "bye"), CLOSED])) == [("bye", True)]


def test_finalizes_beyond_the_limit_share_an_answer() -> None:
    """A client that sends thousands costs no memory, and still gets its last marker."""
    answers = begin()
    for chunk in range(1_000):
        answers.expect_flush(chunk, now_s=0.0)

    assert texts(say(answers, [flushed(998)])) == [(FIN, True)] * (FINALIZES_MAX - 1)
    assert texts(say(answers, [flushed(999)])) == [(FIN, True)]


# --- who ends a segment ------------------------------------------------------------------------


def test_a_segment_that_does_not_change_is_ended_after_the_time_the_client_named() -> None:
    """`finalization_timeout`: the door asks for its final, and says no marker for it."""
    answers = begin(finalization_timeout_s=1.5)
    say(answers, [partial(0, "see")], now_s=0.0)
    say(answers, [partial(0, "see you")], now_s=1.0)
    say(answers, [partial(0, "see you")], now_s=2.0)
    deadline_s = answers.next_deadline_s()
    due = [answers.is_flush_due(now_s=now_s) for now_s in (2.4, 2.5, 2.6)]
    told = say(answers, [final(0, "see you."), flushed(7)])

    assert deadline_s == 2.5
    assert due == [False, True, False]
    assert texts(told) == [("see you.", True)]


def test_a_segment_that_has_its_final_is_not_ended_again() -> None:
    """No flush without need."""
    answers = begin(finalization_timeout_s=1.5)
    say(answers, [partial(0, "see"), final(0, "see you.")])

    assert answers.next_deadline_s() is None
    assert not answers.is_flush_due(now_s=9.0)


def test_by_hand_only_the_client_ends_a_segment() -> None:
    """`finalization_mode=manual`: the recognizer's finals are partials until then."""
    answers = begin(finalization_mode="manual")
    told = say(
        answers,
        [
            partial(0, "Good", 500),
            final(0, "Good morning.", 900),
            partial(1, "How", 1_500, start_ms=1_000),
        ],
    )
    answers.expect_flush(7, now_s=0.0)
    told += say(answers, [final(1, "How are you?", 2_000, start_ms=1_000), flushed(7)])
    told += say(answers, [partial(2, "Fine", 3_000, start_ms=2_500)])

    assert texts(told) == [
        ("Good", False),
        ("Good morning.", False),
        ("Good morning. How", False),
        ("Good morning. How are you?", False),
        (f"Good morning. How are you?{FIN}", True),
        ("Fine", False),
    ]
    assert [message.transcription_id for message in told if isinstance(message, Transcription)] == [
        f"{STREAM}-0"
    ] * 5 + [f"{STREAM}-2"]
    assert told[-2].segment == Span(
        text=f"Good morning. How are you?{FIN}", start_time=0.0, end_time=2.0
    )


def test_by_hand_what_the_recognizer_ends_without_a_new_word_is_not_told() -> None:
    """And a partial that was overtaken by its final takes nothing back."""
    answers = begin(finalization_mode="manual")
    told = say(
        answers,
        [partial(0, "Yes."), final(0, "Yes."), partial(0, "Ye"), partial(1, "No"), final(1, "No")],
    )

    assert texts(told) == [("Yes.", False), ("Yes. No", False)]


def test_by_hand_a_part_that_came_to_nothing_is_taken_out_again() -> None:
    """The rest of the turn stays."""
    answers = begin(finalization_mode="manual")
    told = say(answers, [final(0, "Yes."), partial(1, "uh"), retracted(1), partial(1, "um")])
    told += say(answers, [partial(2, "uh"), CLOSED])

    assert texts(told) == [
        ("Yes.", False),
        ("Yes. uh", False),
        ("Yes.", False),
        ("Yes. uh", False),
        ("Yes.", True),
    ]


def test_by_hand_a_pause_ends_a_turn_without_a_marker_if_the_client_wants_that() -> None:
    """Both parameters together: the client ends its turns, or silence does."""
    answers = begin(finalization_mode="manual", finalization_timeout_s=2.0)
    told = say(answers, [partial(0, "Good"), final(0, "Good morning.")], now_s=1.0)
    due = [answers.is_flush_due(now_s=now_s) for now_s in (2.9, 3.0)]
    told += say(answers, [flushed(7), flushed(9)])

    assert due == [False, True]
    assert texts(told)[1:] == [("Good morning.", False), ("Good morning.", True)]
    assert answers.next_deadline_s() is None


def test_by_hand_a_turn_is_translated_whole_under_its_own_id() -> None:
    """One translation per turn and language, when every part of it has one."""
    answers = begin(finalization_mode="manual")
    told = say(
        answers, [final(0, "Good morning."), translation(0, "Buenos días."), final(1, "Hm.")]
    )
    answers.expect_flush(7, now_s=0.0)
    told += say(answers, [flushed(7), translation(1, "Guten", "de"), translation(1, "Mm.")])
    told += say(answers, [translation(0, "Tag", "de"), final(2, "Later"), CLOSED])
    translated = [message for message in told if isinstance(message, TranslatedTranscription)]

    assert [(message.transcription_id, message.language) for message in translated] == [
        (f"{STREAM}-0", "es"),
        (f"{STREAM}-0", "de"),
    ]
    assert [message.segment.text for message in translated] == ["Buenos días. Mm.", "Tag Guten"]
    assert texts(told)[-1] == ("Later", True)


def test_by_hand_a_part_that_is_corrected_is_translated_anew() -> None:
    """The turn's translation is that of the words in the turn."""
    answers = begin(finalization_mode="manual", target_languages=("es",))
    corrected = msgspec.structs.replace(final(1, "Hum!"), revision=1)
    of_it = msgspec.structs.replace(translation(1, "¡Mm!"), revision=1)
    parts: list[AnyEvent] = [translation(0, "Hola."), translation(1, "Mm."), corrected]
    told = say(answers, [final(0, "Hello."), final(1, "Hm."), *parts, translation(1, "Mm.")])
    answers.expect_flush(7, now_s=0.0)
    told += say(answers, [flushed(7), final(2, "Later")])
    assert not [each for each in told if isinstance(each, TranslatedTranscription)]

    assert texts(say(answers, [of_it])) == [("Hola. ¡Mm!", True)]
    alone: list[AnyEvent] = [final(3, "Hm."), translation(3, "Mm.")]
    other = msgspec.structs.replace(final(3, "Hum!"), revision=1)
    assert texts(say(answers, [*alone, other, CLOSED]))[-1] == ("Later Hum!", True)


def test_by_hand_a_turn_that_nobody_ends_is_ended() -> None:
    """Each partial repeats the turn: an hour of it would be sent ten times a second."""
    answers = begin(finalization_mode="manual")
    n_max = TURN_CHARS_MAX // 100
    told = say(answers, [final(index, "x" * 100) for index in range(2 * n_max + 2)])

    assert [message.is_eos for message in told].count(True) == 2
    assert max(len(message.segment.text) for message in told) <= TURN_CHARS_MAX + n_max + 100


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["Good morning.", "How are you?"], "Good morning. How are you?"),
        (["おはよう。", "元気?"], "おはよう。元気?"),
        (["", "a", "", "b"], "a b"),
        (["안녕", "하세요"], "안녕 하세요"),
        (["ok 🙂", "yes"], "ok 🙂 yes"),
        (["ﾃｽﾄ", "ﾃﾞｽ"], "ﾃｽﾄﾃﾞｽ"),
    ],
)
def test_by_hand_parts_are_joined_as_they_are_written(parts: list[str], whole: str) -> None:
    """A blank between Japanese sentences would be a mistake."""
    answers = begin(finalization_mode="manual")
    say(answers, [final(index, text) for index, text in enumerate(parts)])

    assert texts(say(answers, [CLOSED])) == [(whole, True)]


@given(
    segments=st.lists(
        st.tuples(st.lists(st.sampled_from(WORDS), max_size=3), st.sampled_from(WORDS)), max_size=8
    ),
    ends=st.sets(st.integers(0, 7)),
    has_filler_filter=st.booleans(),
)
def test_by_hand_nothing_is_lost_or_doubled(
    segments: list[tuple[list[str], str]], ends: set[int], *, has_filler_filter: bool
) -> None:
    """Whatever is said and whenever the client ends its turns: all words, once, in order."""
    answers = begin(finalization_mode="manual", has_filler_filter=has_filler_filter)
    told: list[ServerMessage] = []
    for index, (partials, last) in enumerate(segments):
        told += say(answers, [partial(index, text) for text in partials])
        if index in ends:
            answers.expect_flush(index, now_s=0.0)
        told += say(answers, [final(index, last)])
        if index in ends:
            told += say(answers, [flushed(index)])
    told += say(answers, [CLOSED])
    finals = [text.replace(FIN, "") for text, is_eos in texts(told) if is_eos]

    assert "".join(finals).replace(" ", "") == "".join(last for _, last in segments)
    assert sum(FIN in text for text, _ in texts(told)) == len(ends & set(range(len(segments))))


# --- without the filler filter -----------------------------------------------------------------


def test_without_the_filter_text_is_sent_once_two_revisions_agree_on_it() -> None:
    """An append cannot be taken back, and recognizers rewrite their last words."""
    told = say(
        begin(has_filler_filter=False),
        [
            partial(0, "good mourning", 500),
            partial(0, "good morning every", 700),
            partial(0, "good morning everyone", 900),
            final(0, "good morning everyone", 1_000),
        ],
    )
    deltas = [
        message.delta for message in told if isinstance(message, Transcription) and message.delta
    ]

    assert deltas == [
        Span(text="good mo", start_time=0.0, end_time=0.7),
        Span(text="rning every", start_time=0.7, end_time=0.9),
        Span(text="one", start_time=0.9, end_time=1.0),
    ]


def test_a_final_that_contradicts_what_was_appended_has_the_truth_and_no_delta() -> None:
    """The true text counts; the missing delta tells a client that it cannot go on appending."""
    told = say(
        begin(has_filler_filter=False),
        [partial(0, "ice cream"), partial(0, "ice cream is"), final(0, "I scream")],
    )

    assert texts(told) == [("ice cream", False), ("I scream", True)]
    assert isinstance(told[-1], Transcription)
    assert told[-1].delta is None


@given(
    segments=st.lists(
        st.tuples(
            st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join), max_size=6),
            st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join),
            st.booleans(),
        ),
        max_size=4,
    )
)
def test_without_the_filter_the_deltas_of_a_segment_make_its_text(
    segments: list[tuple[list[str], str, bool]],
) -> None:
    """Clients concatenate them and never look at the segment's text."""
    answers = begin(has_filler_filter=False)
    for index, (partials, last, is_finalized) in enumerate(segments):
        events: list[AnyEvent] = [partial(index, text) for text in partials]
        if is_finalized:
            answers.expect_flush(index, now_s=0.0)
        appended = ""
        for told in say(answers, [*events, final(index, last), flushed(index)]):
            assert isinstance(told, Transcription)
            if told.transcription_id != f"{STREAM}-{index}":
                continue  # a marker alone
            if told.delta is None:
                assert told.is_eos
                assert not last.startswith(appended)
                assert told.segment.text.removesuffix(FIN) == last
            else:
                appended += told.delta.text
                assert told.segment.text == appended


@given(
    partials=st.lists(st.text(max_size=8), max_size=6),
    last=st.text(min_size=1, max_size=8),
    has_filler_filter=st.booleans(),
)
def test_the_final_is_always_sent_whole_and_times_do_not_run_backwards(
    partials: list[str], last: str, *, has_filler_filter: bool
) -> None:
    """Whatever was shown before: the segment's text is the truth."""
    events = [partial(0, text, 100 * at + 100) for at, text in enumerate(partials)]
    told = say(begin(has_filler_filter=has_filler_filter), [*events, final(0, last, 900)])
    spans = [
        span
        for message in told
        if isinstance(message, Transcription)
        for span in (message.segment, message.delta)
        if span is not None
    ]

    assert texts(told)[-1] == (last, True)
    assert all(0 <= span.start_time <= span.end_time <= 0.9 for span in spans)


@pytest.mark.parametrize("has_filler_filter", [True, False])
def test_nothing_of_a_segment_follows_its_final(*, has_filler_filter: bool) -> None:
    """`is_eos` means committed and final."""
    events: list[AnyEvent] = [
        partial(0, "a"),
        partial(0, "a"),
        final(0, "a"),
        retracted(0),
        final(0, "b"),
    ]
    told = say(begin(has_filler_filter=has_filler_filter), events)

    assert [message.is_eos for message in told].index(True) == len(told) - 1
