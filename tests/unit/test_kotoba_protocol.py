"""Kotoba's adapter against golden transcripts, and its share of the awkward cases."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Flushed,
    Heard,
    HttpResponse,
    ProviderError,
    ProviderUnavailableError,
    Result,
    SessionRequest,
    WebSocketConnect,
)
from speechbus_transcriber.providers.kotoba import (
    COMMIT_TIMEOUT_S,
    SETUP_TIMEOUT_S,
    SILENCE_MS,
    KotobaAccount,
    KotobaProtocol,
    KotobaWishes,
)
from speechbus_transcriber.providers.kotoba_flushes import TIMEOUT_S
from speechbus_transcriber.providers.kotoba_hearing import SELF_LENGTH_MS
from speechbus_wire import kotoba as wire
from tests.support.golden import read_golden, replay, transcripts_of
from tests.support.kotoba_session import KotobaSession, build, delta

NAMES = transcripts_of("kotoba/client")


def play(name: str) -> tuple[list[Result], str | None]:
    """Replay one transcript."""
    return replay(build(), read_golden("kotoba/client", name))


def heard(
    text: str, start_ms: int, end_ms: int, covered_ms: int | None = None, *, is_final: bool = True
) -> Heard:
    """What the segmenter is told."""
    return Heard(
        text=text,
        is_final=is_final,
        start_ms=start_ms,
        end_ms=end_ms,
        covered_ms=covered_ms,
        language="ja",
    )


def partial(text: str, start_ms: int, end_ms: int) -> Heard:
    """A partial."""
    return heard(text, start_ms, end_ms, is_final=False)


def test_every_required_case_has_a_transcript() -> None:
    """A case without one is a case that nobody has looked at."""
    assert NAMES == [
        "completed_again",
        "completed_lost",
        "completed_other_id",
        "drop_inside_utterance",
        "error_as_string",
        "error_at_top",
        "error_before_updated",
        "error_then_close",
        "flush_at_end",
        "flush_open_at_end",
        "held_until_updated",
        "idle_timeout",
        "limit_without_code",
        "long_chunks",
        "mute",
        "no_turns",
        "no_turns_flush",
        "no_turns_pause",
        "normal",
        "rate_limit",
        "rate_limit_event",
        "rejected_key",
        "sentences_at_one_place",
        "silence_with_keepalive",
        "two_utterances",
        "unknown_message",
    ]


def test_deltas_add_up_and_completed_repeats_them() -> None:
    """The ordinary conversation: added to its deltas, `completed` would double the text."""
    assert play("normal") == (
        [
            partial("おはよう", 40, 200),
            partial("おはようございます", 40, 380),
            heard("おはようございます", 40, 380, 400),
            Finished(),
        ],
        None,
    )


def test_case_18_turns_that_complete_out_of_order_are_told_in_order() -> None:
    """The segmenter covers what lies before a final: an earlier turn would be dropped."""
    results, error = play("two_utterances")

    assert error is None
    assert results == [
        partial("一", 40, 100),
        heard("一", 40, 100, 100),
        heard("二", 200, 300, 400),
        Finished(),
    ]


def test_case_15_a_pause_of_the_client_ends_the_turn_by_our_silence() -> None:
    """Kotoba ends no turn while no audio arrives; our silence takes no stream time."""
    results, error = play("silence_with_keepalive")

    assert error is None
    # 610 ms of the session: 400 ms of audio, twice 100 ms of silence.
    assert results[1:] == [
        heard("はい", 40, 200, 400),
        partial("次", 410, 490),
        heard("次", 410, 490, 500),
        Finished(),
    ]


def test_a_session_that_waits_for_its_first_audio_is_kept_alive() -> None:
    """One that shall follow another is opened before; gateways end what says nothing."""
    session = KotobaSession()
    session.wait(21)

    assert session.sent_ms == 4 * 100
    session.speak(200)
    assert session.protocol.next_deadline_s() == session.now_s + 0.4


def test_case_16_a_flush_is_silence_because_commit_is_the_end() -> None:
    """The stream goes on after it."""
    assert play("flush_at_end") == (
        [
            partial("はい", 40, 200),
            heard("はい。", 40, 220, 400),
            Flushed(),
            Finished(),
        ],
        None,
    )


def test_case_26_where_the_server_ends_no_turns_we_do() -> None:
    """At the end of a sentence, and at the end of all."""
    results, error = play("no_turns")

    assert error is None
    assert [(r.text, r.is_final) for r in results if isinstance(r, Heard)] == [
        ("Hello", False),
        ("Hello there.", False),
        ("Hello there.", True),
        ("And", False),
        ("And more", False),
        ("And more", True),
    ]
    assert results[-1] == Finished()


def test_a_completed_with_an_id_of_its_own_ends_the_turn_that_has_its_words() -> None:
    """Ids of deltas and `completed` differ between the documents (providers.md 1.1)."""
    assert play("completed_other_id") == (
        [
            partial("おは", 300, 400),
            heard("おはよう。", 300, 400, 0),
            Covered(400),
            Finished(),
        ],
        None,
    )


def test_case_06_a_completed_that_comes_again_is_dropped() -> None:
    """At once, in the next turn, and behind it."""
    assert play("completed_again") == (
        [
            partial("一", 40, 100),
            heard("一", 40, 100, 120),
            partial("二", 200, 300),
            heard("二", 200, 300, 400),
            Finished(),
        ],
        None,
    )


def test_case_07_a_turn_whose_completed_is_lost_ends_as_it_was_heard() -> None:
    """A second behind the next one; when it comes after all, it says nothing new."""
    assert play("completed_lost") == (
        [
            partial("一", 40, 100),
            heard("一", 40, 100, 100),
            heard("二", 200, 300, 400),
            Covered(1_300),
            Finished(),
        ],
        None,
    )


@pytest.mark.parametrize(
    ("name", "answers"), [("no_turns_pause", []), ("no_turns_flush", [Flushed()])]
)
def test_case_26_where_the_server_ends_no_turns_silence_and_flushes_do(
    name: str, answers: list[Result]
) -> None:
    """Our silence is a pause like any other."""
    assert play(name) == (
        [
            partial("はい", 100, 200),
            heard("はい", 100, 200, 0),
            *answers,
            Covered(400),
            Finished(),
        ],
        None,
    )


def test_sentences_at_one_place_have_each_a_time_of_their_own() -> None:
    """A final that ends where all is covered would be taken for something said before."""
    assert play("sentences_at_one_place") == (
        [
            partial("はい。", 200, 300),
            heard("はい。", 200, 300, 0),
            partial("どうぞ。", 300, 300),
            heard("どうぞ。", 300, 300, 0),
            partial("では", 300, 400),
            partial("ではまた。", 300, 400),
            heard("ではまた。", 300, 400, 0),
            Covered(400),
            Finished(),
        ],
        None,
    )


def test_case_22_text_is_placed_by_its_append_in_chunks_of_any_length() -> None:
    """Two chunks of 320 ms are six appends and two rests; the fourth is 20 ms long."""
    assert play("long_chunks") == (
        [partial("一", 300, 320), heard("一", 300, 320, 0), Covered(640), Finished()],
        None,
    )


def test_flushes_that_are_open_at_the_end_are_answered_behind_the_last_final() -> None:
    """`committed` says that all audio is transcribed."""
    assert play("flush_open_at_end") == (
        [
            partial("はい", 40, 200),
            heard("はい。", 40, 220, 400),
            Flushed(),
            Flushed(),
            Finished(),
        ],
        None,
    )


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("rejected_key", "ProviderRejectedError:http_401"),
        ("rate_limit", "ProviderRateLimitedError:http_429"),
        ("rate_limit_event", "ProviderRateLimitedError:rate_limit_error"),
        ("error_as_string", "ProviderRateLimitedError:rate_limit_error"),
        ("limit_without_code", "ProviderRateLimitedError:rate_limit_error"),
        ("error_before_updated", "ProviderUnavailableError:settings_refused"),
        ("mute", "ProviderUnavailableError:unanswered"),
        ("error_at_top", "ProviderUnavailableError:session_expired"),
        ("error_then_close", "ProviderUnavailableError:internal_error"),
        ("idle_timeout", "ProviderUnavailableError:closed_1001"),
        ("drop_inside_utterance", "ProviderUnavailableError:connection_lost"),
        ("unknown_message", None),
        ("held_until_updated", None),
    ],
)
def test_case_17_each_end_says_what_to_do_whatever_its_shape(name: str, ending: str | None) -> None:
    """Errors are objects, strings, or fields of the event; limits events or statuses (case 12)."""
    assert play(name)[1] == ending


def test_case_10_the_resume_point_is_what_the_server_has_processed() -> None:
    """Later text starts no earlier, so a new session begins there and says nothing twice."""
    session = KotobaSession()
    session.speak(3_000)
    session.receive(wire.Delta(item_id="t", delta="a", start_ms=100, end_ms=900))
    completed = wire.Completed(
        item_id="t", transcript="a", start_ms=100, end_ms=900, audio_processed_ms=1_840
    )

    assert session.receive(completed) == [heard("a", 100, 900, 1_840)]


def test_case_19_empty_deltas_are_never_published_and_tell_how_far_was_heard() -> None:
    """About every 80 ms in silence: published, each would be an event to everybody."""
    session = KotobaSession()
    session.speak(9_000)
    told = [
        session.receive(wire.Delta(item_id=None, audio_processed_ms=ms))
        for ms in range(80, 3_000, 80)
    ]

    assert [result for results in told for result in results] == [Covered(1_040), Covered(2_080)]
    vague = KotobaSession()
    vague.speak(9_000)
    assert vague.receive(wire.Delta(item_id=None)) == [Covered(4_000)]


def test_case_20_audio_goes_out_as_base64_with_an_id_of_its_place() -> None:
    """On the bus it stays raw bytes."""
    sent = KotobaSession().speak(300)

    assert [message["event_id"] for message in sent] == [
        "chunk-0000001",
        "chunk-0000002",
        "chunk-0000003",
    ]
    assert {wire.decode_audio(message["audio"]) for message in sent} == {bytes(3_200)}


def test_case_22_a_rest_of_a_chunk_waits_no_longer_than_a_chunk() -> None:
    """Whatever sizes the bus has, the provider gets its own."""
    session = KotobaSession()
    session.protocol.audio_to_send(memoryview(bytes(1_000)), now_s=5.0)

    assert session.protocol.next_deadline_s() == pytest.approx(5.1)
    (message,) = session.protocol.handle_deadline(now_s=5.1)
    assert isinstance(message, str)
    assert wire.decode_audio(json.loads(message)["audio"]) == bytes(1_000)


def test_text_without_times_is_placed_by_the_append_that_it_names() -> None:
    """Some servers echo it (providers.md 1.1); others tell nothing, and it is what was sent."""
    session = KotobaSession()
    session.speak(1_000)

    assert session.receive(wire.Delta(item_id="chunk-0000004", delta="a")) == [
        partial("a", 300, 400)
    ]
    assert session.receive(wire.Delta(item_id=None, delta="b")) == [partial("ab", 300, 1_000)]


def test_segments_of_our_own_end_in_pauses_and_are_never_endless() -> None:
    """Subscribers wait for their finals."""
    session = KotobaSession(turn_detection=False)
    session.speak(1_000)
    session.receive(wire.Delta(item_id=None, delta="no end"))
    session.speak(1_100)
    assert session.texts == ["no end"]

    for _ in range(2 * SELF_LENGTH_MS // 500):
        session.speak(500)
        session.receive(wire.Delta(item_id=None, delta=" on"))
    assert len(session.texts) > 1


def test_a_server_that_owes_an_answer_is_left() -> None:
    """The handshake, a flush, the end: each has its time."""
    opening = build()
    opening.messages_to_open()
    assert opening.audio_to_send(memoryview(bytes(6_400)), now_s=1.0) == ()
    with pytest.raises(ProviderUnavailableError, match="not_updated"):
        opening.handle_deadline(now_s=1.0 + SETUP_TIMEOUT_S)

    flushed = KotobaSession()
    flushed.speak(1_000)
    flushed.receive(wire.Delta(item_id="t", delta="a"))
    flushed.now_s += 1
    flushed.protocol.flush(now_s=flushed.now_s)
    with pytest.raises(ProviderUnavailableError, match="flush_unanswered"):
        flushed.wait(TIMEOUT_S + 0.1)

    ended = KotobaSession()
    ended.protocol.finish(now_s=ended.now_s)
    with pytest.raises(ProviderUnavailableError, match="not_committed"):
        ended.wait(COMMIT_TIMEOUT_S + 0.1)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (None, "ProviderUnavailableError:connection_lost"),
        (1000, "ProviderUnavailableError:closed_1000"),
        (1001, "ProviderUnavailableError:closed_1001"),
        (1008, "ProviderRejectedError:closed_1008"),
        (1011, "ProviderUnavailableError:closed_1011"),
    ],
)
def test_case_13_a_close_without_a_word_is_told_by_its_code(code: int | None, error: str) -> None:
    """Kotoba documents none; behind the end it is the server's farewell."""
    session = KotobaSession()
    with pytest.raises(ProviderError) as raised:
        session.protocol.receive_close(code, now_s=0.0)
    assert f"{type(raised.value).__name__}:{raised.value.code}" == error
    session.end()
    session.protocol.receive_close(code, now_s=0.0)


