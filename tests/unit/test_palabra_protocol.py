"""Palabra's adapter against golden transcripts, and its share of the awkward cases."""

import pytest

from speechbus_transcriber.providers.closing import close_error, status_error
from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Flushed,
    Heard,
    HttpExchange,
    HttpResponse,
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderUnavailableError,
    Result,
    Translated,
)
from speechbus_transcriber.providers.palabra import (
    FIN_TIMEOUT_S,
    FORMER_S,
    PROBE_AFTER_MS,
    TRANSLATIONS_TIMEOUT_S,
)
from tests.support.golden import read_golden, replay, transcripts_of
from tests.support.palabra_session import (
    WITH_CREDENTIALS,
    WITH_KEY,
    Session,
    build,
    final,
    partial,
)

FINALIZE = '{"message_type":"finalize"}'
NAMES = transcripts_of("palabra/client")


def play(name: str, *targets: str) -> tuple[list[Result], str | None]:
    """Replay one transcript."""
    account = WITH_CREDENTIALS if name == "session" else WITH_KEY
    return replay(build(*targets, account=account), read_golden("palabra/client", name))


def test_every_required_case_has_a_transcript() -> None:
    """A case without one is a case that nobody has looked at."""
    assert NAMES == [
        "drop_inside_utterance",
        "error_then_close",
        "finish_without_marker",
        "flush_at_end",
        "idle_timeout",
        "normal",
        "rate_limit",
        "rejected_key",
        "session",
        "silence_with_keepalive",
        "translation",
        "two_utterances",
        "unknown_message",
    ]


def test_a_segment_is_heard_with_its_partials() -> None:
    """The ordinary conversation; what is said twice is heard once."""
    assert play("normal") == (
        [
            partial("hello", 100, 500, "a"),
            partial("hello world", 100, 600, "a"),
            final("Hello, world.", 100, 620, "a"),
            Covered(640),
            Finished(),
        ],
        None,
    )


def test_the_next_segment_is_shown_when_the_one_before_is_final() -> None:
    """The segmenter has one open segment: two at once would flicker."""
    results, error = play("two_utterances")

    assert error is None
    assert results[:3] == [
        partial("one", 100, 300, "a"),
        final("One.", 100, 300, "a"),
        final("Two.", 400, 620, "b"),
    ]


def test_case_14_silence_keeps_the_session_and_takes_no_stream_time() -> None:
    """Palabra closes after 10 s without audio; its times count our silence, the stream's do not."""
    results, error = play("silence_with_keepalive")

    assert error is None
    # 1.38 s of the session: 0.64 s of audio, twice 0.32 s of silence, 0.1 s of audio.
    assert results[:2] == [final("Hello.", 100, 500, "a"), final("Again.", 740, 860, "b")]


def test_a_flush_is_answered_by_the_marker_whatever_the_flag_says() -> None:
    """The marker has been seen with `is_eos` false (providers.md 3.6)."""
    assert play("flush_at_end") == (
        [
            partial("hello wor", 100, 600, "a"),
            final("Hello, world.", 100, 740, "a"),
            Flushed(),
            Finished(),
        ],
        None,
    )


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("rejected_key", "ProviderRejectedError:http_401"),
        ("rate_limit", "ProviderRateLimitedError:http_409"),
        ("idle_timeout", "ProviderUnavailableError:closed_1001"),
        ("drop_inside_utterance", "ProviderUnavailableError:connection_lost"),
        ("error_then_close", "ProviderUnavailableError:closed_1011"),
        ("unknown_message", None),
        ("session", None),
    ],
)
def test_each_end_says_what_to_do(name: str, ending: str | None) -> None:
    """Try again, try elsewhere, or wait."""
    assert play(name)[1] == ending


def test_case_11_an_active_session_is_waited_for_as_long_as_asked() -> None:
    """409: the session of a broken connection may live on for a while."""
    protocol = build()
    active = HttpResponse(status=409, body=b"", retry_after_s=3.0)
    with pytest.raises(ProviderRateLimitedError) as caught:
        protocol.receive_response(active, now_s=0.0)
    assert caught.value.retry_after_s == 3.0


def test_case_02_a_translation_before_its_final_waits_for_it() -> None:
    """Subscribers join by the final's id: nobody could know it yet."""
    results, error = play("translation", "es", "de")

    assert error is None
    assert results == [
        final("Hello.", 100, 500, "a"),
        Translated(provider_transcription_id="a", language="es", text="Hola."),
        Covered(640),
        Translated(provider_transcription_id="a", language="de", text="Hallo."),
        Finished(),
    ]


def test_case_01_a_rewritten_tail_overwrites_the_segment() -> None:
    """With the filler filter on, only the whole text is true."""
    session = Session()
    session.speak(1_000)

    assert session.say("a", "I uh think", 0, 500) == [partial("I uh think", 0, 500, "a")]
    assert session.say("a", "I think so", 0, 800) == [partial("I think so", 0, 800, "a")]


