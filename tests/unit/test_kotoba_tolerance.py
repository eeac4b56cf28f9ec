"""What Kotoba's adapter makes of a server that misbehaves: nothing is lost, nothing doubled."""

import pytest

from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Flushed,
    Heard,
    ProviderUnavailableError,
)
from speechbus_transcriber.providers.kotoba_flushes import FLUSHES_MAX, TIMEOUT_S
from speechbus_transcriber.providers.kotoba_turns import OPEN_MAX
from speechbus_wire import kotoba as wire
from tests.support.kotoba_session import KotobaSession, completed, delta, texts_of


@pytest.mark.parametrize("transcript", ["good morning", "Good morning."])
@pytest.mark.parametrize("completed_id", ["other", None, "chunk-0000009"])
def test_a_completed_with_another_id_than_its_deltas_does_not_double_the_text(
    completed_id: str | None, transcript: str
) -> None:
    """Its text is that of the open turn (providers.md 5.5)."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("good", "t1"), delta(" morning", "t1"))
    session.receive(completed(transcript, completed_id))
    session.end()

    assert session.texts == [transcript]


@pytest.mark.parametrize(
    ("deltas", "transcript"),
    [
        (("「", "はい", "」"), "「はい」"),
        (("\uff12", "\uff10", "人"), "20人"),
        (("cafe\u0301", " au lait"), "Café au lait."),
        (("Hello", ",", " ", "you"), "hello you"),
        (("?", "!"), "?!"),
    ],
)
@pytest.mark.parametrize("item_id", ["t1", None])
def test_a_turn_in_another_spelling_is_the_same(
    deltas: tuple[str, ...], transcript: str, item_id: str | None
) -> None:
    """Brackets, width, accents, case and blanks are no other words."""
    session = KotobaSession()
    session.speak(1_000)
    for text in deltas:
        session.receive(delta(text, item_id))
    session.receive(completed(transcript, item_id))

    assert session.texts == [transcript]


def test_a_completed_with_the_id_of_its_last_delta_only_ends_the_whole_turn() -> None:
    """Servers that name every text by an append of their own counting (providers.md 1.1)."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("good", "a1"), delta(" morning", "a2"), completed("good morning", "a2"))
    session.receive(delta("yes", "a3"), completed("yes", "a3"))
    session.end()

    assert session.texts == ["good morning", "yes"]


@pytest.mark.parametrize("item_id", ["t1", None, "chunk-0000002"])
def test_a_completed_that_comes_again_is_not_said_again(item_id: str | None) -> None:
    """Right after the first, behind the next turn's beginning, and behind its end."""
    again = completed("one", item_id)
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", item_id), again, again)
    session.speak(1_000)
    next_id = None if item_id is None else item_id.replace("2", "9").replace("t1", "t2")
    session.receive(delta("two", next_id), again, completed("two", next_id), again)
    session.end()

    assert session.texts == ["one", "two"]


def test_two_turns_with_the_same_words_are_two() -> None:
    """What comes again is told by its id and its deltas, not by its words alone."""
    for item_ids in ((None, None), ("t1", "t2"), ("chunk-0000001", "chunk-0000009")):
        session = KotobaSession()
        for n, item_id in enumerate(item_ids):
            session.speak(1_000)
            session.receive(delta("yes", item_id), completed("yes", item_id))
            assert session.texts == ["yes"] * (n + 1)


def test_a_completed_that_comes_again_does_not_end_a_turn_with_the_same_words() -> None:
    """Its append tells that it is the former one's."""
    session = KotobaSession()
    session.speak(1_000)
    first = completed("yes", "chunk-0000001")
    session.receive(delta("yes", "chunk-0000001"), first, delta("yes", "chunk-0000009"), first)
    session.receive(delta(" sir", "chunk-0000009"), completed("yes sir", "chunk-0000009"))
    session.end()

    assert session.texts == ["yes", "yes sir"]


def test_a_completed_that_comes_again_in_another_spelling_is_not_said_again() -> None:
    """Without an id, its words tell."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one"), completed("one"), completed("One."))
    session.end()

    assert session.texts == ["one"]


@pytest.mark.parametrize(
    ("told", "texts"),
    [
        (completed("", "t0"), ["one two"]),
        (completed("", "t0", 0, 100), ["one two"]),
        (completed("eins", "t0"), ["eins", "two"]),
        (completed("eins", "t0", 100, 900), ["eins", "two"]),
        (completed("zero", "t0", 0, 50), ["zero", "one two"]),
    ],
)
def test_a_completed_that_was_put_to_the_wrong_turn_doubles_nothing(
    told: wire.Completed, texts: list[str]
) -> None:
    """The turn goes on, and its own `completed` says the rest."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1", 100, 500), told)
    session.speak(1_000)
    session.receive(delta(" two", "t1", 1_200, 1_500), completed("one two", "t1", 100, 1_500))
    session.wait(1.0)
    session.end()

    assert session.texts == texts


