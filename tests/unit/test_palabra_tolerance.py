"""What Palabra's adapter makes of servers that differ from what is written about them."""

import pytest

from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Flushed,
    HttpResponse,
    ProviderUnavailableError,
    Translated,
    WebSocketConnect,
)
from speechbus_transcriber.providers.palabra import (
    FIN_TIMEOUT_S,
    PROBE_AFTER_MS,
    QUIET_S,
    PalabraAccount,
)
from speechbus_transcriber.providers.palabra_segments import FINALS_MAX, OPEN_MAX
from speechbus_transcriber.providers.palabra_translations import HELD_MAX, WANTED_MS
from tests.support.palabra_session import (
    API,
    URL,
    WITH_CREDENTIALS,
    Session,
    build,
    final,
    partial,
    publish,
)

FINALIZE = '{"message_type":"finalize"}'


def test_a_session_may_be_a_token_and_nothing_else() -> None:
    """The seed's program reads no other field; what has no id cannot be deleted."""
    protocol = build(account=WITH_CREDENTIALS)
    body = b'{"data":{"publisher":"jwt","subscriber":null}}'
    protocol.receive_response(HttpResponse(status=200, body=body), now_s=0.0)
    request = protocol.connect_request()

    assert isinstance(request, WebSocketConnect)
    assert "?token=jwt&format=pcm_s16le&" in request.url
    assert protocol.farewell_requests() == ()


def test_an_id_of_a_session_cannot_change_the_path() -> None:
    """It comes from outside."""
    protocol = build(account=WITH_CREDENTIALS)
    body = b'{"data":{"id":"../a?b","publisher":"jwt"}}'
    protocol.receive_response(HttpResponse(status=201, body=body), now_s=0.0)
    (request,) = protocol.farewell_requests()

    assert request.url == "https://api.example/session-storage/sessions/..%2Fa%3Fb"


def test_a_key_goes_before_client_credentials() -> None:
    """It needs no session, and stays out of URLs."""
    both = PalabraAccount(stt_url=URL, api_url=API, api_key="k", client_id="i", client_secret="s")
    request = build(account=both).connect_request()

    assert isinstance(request, WebSocketConnect)
    assert request.headers == (("Authorization", "Bearer k"),)
    assert "token" not in request.url


@pytest.mark.parametrize(
    "delta", [None, {}, {"text": ""}, "hint", {"text": "x", "start_time": None, "end_time": 0.1}]
)
def test_a_strange_delta_costs_no_text(delta: object) -> None:
    """It is only a hint, and is said to be missing or empty at times."""
    session = Session()
    session.speak(1_000)
    segment = {"text": "hello", "start_time": 0.1, "end_time": 0.5}

    assert session.receive(
        {
            "message_type": "transcription",
            "transcription_id": "a",
            "language": "en",
            "is_eos": False,
            "segment": segment,
            "delta": delta,
        }
    ) == [partial("hello", 100, 500, "a")]


@pytest.mark.parametrize("kind", ["error", "warning", "pong"])
def test_messages_of_its_other_protocol_are_ignored(kind: str) -> None:
    """The shared parser of its SDK knows them; the stream ends by a close frame, if it ends."""
    session = Session()

    assert session.receive({"message_type": kind, "data": {"code": "AUDIO_STREAM_STALLED"}}) == []


@pytest.mark.parametrize(
    "text", ["Hello.<fin>", "Hello. <fin> ", "<fin>Hello.", "Hel<fin>lo.", "<fin>Hello.<fin>"]
)
@pytest.mark.parametrize("is_eos", [True, False])
def test_nobody_says_the_marker(text: str, *, is_eos: bool) -> None:
    """Wherever it stands, and whatever the flag says, it answers the finalize."""
    session = Session()
    session.speak(1_000)
    session.protocol.flush(now_s=session.now_s)

    assert session.say("a", text, 0, 800, is_eos=is_eos) == [
        final("Hello.", 0, 800, "a"),
        Covered(1_000),
        Flushed(),
    ]


@pytest.mark.parametrize("is_eos", [True, False])
@pytest.mark.parametrize("segment_id", ["a", "another"])
def test_the_marker_alone_takes_no_words_back(segment_id: str, *, is_eos: bool) -> None:
    """It says that all was heard, and nothing about a segment."""
    session = Session()
    session.speak(1_000)
    session.say("a", "hello", 0, 800)
    session.protocol.flush(now_s=session.now_s)

    assert session.say(segment_id, "<fin>", 0, 0, is_eos=is_eos) == [
        final("hello", 0, 800, "a"),
        Covered(1_000),
        Flushed(),
    ]


