"""What Palabra's adapter promises, whatever is said to it and whenever it is called."""

import json
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_transcriber.providers.interface import (
    Covered,
    Finished,
    Heard,
    ProviderProtocolError,
    ProviderUnavailableError,
    Result,
    Translated,
)
from speechbus_transcriber.providers.palabra import (
    CHUNK_MS,
    FIN_TIMEOUT_S,
    QUIET_S,
    TRANSLATIONS_TIMEOUT_S,
)
from tests.support.frame_numbers import build_frames
from tests.support.palabra_session import RATE_HZ, Session, publish

AUDIO_MS: Final = 3_000
BYTES_PER_MS: Final = RATE_HZ * 2 // 1000

ids = st.sampled_from(["a", "b", "c", "d"])
texts = st.sampled_from(["", " ", "x", "x y", "X, y.", "<fin>", "x<fin>", "x y <fin>", "<fin>x"])
times_ms = st.integers(0, AUDIO_MS + 200)


@st.composite
def transcriptions(draw: st.DrawFn) -> dict[str, Any]:
    """Any valid message about a segment."""
    start_ms, end_ms = sorted((draw(times_ms), draw(times_ms)))
    return {
        "message_type": "transcription",
        "transcription_id": draw(ids),
        "language": draw(st.sampled_from(["en", "auto"])),
        "is_eos": draw(st.booleans()),
        "segment": {"text": draw(texts), "start_time": start_ms / 1e3, "end_time": end_ms / 1e3},
    }


@st.composite
def translations(draw: st.DrawFn) -> dict[str, Any]:
    """Any valid translation."""
    return {
        "message_type": "translated_transcription",
        "transcription_id": draw(ids),
        "language": draw(st.sampled_from(["es", "de", "fr"])),
        "is_eos": True,
        "segment": {"text": draw(texts), "start_time": 0, "end_time": 1},
    }


conversations = st.lists(transcriptions() | translations(), max_size=25)


def open_session(*, asks: str = "") -> Session:
    """A session that has had audio."""
    session = Session("es", "de")
    session.speak(AUDIO_MS)
    for asked in asks:
        if asked == "f":
            session.protocol.flush(now_s=session.now_s)
        else:
            session.finish()
    return session


@st.composite
def broken_messages(draw: st.DrawFn) -> str:
    """A valid message with one strange value in it."""
    strange = draw(
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5)
        | st.sampled_from([[], {}, {"text": "x"}, 1e308, -1e-9, 1e7])
    )
    message: dict[str, Any] = draw(transcriptions() | translations())
    inside = draw(st.sampled_from(["", "segment"]))
    fields: dict[str, Any] = message[inside] if inside else message
    fields[draw(st.sampled_from(sorted(fields)))] = strange
    return json.dumps(message)


@given(messages=st.lists(broken_messages(), max_size=8))
def test_broken_messages_raise_a_protocol_error_or_nothing(messages: list[str]) -> None:
    """Never anything else, which would take the worker down; and no time is outside the audio."""
    session = open_session(asks="f")
    results: list[Result] = []
    errors: list[ProviderProtocolError] = []
    for message in messages:
        try:
            session.protocol.receive_message(message, now_s=session.now_s)
        except ProviderProtocolError as error:
            errors.append(error)
        results += session.protocol.results_received()

    assert {str(e) for e in errors} <= {"palabra: bad_message", "palabra: impossible_times"}
    assert all(error.__cause__ is None for error in errors)
    for result in results:
        if isinstance(result, Heard):
            # Words that come behind all that was covered have a place, of 1 ms at most.
            assert 0 <= result.start_ms <= result.end_ms <= AUDIO_MS + 1
            assert (result.covered_ms or 0) <= AUDIO_MS


@given(conversation=conversations, asks=st.sampled_from(["", "f", "ff", "fe", "e"]))
def test_what_is_said_in_any_order_keeps_the_promises(
    conversation: list[dict[str, Any]], asks: str
) -> None:
    """One final per segment unless corrected, in order, without the marker, and `Finished` last."""
    session = open_session(asks=asks)
    results = [result for message in conversation for result in session.receive(message)]
    if not asks.endswith("e"):
        session.finish()
    for number in range(3):
        results += session.say(f"fin{number}", "<fin>", 0, 0)
    results += session.wait(FIN_TIMEOUT_S + TRANSLATIONS_TIMEOUT_S)

    finals: dict[str | None, list[str]] = {}
    translated: dict[tuple[str, str], str] = {}
    covered_ms = 0
    for result in results:
        match result:
            case Heard():
                said = finals.setdefault(result.provider_transcription_id, [])
                assert result.is_final or not said
                assert "<fin>" not in result.text
                if result.is_final and not said:
                    assert result.start_ms >= covered_ms
                    assert result.covered_ms is not None
                    covered_ms = result.covered_ms
                if result.is_final:
                    assert said[-1:] != [result.text]  # said again, it is nothing new
                    said.append(result.text)
            case Covered():
                assert result.covered_ms > covered_ms
                covered_ms = result.covered_ms
            case Translated():
                key = (result.provider_transcription_id, result.language)
                assert finals[key[0]]
                assert result.language in ("es", "de")
                assert translated.get(key) != result.text
                translated[key] = result.text
            case _:
                pass
    assert results.count(Finished()) == 1
    assert results[-1] == Finished()
    first = {
        result.provider_transcription_id: result.text
        for result in reversed(results)
        if isinstance(result, Heard) and result.is_final and result.text
    }
    published = publish(results)
    assert {final.provider_transcription_id: final.text for final in published} == first
    assert len(published) == len(first)