def test_a_turn_has_one_completed_whatever_later_ones_say_of_it() -> None:
    """By the id of its deltas, and by that of its `completed` where this is another."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "a1"), delta(" two", "a2"), completed("one two", "c1"))
    session.receive(*[completed("eins zwei", item_id) for item_id in ("a1", "a2", "c1")])
    session.receive(delta("three", "a3"), completed("Three, or four", "c3"))
    session.receive(*[completed("drei", item_id) for item_id in ("a3", "c3")])
    session.end()

    assert session.texts == ["one two", "Three, or four"]


def test_a_server_that_reuses_one_id_may_spell_its_turns_otherwise() -> None:
    """The id is known, and names the turn that is open now."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "item"), completed("one", "item"))
    session.receive(delta("two", "item"), completed("2", "item"))

    assert session.texts == ["one", "2"]


def test_a_completed_is_put_to_the_turn_at_its_place() -> None:
    """Neither its id nor its words are known; the place may be a moment only."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1", 100, 300), delta("two", "t2", 500, 500))
    session.receive(completed("zwei", "x2", 500, 500), completed("eins", "x1", 120, 280))

    assert session.texts == ["eins", "zwei"]


def test_what_one_turn_has_said_is_not_taken_from_another() -> None:
    """The first was ended by us, and its `completed` never comes."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1", 100, 900, 1_000))
    session.flush()
    session.wait(3.0)
    session.speak(1_000)
    session.receive(delta("one", "t2"), delta(" tree", "t2"), completed("one three", "t2"))

    assert session.texts == ["one", "one three"]


@pytest.mark.parametrize(
    ("goes_on", "texts"), [([], ["one"]), ([delta(" two", "t1")], ["one", "two"])]
)
def test_a_turn_that_was_ended_by_us_keeps_the_words_it_was_heard_as(
    goes_on: list[wire.Delta], texts: list[str]
) -> None:
    """Where its `completed` spells them otherwise, nobody knows what of it is new."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1", 100, 900, 1_000))
    session.flush()
    session.wait(3.0)
    session.receive(*goes_on, completed("1 2", "t1"))
    session.end()

    assert session.texts == texts


def test_a_turn_may_begin_with_the_word_that_the_one_before_was_heard_as() -> None:
    """Both are spelled otherwise than they were heard."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("two"), completed("2"))
    session.receive(delta("two"), delta(" docks"), completed("two dogs"))

    assert session.texts == ["2", "two dogs"]


@pytest.mark.parametrize("late", [completed("one"), completed("One two.")])
def test_what_a_completed_has_had_is_not_taken_from_the_next_one(late: wire.Completed) -> None:
    """The next turn may begin with the same word, and be spelled otherwise than it was heard."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", None, 100, 900, 1_000))
    session.flush()
    session.wait(3.0)
    session.receive(late)
    before = session.texts
    session.receive(delta("one"), delta(" tree"), completed("one three"))
    session.end()

    assert before[0] == "one"
    assert session.texts == [*before, "one three"]


def test_turns_that_nobody_ends_are_bounded() -> None:
    """The oldest end as they were heard."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(*[delta(f"turn {n}", f"t{n}") for n in range(OPEN_MAX)])
    assert session.texts == []
    session.receive(delta("one", "u1"), delta("two", "u2"))

    assert session.texts == ["turn 0", "turn 1"]


def test_where_ids_have_agreed_an_unknown_one_is_of_another_turn() -> None:
    """Its deltas were lost, or come later; the open turn goes on."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1"), completed("one", "t1"))
    session.receive(delta("two", "t2"), completed("three", "t3"), delta("three", "t3"))
    session.receive(completed("two", "t2"))
    session.end()

    assert session.texts == ["one", "two", "three"]


def test_deltas_that_come_behind_their_completed_are_not_said_again() -> None:
    """All of them."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(completed("One two.", "t1"), delta("one", "t1"), delta(" two", "t1"))
    session.receive(delta(".", "t1"))
    session.end()

    assert session.texts == ["One two."]