def test_case_24_the_settings_are_sent_once_complete_and_before_all_audio() -> None:
    """None can be changed later; who ends turns is always said, as servers differ in that."""
    protocol = build(language="en-US")
    (message,) = protocol.messages_to_open()

    assert isinstance(message, str)
    assert wire.decode_client_message(message) == wire.SessionUpdate(
        wire.Session(
            input_audio_format="pcm16",
            input_audio_sample_rate=16_000,
            input_audio_transcription=wire.TranscriptionSettings(
                language="en", target_language="en", keywords=("会議",), timestamps=True
            ),
            turn_detection=wire.ServerVad(silence_duration_ms=SILENCE_MS),
        )
    )


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("wss://api.kotobatech.ai/v1/realtime", "Bearer"),
        ("wss://fal.run/Kotoba/v1/realtime", "Key"),
        ("wss://fal.run.example/v1/realtime", "Bearer"),
    ],
)
def test_the_key_is_sent_as_its_host_wants_it_and_shown_nowhere(url: str, scheme: str) -> None:
    """The same protocol is served by fal."""
    account = KotobaAccount(api_key="the-key", url=url)
    protocol = KotobaProtocol(
        SessionRequest(sample_rate_hz=24_000, language=None), account, KotobaWishes()
    )
    request = protocol.connect_request()

    assert isinstance(request, WebSocketConnect)
    assert request.headers == (("Authorization", f"{scheme} the-key"),)
    assert "the-key" not in repr(request) + repr(account)