def test_a_marker_without_a_question_is_no_answer_to_the_next() -> None:
    """`finalization_mode=auto` may end segments by itself."""
    session = Session()
    session.speak(1_000)

    assert session.say("a", "Hello.<fin>", 0, 800) == [final("Hello.", 0, 800, "a")]
    session.protocol.flush(now_s=session.now_s)
    assert session.say("f", "<fin>", 0, 0) == [Covered(1_000), Flushed()]


def speak_and_rest() -> Session:
    """A session at a server without `finalize` that has ended its segment; then a quiet second."""
    session = Session()
    session.speak(3_000)
    session.say("a", "Hello.", 300, 1_800, is_eos=True)
    session.speak(1_000)
    return session


def test_a_quiet_end_has_an_end_without_finalize() -> None:
    """Silence has nothing to say; as an error it would bring sessions that hear only silence."""
    session = speak_and_rest()
    session.finish()

    assert session.wait(FIN_TIMEOUT_S - 0.1) == []
    assert session.wait(0.2) == [Finished(is_sure=False)]


def test_a_flush_in_silence_is_answered_without_finalize_and_covers_nothing() -> None:
    """Nothing is open, and no marker tells that all was heard."""
    session = speak_and_rest()
    session.protocol.flush(now_s=session.now_s)

    assert session.wait(FIN_TIMEOUT_S + 0.1) == [Flushed()]


@pytest.mark.parametrize("has_spoken", [True, False])
def test_pauses_end_no_session_without_finalize(*, has_spoken: bool) -> None:
    """It is asked once; that nobody listens is seen when somebody speaks (`deaf_after_s`)."""
    session = speak_and_rest() if has_spoken else Session()
    sent: list[str | bytes] = []
    for _ in range(20):
        sent += session.speak(5_000)
        assert session.wait(0) == []

    assert sent.count(FINALIZE) == 1


def test_what_is_open_keeps_the_silence_from_being_an_answer() -> None:
    """Silence would have ended it: nobody listens, and a new session hears the audio again."""
    session = speak_and_rest()
    session.say("b", "and", 3_500, 3_900)
    session.finish()

    with pytest.raises(ProviderUnavailableError, match="finalize_unanswered"):
        session.wait(FIN_TIMEOUT_S + 0.1)


def test_the_end_of_a_session_that_never_spoke_is_no_answer() -> None:
    """It may have been deaf from the start, and what was said too short to tell."""
    session = Session()
    session.speak(30_000)
    session.finish()

    with pytest.raises(ProviderUnavailableError, match="finalize_unanswered"):
        session.wait(FIN_TIMEOUT_S + 0.1)


@pytest.mark.parametrize("n_late", [0, 1])
def test_who_has_answered_finalize_is_asked_in_each_pause(n_late: int) -> None:
    """Then no answer is a dead session; also when the first answer was late."""
    session = speak_and_rest()
    session.speak(PROBE_AFTER_MS)
    session.wait(n_late * (FIN_TIMEOUT_S + 0.1))
    assert isinstance(session.say("f", "<fin>", 0, 0)[-1], Covered)
    sent = session.speak(PROBE_AFTER_MS + 5_000)

    assert FINALIZE in sent
    with pytest.raises(ProviderUnavailableError, match="finalize_unanswered"):
        session.wait(FIN_TIMEOUT_S + 0.1)


def ask_twice_and_give_up_once() -> Session:
    """A session with a finalize at 2 s that was given up, and another one at 12.2 s."""
    session = Session()
    session.speak(2_000)
    session.protocol.flush(now_s=session.now_s)
    session.speak(3_000)
    session.say("a", "hello", 300, 1_800)
    session.speak(7_200)
    assert session.wait(0) == [final("hello", 300, 1_800, "a"), Flushed()]
    session.protocol.flush(now_s=session.now_s)
    return session


def test_a_late_marker_is_no_answer_to_the_next_question() -> None:
    """It says what was heard before its own, and that was told as answered."""
    session = ask_twice_and_give_up_once()

    assert session.say("f", "<fin>", 0, 0) == [Covered(2_000)]
    assert session.say("b", "world and more", 3_000, 6_000, is_eos=True) == [
        final("world and more", 3_000, 6_000, "b")
    ]
    assert session.say("g", "<fin>", 0, 0) == [Covered(12_200), Flushed()]