def test_a_late_delta_of_a_turn_that_is_complete_is_not_said_again() -> None:
    """The whole turn was in `completed`."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("good", "t1"), completed("Good morning.", "t1"), delta(" morning", "t1"))
    session.end()

    assert session.texts == ["Good morning."]


def test_a_server_that_reuses_one_id_loses_no_turn() -> None:
    """Ids are nothing to rely on: text behind a `completed` that did not have it is new."""
    session = KotobaSession()
    for text in ("one", "two", "three"):
        session.speak(1_000)
        session.receive(delta(text, "item"), completed(text, "item"))
    session.end()

    assert session.texts == ["one", "two", "three"]


def test_a_lost_completed_holds_the_next_turn_up_for_a_second_only() -> None:
    """Then the turn ends as it was heard; its `completed`, if it comes, says nothing new."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1"))
    session.speak(1_000)
    session.receive(delta("two", "t2"), completed("two", "t2"))
    assert session.texts == []
    session.wait(1.0)
    assert session.texts == ["one", "two"]
    session.receive(completed("One!", "t1"))
    session.end()

    assert session.texts == ["one", "two"]


def test_a_lost_completed_without_ids_is_found_by_the_next_one() -> None:
    """Both turns look like one; `completed` tells where the second begins."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one"))
    session.speak(1_000)
    session.receive(delta(" two"), delta(" three"), completed("two three"))
    session.wait(1.0)
    session.end()

    assert session.texts == ["one", "two three"]


def test_a_completed_without_ids_may_come_behind_the_next_turns_beginning() -> None:
    """What is not in it goes on."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one"), delta(" two"), delta("three"), completed("one two"))
    session.receive(delta(" four"), completed("three four"))
    session.end()

    assert session.texts == ["one two", "three four"]


def test_a_lost_completed_is_made_up_for_in_a_pause() -> None:
    """The server goes on to say that it hears nothing: the turn is over, and time is covered."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1", 100, 900, 900))
    session.speak(6_000)
    results = session.receive(delta("", None, None, None, 6_800))

    assert [r.text for r in results if isinstance(r, Heard)] == ["one"]
    assert results[-1] == Covered(6_800)


def test_a_turn_that_was_ended_by_us_and_goes_on_is_not_said_twice() -> None:
    """Its `completed` has all of it; only the rest is new."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1", 100, 900, 1_000))
    session.flush()
    session.wait(3.0)
    assert (session.texts, session.n_flushed) == (["one"], 1)
    session.receive(delta(" two", "t1"), completed("One, two.", "t1"))
    session.end()

    assert session.texts == ["one", "two."]


def test_segments_of_our_own_are_no_doubles_when_the_server_ends_turns_after_all() -> None:
    """An `updated` without its settings leaves open who ends them."""
    session = KotobaSession(turn_detection=False)
    session.speak(1_000)
    session.receive(delta("Hello there."), delta(" How are"), delta(" you"))
    session.receive(completed("Hello there. How are you?"))
    session.end()

    assert session.texts == ["Hello there.", "How are you?"]


def test_two_sentences_at_one_place_are_both_said() -> None:
    """The segmenter drops a final that ends where the one before it did."""
    session = KotobaSession(turn_detection=False)
    session.speak(1_000)
    session.receive(*[delta(f"{n}.", "chunk-0000004") for n in range(3)])
    session.end()
    finals = [r for r in session.results if isinstance(r, Heard) and r.is_final]

    assert [f.text for f in finals] == ["0.", "1.", "2."]
    covered_ms = 0
    for final in finals:
        assert final.end_ms > covered_ms
        assert final.covered_ms is not None
        covered_ms = final.covered_ms
    assert covered_ms <= 1_000


def test_turns_behind_the_end_of_all_audio_are_all_said() -> None:
    """Without times, everything that comes after `commit` seems to be at the end."""
    session = KotobaSession()
    session.speak(1_000)
    session.finish()
    results = session.receive(
        delta("one"), completed("one"), delta("two"), completed("two"), wire.Committed()
    )
    finals = [r for r in results if isinstance(r, Heard) and r.is_final]

    assert [f.text for f in finals] == ["one", "two"]
    assert finals[1].end_ms > (finals[0].covered_ms or 0)


def test_case_15_a_pause_ends_a_turn_where_the_server_ends_none() -> None:
    """The silence that we send counts as the pause that it is."""
    session = KotobaSession(turn_detection=False)
    session.speak(1_000)
    session.receive(delta("no end", "chunk-0000009"))

    assert texts_of(session.wait(2.0)) == ["no end"]