def test_case_04_a_translation_without_a_final_is_never_paired() -> None:
    """Better none than a wrong one."""
    session = Session("es")
    session.speak(1_000)

    assert session.translate("ghost", "es", "Hola.") == []
    session.finish()
    assert session.say("f", "<fin>", 0, 0) == [Covered(1_000), Finished()]


def test_case_05_the_end_waits_for_missing_targets_and_not_for_ever() -> None:
    """One of two languages may never come."""
    session = Session("es", "pt-BR")
    session.speak(1_000)
    session.say("a", "Hello.", 0, 800, is_eos=True)
    session.finish()
    assert session.say("f", "<fin>", 0, 0) == [Covered(1_000)]
    translated = Translated(provider_transcription_id="a", language="pt-BR", text="Olá.")

    assert session.translate("a", "pt", "Olá.") == [translated]
    assert session.wait(TRANSLATIONS_TIMEOUT_S - 0.1) == []
    assert session.wait(0.2) == [Finished()]


def test_case_06_a_final_said_again_corrects_the_newest_one() -> None:
    """An equal one is nothing new; an older one can no longer be changed."""
    session = Session()
    session.speak(3_000)
    session.say("a", "One.", 0, 500, is_eos=True)

    assert session.say("a", "One.", 0, 500, is_eos=True) == []
    assert session.say("a", "one", 0, 500) == []
    assert session.say("a", "One!", 0, 500, is_eos=True) == [final("One!", 0, 500, "a")]
    session.say("b", "Two.", 600, 900, is_eos=True)
    assert session.say("a", "One?", 0, 500, is_eos=True) == []


def test_case_07_a_segment_that_gets_no_final_becomes_one() -> None:
    """Its words were heard; a while after the next final, or at the end, no more come."""
    session = Session()
    session.speak(3_000)
    session.say("a", "never ended", 0, 500)

    assert session.say("b", "Next.", 700, 900, is_eos=True) == []
    assert session.wait(FORMER_S) == [
        final("never ended", 0, 500, "a"),
        final("Next.", 700, 900, "b"),
    ]
    session.say("c", "nor this", 1_000, 1_500)
    session.finish()
    assert session.say("f", "<fin>", 0, 0) == [
        final("nor this", 1_000, 1_500, "c"),
        Covered(3_000),
        Finished(),
    ]


def test_case_07_finals_out_of_order_are_put_in_order() -> None:
    """The later one waits: published first, it would push the words before it aside."""
    session = Session("es")
    session.speak(3_000)
    session.say("a", "hello wor", 0, 500)
    session.say("b", "ne", 700, 800)

    assert session.say("b", "Next.", 700, 900, is_eos=True) == []
    assert session.translate("b", "es", "Siguiente.") == []
    assert session.say("b", "late", 700, 900) == []
    assert session.say("a", "Hello, world.", 0, 600, is_eos=True) == [
        final("Hello, world.", 0, 600, "a"),
        final("Next.", 700, 900, "b"),
        Translated(provider_transcription_id="b", language="es", text="Siguiente."),
    ]
    assert session.wait(FORMER_S) == []


def test_case_08_a_segment_of_fillers_only_ends_empty() -> None:
    """The segmenter takes back what was shown."""
    session = Session()
    session.speak(1_000)
    session.say("a", "uh", 0, 300)

    assert session.say("a", "", 0, 300, is_eos=True) == [final("", 0, 300, "a")]


def test_case_22_audio_goes_out_as_recommended_however_it_came() -> None:
    """320 ms a message, no sample split; a rest waits as long as one message."""
    session = Session()

    assert [len(message) for message in session.speak(1_000)] == [10_240] * 3
    assert session.protocol.handle_deadline(now_s=session.now_s + 0.3) == [bytes(1_280)]


def test_case_27_each_segment_has_the_language_it_was_said_in() -> None:
    """With `auto` it changes from segment to segment, and may be unknown at first."""
    session = Session()
    session.speak(2_000)
    (first,) = session.say("a", "hola", 0, 500, language="auto")
    (second,) = session.say("a", "Hola.", 0, 500, is_eos=True, language="es")

    assert isinstance(first, Heard)
    assert isinstance(second, Heard)
    assert (first.language, second.language) == (None, "es")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (None, ProviderUnavailableError),
        (1000, ProviderUnavailableError),
        (1001, ProviderUnavailableError),
        (1006, ProviderUnavailableError),
        (1011, ProviderUnavailableError),
        (1012, ProviderUnavailableError),
        (1013, ProviderUnavailableError),
        (1008, ProviderRejectedError),
        (4001, ProviderRejectedError),
        (4999, ProviderUnavailableError),
        (4029, ProviderRateLimitedError),
    ],
)
def test_case_13_a_close_frame_without_a_word_is_told_by_its_code(
    code: int | None, kind: type[ProviderError]
) -> None:
    """After the upgrade Palabra says nothing else."""
    assert type(close_error(code, provider="palabra")) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderRejectedError),
        (401, ProviderRejectedError),
        (404, ProviderRejectedError),
        (408, ProviderUnavailableError),
        (409, ProviderRateLimitedError),
        (429, ProviderRateLimitedError),
        (500, ProviderUnavailableError),
        (503, ProviderUnavailableError),
        (301, ProviderUnavailableError),
    ],
)
def test_a_status_tells_what_to_do(status: int, kind: type[ProviderError]) -> None:
    """At the session's minting and at the upgrade alike."""
    assert type(status_error(HttpResponse(status=status, body=b""), provider="p")) is kind