@given(
    says=st.lists(
        st.tuples(
            st.sampled_from([None, "t1", "t2", "chunk-0000003"]),
            st.sampled_from(["", "x", " y."]),
            st.booleans(),
            st.none() | st.integers(0, 4_000),
        ),
        max_size=30,
    ),
    ends_turns=st.booleans(),
)
def test_what_is_said_in_any_order_keeps_its_promises(
    says: list[tuple[str | None, str, bool, int | None]],
    ends_turns: bool,  # noqa: FBT001 - named by hypothesis
) -> None:
    """Finals in order of time, none empty of time, `Finished` once and last."""
    session = KotobaSession(turn_detection=wire.ServerVad() if ends_turns else False)
    session.speak(4_000)
    results = session.protocol.results_received()
    for item_id, text, is_completed, at_ms in says:
        times = {} if at_ms is None else {"start_ms": at_ms, "end_ms": at_ms + 50}
        if is_completed:
            results += session.receive(wire.Completed(item_id=item_id, transcript=text, **times))
        else:
            results += session.receive(wire.Delta(item_id=item_id, delta=text, **times))
    session.protocol.finish(now_s=session.now_s)
    session.protocol.receive_message(wire.encode_message(wire.Committed()), now_s=session.now_s)
    results += session.protocol.results_received()

    finals = [result for result in results if isinstance(result, Heard) and result.is_final]
    assert [f.end_ms for f in finals] == sorted(f.end_ms for f in finals)
    assert all(f.start_ms <= f.end_ms for f in finals)
    assert results.count(Finished()) == 1
    assert results[-1] == Finished()


def test_a_binary_message_is_ignored() -> None:
    """As by the vendor's SDK: the protocol has none (providers.md 1.2)."""
    session = KotobaSession()
    session.speak(1_000)
    assert session.protocol.receive_message(b'{"type":"error"}', now_s=1.0) == ()
    session.receive(delta("one", "t1", 0, 900))

    assert [result.text for result in session.results if isinstance(result, Heard)] == ["one"]


def test_a_refused_upgrade_is_never_accepted() -> None:
    """Whatever the status."""
    with pytest.raises(ProviderUnavailableError):
        build().receive_response(HttpResponse(status=200, body=b""), now_s=0.0)