def test_a_marker_that_was_passed_over_is_not_waited_for() -> None:
    """Words behind its place come behind it: else each marker would be taken for the one before."""
    session = ask_twice_and_give_up_once()
    session.say("b", "world and", 3_000, 5_000)

    assert session.say("b", "world and more<fin>", 3_000, 6_000, is_eos=True) == [
        final("world and more", 3_000, 6_000, "b"),
        Covered(12_200),
        Flushed(),
    ]


def test_no_time_is_behind_the_audio() -> None:
    """Finals cover to their end: what was not sent yet must not count as heard."""
    session = Session()
    session.speak(1_000)

    assert session.say("a", "Hello.", 300, 1_080, is_eos=True) == [final("Hello.", 300, 1_000, "a")]


def test_words_whose_time_is_wrong_are_still_heard_at_the_end() -> None:
    """What begins behind all audio is cut to its end, and said before `Finished`."""
    session = Session()
    session.speak(1_000)
    session.say("a", "hello", 1_010, 1_200)
    session.finish()

    assert session.say("f", "<fin>", 0, 0) == [final("hello", 1_000, 1_000, "a"), Finished()]


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "heard_at"),
    [(500, 499, (500, 500)), (500, 0, (500, 500)), (-1, 400, (0, 400)), (-2, -1, (0, 1))],
)
def test_words_at_impossible_times_are_heard(
    start_ms: int, end_ms: int, heard_at: tuple[int, int]
) -> None:
    """As an error they would come again with the same audio, for ever."""
    session = Session()
    session.speak(1_000)
    results = session.say("a", "Hello.", start_ms, end_ms, is_eos=True)

    assert [(said.text, said.start_ms, said.end_ms) for said in publish(results)] == [
        ("Hello.", *heard_at)
    ]


def test_finals_that_overlap_are_put_one_behind_the_other() -> None:
    """Segments tile the stream, whatever a recognizer's padding says."""
    session = Session()
    session.speak(2_000)
    session.say("a", "One.", 0, 900, is_eos=True)

    assert session.say("b", "Two.", 820, 1_500, is_eos=True) == [final("Two.", 900, 1_500, "b")]


def test_words_inside_what_is_covered_are_not_dropped() -> None:
    """They were not said before only because their time says so; they cover no more for that."""
    session = Session()
    session.speak(3_000)
    results = session.say("a", "I think that", 0, 2_000, is_eos=True)
    results += session.say("b", "yes exactly", 1_500, 1_900, is_eos=True)
    results += session.say("c", "exactly", 1_500, 1_900, is_eos=True)
    results += session.say("d", "So be it.", 2_000, 2_600, is_eos=True)

    assert results == [
        final("I think that", 0, 2_000, "a"),
        final("yes exactly", 2_000, 2_001, "b", covered_ms=2_000),
        final("exactly", 2_001, 2_001, "c", covered_ms=2_000),
        final("So be it.", 2_001, 2_600, "d"),
    ]
    assert [said.text for said in publish(results)] == [
        "I think that",
        "yes exactly",
        "exactly",
        "So be it.",
    ]


def test_case_08_an_empty_final_that_nobody_saw_is_not_told() -> None:
    """It would take back what is shown of another segment."""
    session = Session()
    session.speak(1_000)
    session.say("b", "hello", 500, 800)

    assert session.say("a", "", 0, 300, is_eos=True) == []
    assert session.say("b", "Hello.", 500, 800, is_eos=True) == [final("Hello.", 500, 800, "b")]


def test_case_08_a_final_without_words_has_no_translation() -> None:
    """There is no final that it could be joined to; words that come after all have one."""
    session = Session("es")
    session.speak(1_000)
    session.say("a", "uh", 0, 300)
    session.say("a", "", 0, 300, is_eos=True)

    assert session.translate("a", "es", "eh") == []
    assert session.say("a", "Uh-huh.", 0, 500, is_eos=True) == [
        final("Uh-huh.", 300, 500, "a"),
        Translated(provider_transcription_id="a", language="es", text="eh"),
    ]


def test_nothing_comes_after_the_end() -> None:
    """The driver closes on it."""
    session = Session()
    session.speak(1_000)
    session.finish()

    assert session.say("f", "<fin>", 0, 0) == [Covered(1_000), Finished()]
    assert session.say("a", "Late.", 0, 500, is_eos=True) == []