def test_a_flush_ends_a_turn_where_the_server_ends_none() -> None:
    """Also while the audio goes on, and there is no pause."""
    session = KotobaSession(turn_detection=False)
    session.speak(1_000)
    session.receive(delta("no end", "chunk-0000009"))
    session.flush()
    for n in range(30):
        session.speak(100)
        if n < 10:
            session.receive(delta(" x"))

    assert session.n_flushed == 1
    assert session.texts[0].startswith("no end")


@pytest.mark.parametrize(("step_ms", "end_ms"), [(100, 300), (250, 250), (320, 300), (1_000, 300)])
def test_text_is_placed_by_the_append_it_names_whatever_the_bus_brought(
    step_ms: int, end_ms: int
) -> None:
    """Chunks of the bus are longer than an append; a rest of one is not kept waiting."""
    session = KotobaSession()
    session.speak(2_000 // step_ms * step_ms, step_ms=step_ms)
    (heard,) = session.receive(delta("a", "chunk-0000003"))

    assert isinstance(heard, Heard)
    assert (heard.start_ms, heard.end_ms) == (200, end_ms)


@pytest.mark.parametrize("half", [{"start_ms": 100}, {"end_ms": 100}])
def test_half_a_time_is_none(half: dict[str, int]) -> None:
    """The append that a text names has both."""
    session = KotobaSession()
    session.speak(1_000)
    (partial,) = session.receive(wire.Delta(item_id="chunk-0000003", delta="a", **half))
    (final,) = session.receive(wire.Completed(item_id="chunk-0000003", transcript="a", **half))

    assert isinstance(partial, Heard)
    assert (partial.start_ms, partial.end_ms) == (200, 300)
    assert isinstance(final, Heard)
    assert (final.start_ms, final.end_ms) == (200, 300)


def test_text_behind_our_silence_is_placed_where_the_audio_goes_on() -> None:
    """Silence takes no time of the stream."""
    session = KotobaSession()
    session.speak(250, step_ms=250)
    session.wait(0.6)
    sent = session.speak(300, step_ms=300)
    (heard,) = session.receive(delta("a", sent[0]["event_id"]))

    assert isinstance(heard, Heard)
    assert (heard.start_ms, heard.end_ms) == (250, 350)


def test_flushes_are_bounded_and_those_open_at_the_end_are_answered() -> None:
    """By `committed`: all audio is transcribed then."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1"))
    for _ in range(FLUSHES_MAX + 10):
        session.flush()
    results = session.end()

    assert results == [
        Heard(
            text="one",
            is_final=True,
            start_ms=900,
            end_ms=1_000,
            covered_ms=0,
            language="ja",
        ),
        Covered(1_000),
        *[Flushed()] * FLUSHES_MAX,
        Finished(),
    ]


def test_a_flush_before_the_session_is_set_up_waits_for_it() -> None:
    """Its audio has not been sent yet."""
    session = KotobaSession(is_open=False)
    session.speak(1_000)
    session.flush()
    session.wait(3.0)
    assert session.n_flushed == 0
    session.receive(wire.Updated(session=wire.Session(turn_detection=wire.ServerVad())))
    session.wait(1.0)
    assert session.n_flushed == 0
    session.wait(1.5)

    assert session.n_flushed == 1


def test_a_flush_while_the_audio_goes_on_is_answered_when_all_before_it_was_heard() -> None:
    """The turn goes on, and its end says the rest."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1", 100, 900, 900))
    session.flush()
    session.speak(2_100)
    session.receive(delta(" two", "t1", 1_200, 1_400, 1_400))
    session.wait(0.1)
    assert (session.texts, session.n_flushed) == (["one two"], 1)
    session.receive(delta(" three", "t1"), completed("One two three.", "t1"))
    session.end()

    assert session.texts == ["one two", "three."]


def test_a_flush_is_answered_by_the_completed_that_has_heard_all_before_it() -> None:
    """Nobody waits longer than the server takes to end the turn."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1", 100, 900, 900))
    session.flush()
    session.wait(0.7)
    assert session.n_flushed == 0

    assert session.receive(completed("one", "t1", 100, 900, 1_500))[-1] == Flushed()


def test_nothing_is_sent_behind_commit() -> None:
    """It would not be transcribed."""
    session = KotobaSession()
    session.speak(1_000)
    session.flush()
    session.finish()

    assert list(session.protocol.handle_deadline(now_s=session.now_s + 20.0)) == []


def test_committed_that_we_did_not_ask_for_ends_nothing() -> None:
    """OpenAI's servers say it for every turn; taken as the end, it would close the stream."""
    session = KotobaSession()
    session.speak(1_000)

    assert session.receive(wire.Committed()) == []
    session.receive(delta("one", "t1"), completed("one", "t1"))
    assert session.texts == ["one"]