def test_a_server_without_finalize_is_ended_by_silence() -> None:
    """The seed has no `finalize`: the last words come by silence, and the wait has an end."""
    assert play("finish_without_marker") == (
        [
            partial("hello wor", 100, 600, "a"),
            final("Hello, world.", 100, 640, "a"),
            Finished(is_sure=False),
        ],
        None,
    )


def test_an_unanswered_finalize_ends_the_session_unless_it_speaks() -> None:
    """A dead session must not pass for a silent one; one that knows no marker is no dead one."""
    dead, alive = Session(), Session()
    for session in (dead, alive):
        session.speak(1_000)
        session.protocol.flush(now_s=session.now_s)
    alive.say("a", "still here", 0, 800)

    with pytest.raises(ProviderUnavailableError, match="finalize_unanswered"):
        dead.wait(FIN_TIMEOUT_S + 0.1)
    assert alive.wait(FIN_TIMEOUT_S + 0.1) == [
        final("still here", 0, 800, "a"),
        Flushed(),  # and nothing is covered: only the marker tells that all was heard
    ]


def test_a_long_silence_is_asked_about_and_covered() -> None:
    """Else a new worker would read minutes again, and a dead session would look like a pause."""
    session = Session()
    sent = session.speak(PROBE_AFTER_MS)

    assert sent[-1] == FINALIZE
    assert session.say("f", "<fin>", 0, 0) == [Covered(PROBE_AFTER_MS)]
    session.speak(PROBE_AFTER_MS)
    with pytest.raises(ProviderUnavailableError, match="finalize_unanswered"):
        session.wait(FIN_TIMEOUT_S + 0.1)


def test_a_pause_ends_a_turn_once_it_is_known_that_finalize_does() -> None:
    """The first pause asks, and needs its silence; a server without it is asked no more."""
    knows, does_not = Session(), Session()
    for session in (knows, does_not):
        session.speak(1_000)
        assert session.protocol.end_turn(now_s=session.now_s) is None
        assert session.speak(100)[-1] == FINALIZE
        session.say("a", "hello", 0, 800, is_eos=True)
    assert knows.say("f", "<fin>", 0, 0) == [Covered(1_100)]

    knows.speak(1_000)
    knows.say("b", "there", 1_400, 2_000)
    told = knows.protocol.end_turn(now_s=knows.now_s)
    assert told is not None
    assert told[-1] == FINALIZE
    knows.speak(1_000)
    assert knows.say("b", "there. <fin>", 1_400, 2_050, is_eos=True) == [
        final("there.", 1_400, 2_050, "b"),
        Covered(2_100),
    ]
    does_not.wait(FIN_TIMEOUT_S + 0.1)
    assert does_not.protocol.end_turn(now_s=does_not.now_s) is None
    assert FINALIZE not in does_not.speak(1_000)


def test_the_session_that_was_made_is_deleted_and_only_that() -> None:
    """One is live per identity: left over, it would refuse the next."""
    protocol = build(account=WITH_CREDENTIALS)
    assert protocol.farewell_requests() == ()
    lines = read_golden("palabra/client", "session")
    replay(protocol, lines)

    assert protocol.farewell_requests() == (
        HttpExchange(
            method="DELETE",
            url="https://api.example/session-storage/sessions/s-1",
            headers=(("ClientId", "the-id"), ("ClientSecret", "the-secret")),
        ),
    )
    assert build().farewell_requests() == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"data":{"id":"x"}}',
        b'{"data":{"id":1,"publisher":"t"}}',
        b'{"data":{"id":"x","publisher":""}}',
        b"\xff",
    ],
)
def test_a_strange_session_is_a_protocol_error(body: bytes) -> None:
    """And nothing of it is repeated."""
    protocol = build(account=WITH_CREDENTIALS)
    with pytest.raises(ProviderProtocolError, match="palabra: bad_session"):
        protocol.receive_response(HttpResponse(status=201, body=body), now_s=0.0)


def test_nothing_shown_holds_a_secret() -> None:
    """Structs end up in tracebacks."""
    shown = [repr(WITH_KEY), repr(WITH_CREDENTIALS)]
    shown += [repr(build(account=a).connect_request()) for a in (WITH_KEY, WITH_CREDENTIALS)]

    assert not any(word in text for text in shown for word in ("the-key", "the-secret", "the-id"))