def test_a_segment_that_is_silent_for_long_is_asked_about() -> None:
    """A final that never comes must not hide a dead session, or stop what counts as heard."""
    session = Session()
    session.speak(1_000)
    session.say("a", "hello", 0, 800)
    sent = session.speak(PROBE_AFTER_MS)

    assert sent[-1] == FINALIZE
    assert session.say("f", "<fin>", 0, 0) == [
        final("hello", 0, 800, "a"),
        Covered(PROBE_AFTER_MS + 1_000),
    ]


def test_a_long_segment_that_grows_is_not_cut() -> None:
    """A finalize in the middle of a sentence would end it."""
    session = Session()
    sent: list[str | bytes] = []
    for second in range(1, 41):
        sent += session.speak(1_000)
        session.say("a", "word " * second, 0, 1_000 * second)

    assert FINALIZE not in sent


def test_giving_up_our_own_question_cuts_no_segment() -> None:
    """A server without the marker goes on with what it is saying."""
    session = Session()
    session.speak(PROBE_AFTER_MS)
    session.say("a", "I", 14_000, 14_900)
    until_s = session.now_s + FIN_TIMEOUT_S

    assert session.wait(FIN_TIMEOUT_S + 0.1) == []
    assert session.now_s > until_s
    assert session.say("a", "I see.", 14_000, 15_000, is_eos=True) == [
        final("I see.", 14_000, 15_000, "a")
    ]


def test_case_14_silence_goes_out_no_faster_than_time() -> None:
    """A burst would delay what is said next; 320 ms a second keep the session well enough."""
    session = Session()
    session.speak(1_000)
    sent: list[str | bytes] = []
    for _ in range(30):
        session.now_s += QUIET_S
        sent += session.protocol.handle_deadline(now_s=session.now_s)

    assert sum(len(message) for message in sent if isinstance(message, bytes)) <= 30 * 32_000 // 3


def test_targets_are_asked_for_in_lower_case_and_told_as_they_were_asked_for() -> None:
    """`fr-ca` is the one spelling of a region that was seen at Palabra."""
    session = Session("pt-BR")
    session.speak(1_000)
    request = session.protocol.connect_request()
    session.say("a", "Hello.", 0, 800, is_eos=True)

    assert isinstance(request, WebSocketConnect)
    assert "translate_languages=pt-br" in request.url
    assert session.translate("a", "pt-br", "Olá.<fin>") == [
        Translated(provider_transcription_id="a", language="pt-BR", text="Olá.")
    ]


def test_case_03_a_translation_said_twice_is_told_once_and_a_changed_one_again() -> None:
    """Like finals: subscribers need not compare."""
    session = Session("es")
    session.speak(1_000)
    session.say("a", "Hello.", 0, 800, is_eos=True)
    hola = Translated(provider_transcription_id="a", language="es", text="Hola.")

    assert session.translate("a", "es", "Hola.") == [hola]
    assert session.translate("a", "es", "Hola.") == []
    assert session.translate("a", "es", "¡Hola!") == [
        Translated(provider_transcription_id="a", language="es", text="¡Hola!")
    ]
    assert session.translate("a", "fr", "Salut.") == []  # nobody asked


def test_case_05_the_end_does_not_wait_for_what_was_missing_long_ago() -> None:
    """A translation that a minute did not bring comes no more."""
    session = Session("es")
    session.speak(1_000)
    session.say("a", "Hello.", 0, 800, is_eos=True)
    session.speak(WANTED_MS)
    session.say("f", "<fin>", 0, 0)
    session.finish()

    assert session.say("f", "<fin>", 0, 0)[-1] == Finished()


def test_what_is_remembered_has_a_bound() -> None:
    """Whatever a server sends: the newest are kept."""
    session = Session("es")
    session.speak(1_000)
    for number in range(HELD_MAX + 1):
        session.translate(f"t{number}", "es", "Hola.")
    released = [
        session.say(f"t{number}", "Hello.", 0, number, is_eos=True) for number in (0, HELD_MAX)
    ]

    assert [len(results) for results in released] == [1, 2]
    opened = [session.say(f"o{number}", "x", 500, 500) for number in range(OPEN_MAX + 1)]
    assert opened[-1] == [final("x", 500, 500, "o0")]
    for number in range(FINALS_MAX):
        session.say(f"f{number}", "x", 600, 700, is_eos=True)
    assert session.translate("t0", "es", "Hola.") == []