def test_nothing_follows_the_end() -> None:
    """Whoever takes the results is gone."""
    session = KotobaSession()
    session.speak(1_000)
    session.end()

    assert session.receive(delta("late", "t9"), completed("late", "t9"), wire.Committed()) == []


def test_a_server_that_falls_silent_is_left_though_it_answers_pings() -> None:
    """It has told about every pause; now it tells nothing, and audio goes on."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("", None, None, None, 900))
    with pytest.raises(ProviderUnavailableError, match="unanswered"):
        session.speak(15_000)


def test_a_server_that_falls_silent_inside_a_turn_is_left() -> None:
    """A turn that was heard in part is heard again by the next session."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("one", "t1"))
    with pytest.raises(ProviderUnavailableError, match="unanswered"):
        session.wait(15.0)
    assert session.texts == []


def test_a_server_that_never_speaks_of_silence_may_be_silent() -> None:
    """Nothing says that it has to: it would be left again and again."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(
        delta("one", "t1", 100, 500, 500),
        delta("", "t1", 500, 900, 900),
        completed("one", "t1", 100, 500, 900),
    )
    session.speak(30_000)
    session.wait(120.0)
    session.end()

    assert session.results[-1] == Finished()


def test_a_flush_is_not_answered_by_a_server_that_has_fallen_silent() -> None:
    """What was said before it was perhaps never heard."""
    session = KotobaSession()
    session.speak(1_000)
    session.receive(delta("", None, None, None, 900))
    session.speak(1_000)
    session.flush()
    with pytest.raises(ProviderUnavailableError, match="unanswered"):
        session.wait(TIMEOUT_S + 0.1)

    assert session.n_flushed == 0


def test_the_handshake_has_its_time_from_the_first_word_of_the_server_on() -> None:
    """Also on a stream that has no audio yet."""
    session = KotobaSession(is_open=False)
    session.receive(wire.Created())
    with pytest.raises(ProviderUnavailableError, match="not_updated"):
        session.wait(10.1)


def test_case_08_an_empty_completed_takes_no_words_back() -> None:
    """Of a turn without words it says nothing; deltas cannot be taken back (providers.md 1.6)."""
    session = KotobaSession()
    session.speak(1_000)
    assert texts_of(session.receive(completed("", "t0"))) == []
    session.receive(delta("one", "t1"), completed("", "t1"))

    assert session.texts == ["one"]


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"transcription_session.updated"}',
        '{"type":"transcription_session.updated","session":{"turn_detection":null}}',
        '{"type":"transcription_session.updated","session":{"turn_detection":true}}',
        '{"type":"transcription_session.updated","session":{"input_audio_transcription":'
        '{"keywords":null}}}',
    ],
)
def test_case_25_whatever_updated_echoes_the_session_is_open(text: str) -> None:
    """Only that it came matters; who ends turns shows."""
    session = KotobaSession(is_open=False)
    assert session.speak(100) == []
    messages = session.protocol.receive_message(text, now_s=session.now_s)

    assert len(messages) == 1
    session.receive(delta("one"), completed("one"))
    assert session.texts == ["one"]


def test_a_delta_without_an_item_id_is_text() -> None:
    """One of the documents calls it optional (providers.md 1.1)."""
    session = KotobaSession()
    session.speak(1_000)
    text = '{"type":"conversation.item.input_audio_transcription.delta","delta":"a"}'
    session.protocol.receive_message(text, now_s=session.now_s)
    text = '{"type":"conversation.item.input_audio_transcription.completed","transcript":"a"}'
    session.protocol.receive_message(text, now_s=session.now_s)

    assert texts_of(session.protocol.results_received()) == ["a"]


@pytest.mark.parametrize(
    ("told", "expected"), [((400, 399), (399, 399)), ((-1, 400), (0, 400)), ((-5, -9), (0, 0))]
)
def test_times_that_run_backwards_end_no_session(
    told: tuple[int, int], expected: tuple[int, int]
) -> None:
    """They would come again with the same audio, until the stream has left the provider."""
    session = KotobaSession()
    session.speak(1_000)
    (partial,) = session.receive(delta("one", "t1", *told))

    assert isinstance(partial, Heard)
    assert (partial.start_ms, partial.end_ms) == expected