@given(conversation=conversations, cut=st.integers(0, 25), asks=st.sampled_from(["", "f", "fe"]))
def test_a_prefix_of_what_is_said_gives_a_prefix_of_what_is_heard(
    conversation: list[dict[str, Any]], cut: int, asks: str
) -> None:
    """A connection may end after any message; nothing is taken back or made up."""
    whole, part = open_session(asks=asks), open_session(asks=asks)
    all_heard = [result for message in conversation for result in whole.receive(message)]
    heard = [result for message in conversation[:cut] for result in part.receive(message)]

    assert heard == all_heard[: len(heard)]


@given(
    segments=st.lists(
        st.tuples(
            st.lists(st.sampled_from(["one", "one two", "uh one", "two"]), min_size=1, max_size=4),
            st.booleans(),
            st.sampled_from([0, 250, 600, 5_000]),
        ),
        max_size=8,
    )
)
def test_nothing_that_was_said_is_lost(segments: list[tuple[list[str], bool, int]]) -> None:
    """Each segment ends with its last words, whether the provider ended it or not (case 07).

    Whatever its times: without length, inside the segment before, or behind all audio.
    """
    session = open_session()
    results: list[Result] = []
    for number, (words, is_ended, ms) in enumerate(segments):
        start_ms = 400 * number  # the last ones are behind all audio
        for place, text in enumerate(words):
            is_eos = is_ended and place == len(words) - 1
            results += session.say(f"s{number}", text, start_ms, start_ms + ms, is_eos=is_eos)
    session.finish()
    results += session.say("f", "<fin>", 0, 0)
    results += session.wait(TRANSLATIONS_TIMEOUT_S)

    finals = [result for result in results if isinstance(result, Heard) and result.is_final]
    assert [(final.provider_transcription_id, final.text) for final in finals] == [
        (f"s{number}", words[-1]) for number, (words, _, _) in enumerate(segments)
    ]
    assert [final.text for final in publish(results)] == [final.text for final in finals]
    assert results[-1] == Finished()


@settings(max_examples=50)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 60), st.floats(0.0, 4.0), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_audio_goes_out_whole_in_order_with_silence_only_in_pauses(
    steps: list[tuple[int, float, bool]],
) -> None:
    """All of it, at once or within a message's length; silence no faster than time."""
    session = Session()
    protocol = session.protocol
    now_s, n_frames, n_calls = 100.0, 0, 0
    sent: list[bytes] = []

    def keep(messages: list[str | bytes]) -> None:
        sent.extend(message for message in messages if isinstance(message, bytes))

    try:
        for frames, pause_s, is_flushed in steps:
            if frames:
                pcm = build_frames(n_frames + 1, frames)
                n_frames += frames
                keep(list(protocol.audio_to_send(memoryview(pcm), now_s=now_s)))
            if is_flushed:
                keep(list(protocol.flush(now_s=now_s)))
            until_s = now_s + pause_s
            while (deadline_s := protocol.next_deadline_s()) is not None and deadline_s <= until_s:
                now_s = max(now_s, deadline_s)
                keep(list(protocol.handle_deadline(now_s=now_s)))
                n_calls += 1
                assert (after_s := protocol.next_deadline_s()) is None or after_s > now_s
            now_s = until_s
    except ProviderUnavailableError:
        pass  # a flush that nobody answers ends the session, and this property's claim with it
    silence = bytes(CHUNK_MS * BYTES_PER_MS)
    n_silences = sent.count(silence)
    heard = b"".join(message for message in sent if message != silence)

    whole = build_frames(1, n_frames)
    assert whole.startswith(heard)
    assert len(whole) - len(heard) < CHUNK_MS * BYTES_PER_MS
    assert n_silences <= (now_s - 100.0) / QUIET_S + 1
    # Each pause has one deadline for the rest; the others are silence and the wait for the marker.
    assert n_calls <= n_silences + 2 * len(steps) + 2
