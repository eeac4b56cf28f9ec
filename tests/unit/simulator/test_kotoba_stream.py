"""The simulated Kotoba, message by message: the pure part."""

import json
import struct
from array import array
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_simulator.actions import Close
from speechbus_simulator.kotoba import KotobaStream
from speechbus_simulator.script import parse_script
from speechbus_wire import kotoba as wire
from tests.support.frame_numbers import build_frames
from tests.support.simulated_sessions import KotobaClient


def test_a_session_goes_as_the_vendor_documents_it() -> None:
    """Every message in its place; nothing behind `committed`; closed 5 s later."""
    client = KotobaClient()
    client.speak(build_frames(1, 175))
    client.say(wire.Commit())
    client.say(wire.Commit())
    client.wait(4.9)
    assert not any(isinstance(action, Close) for action in client.actions)
    client.wait(0.2)

    assert client.kinds == [
        "transcription_session.created",
        "transcription_session.updated",
        "conversation.item.created",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "input_audio_buffer.committed",
    ]
    assert client.actions[-1] == Close(1000)
    first, second = client.told(wire.Completed)
    assert (first.transcript, first.start_ms, first.end_ms) == ("1-150", 0, 3_000)
    assert (second.transcript, second.start_ms, second.end_ms) == ("151-175", 3_000, 3_500)
    assert first.audio_processed_ms == 3_000
    deltas = client.told(wire.Delta)
    assert "".join(delta.delta for delta in deltas) == "1-150151-175"
    assert {delta.item_id for delta in deltas if delta.delta} == {first.item_id, second.item_id}
    assert any(delta.delta == "" for delta in deltas)


def test_silence_ends_a_turn_and_counts_as_time() -> None:
    """Its length is the client's to choose."""
    client = KotobaClient()
    client.speak(build_frames(1, 50))
    client.speak(bytes(3_200 * 5))
    assert client.told(wire.Completed) == []
    client.speak(bytes(3_200 * 2))
    client.speak(build_frames(51, 50))
    client.say(wire.Commit())

    first, second = client.told(wire.Completed)
    assert (first.transcript, first.end_ms) == ("1-50", 1_600)
    assert (second.transcript, second.end_ms) == ("51-100", 2_700)


def test_silence_ends_no_turn_of_a_planned_text() -> None:
    """It takes as long as the script says, whatever the audio."""
    client = KotobaClient('mode = "text"\ntexts = [{text = "hello", ms = 2000}]')
    client.speak(bytes(3_200 * 45))

    assert [completed.end_ms for completed in client.told(wire.Completed)] == [2_000, 4_000]


def test_without_turn_detection_there_are_deltas_only() -> None:
    """Their ids echo the last append's."""
    client = KotobaClient(turn_detection=False, has_timestamps=False)
    client.speak(build_frames(1, 150))
    client.say(wire.Commit())

    assert client.told(wire.Completed) == []
    assert {(d.item_id, d.start_ms, d.audio_processed_ms) for d in client.told(wire.Delta)} == {
        ("chunk-1", None, None)
    }
    assert client.told(wire.Committed)


def test_planned_texts_grow_by_words() -> None:
    """And never shrink."""
    client = KotobaClient('mode = "text"\ntexts = [{text = "good morning all", ms = 1500}]')
    client.speak(build_frames(1, 75))

    assert [d.delta for d in client.told(wire.Delta) if d.delta] == ["good", " morning", " all"]
    assert [c.transcript for c in client.told(wire.Completed)] == ["good morning all"]


@pytest.mark.parametrize(
    ("before", "message", "code"),
    [
        (False, wire.Append(audio=""), "invalid_event"),
        (False, wire.Commit(), "invalid_event"),
        (True, "update", "invalid_event"),
        (True, "nonsense", "invalid_json"),
        (True, '{"type":"input_audio_buffer.clear"}', "invalid_event"),
        (True, wire.Append(audio="*"), "invalid_parameters"),
    ],
)
def test_case_24_what_does_not_belong_ends_the_session(
    before: bool,  # noqa: FBT001 - a parameter
    message: wire.ClientMessage | str,
    code: str,
) -> None:
    """Settings cannot change within a session: a second update is an error."""
    client = KotobaClient(is_set_up=before)
    client.say(client.update if message == "update" else message)

    (failure,) = client.told(wire.Failure)
    assert failure.code == code
    assert client.actions[-1] == Close(1008)
    n_actions = len(client.actions)
    client.say(client.update)
    assert len(client.actions) == n_actions


def test_case_25_an_update_before_created_is_taken() -> None:
    """The vendor's SDK does not wait."""
    stream = KotobaStream(parse_script(b"", provider="kotoba"), session=1, now_s=0.0)
    stream.receive(wire.encode_message(KotobaClient().update), now_s=0.0)

    kinds = [json.loads(a)["type"] for a in stream.take_due(now_s=0.0) if isinstance(a, str)]
    assert kinds == ["transcription_session.created", "transcription_session.updated"]


def test_a_client_that_says_nothing_is_sent_away() -> None:
    """Ten seconds for the update."""
    client = KotobaClient(is_set_up=False)
    client.wait(9.9)
    assert client.told(wire.Failure) == []
    client.wait(0.2)
    assert [failure.code for failure in client.told(wire.Failure)] == ["timeout_error"]
    assert client.actions[-1] == Close(1008)


@pytest.mark.parametrize("sample_rate_hz", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_case_21_every_rate_of_the_vendor_is_heard(sample_rate_hz: int) -> None:
    """With the same times."""
    client = KotobaClient(sample_rate_hz=sample_rate_hz)
    pcm = build_frames(1, 100, sample_rate_hz=sample_rate_hz)
    client.say(wire.Append(audio=wire.encode_audio(pcm)))
    client.say(wire.Commit())

    (completed,) = client.told(wire.Completed)
    assert (completed.transcript, completed.start_ms, completed.end_ms) == ("1-100", 0, 2_000)


def test_float_samples_are_heard() -> None:
    """As exactly as whole numbers."""
    pcm = array("h", build_frames(1, 100))
    floats = struct.pack(f"<{len(pcm)}f", *(sample / 32_768 for sample in pcm))
    client = KotobaClient(audio_format="float32")
    client.say(wire.Append(audio=wire.encode_audio(floats)))
    client.say(wire.Commit())

    assert client.transcripts == ["1-100"]


@pytest.mark.parametrize("audio_format", ["mulaw", "twilio"])
def test_telephone_audio_has_its_own_rate(audio_format: str) -> None:
    """Whatever the client says: G.711 is 8 kHz."""
    client = KotobaClient(
        'mode = "text"\ntexts = [{text = "hello", ms = 1000}]', audio_format=audio_format
    )
    client.say(wire.Append(audio=wire.encode_audio(b"\x7f" * 16_000)))

    (updated,) = client.told(wire.Updated)
    assert updated.session.input_audio_sample_rate == 8_000
    assert client.transcripts == ["hello", "hello"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input_audio_format": "opus"}, "input_audio_format"),
        ({"input_audio_sample_rate": 0}, "input_audio_sample_rate"),
        ({"input_audio_sample_rate": 96_000}, "input_audio_sample_rate"),
        ({"input_audio_transcription": {"language": None}}, "target_language"),
        (
            {"input_audio_transcription": {"target_language": "ja", "keywords": ["x" * 65]}},
            "keywords",
        ),
        (
            {"input_audio_transcription": {"target_language": "ja", "keywords": ["x"] * 1_001}},
            "keywords",
        ),
    ],
)
def test_a_session_that_cannot_be_is_refused(changes: dict[str, Any], param: str) -> None:
    """The error names the field."""
    client = KotobaClient(is_set_up=False)
    client.say(json.dumps({"type": "transcription_session.update", "session": changes}))

    error = client.actions[-2]
    assert isinstance(error, str)
    told = json.loads(error)["error"]
    assert (told["code"], told["param"]) == ("invalid_parameters", param)
    assert client.actions[-1] == Close(1008)


def test_case_23_there_is_one_channel() -> None:
    """Who has two opens two sessions, or mixes."""
    client = KotobaClient(is_set_up=False)
    session = {**msgspec.to_builtins(client.update.session), "input_audio_number_of_channels": 2}
    client.say(json.dumps({"type": "transcription_session.update", "session": session}))

    assert [failure.code for failure in client.told(wire.Failure)] == ["invalid_parameters"]


def test_case_10_who_resumes_where_the_server_has_heard_says_nothing_twice() -> None:
    """What was processed is in the texts that came, and nothing else is."""
    first = KotobaClient("segment_ms = 1000")
    first.speak(build_frames(1, 125))
    resume_ms = first.told(wire.Delta)[-1].audio_processed_ms
    second = KotobaClient("segment_ms = 1000", session=2)
    second.speak(build_frames(resume_ms // 20 + 1, 200 - resume_ms // 20))

    assert resume_ms == 2_000
    assert first.transcripts + second.transcripts == ["1-50", "51-100", "101-150", "151-200"]


def test_case_20_audio_is_base64_in_text_and_never_binary() -> None:
    """The vendor's server reads text messages only."""
    client = KotobaClient()
    client.stream.receive(build_frames(1, 5), now_s=client.now_s)
    client.wait(0)

    assert [failure.code for failure in client.told(wire.Failure)] == ["invalid_json"]


def test_case_15_a_turn_does_not_end_while_no_audio_comes() -> None:
    """Turns are judged by the audio, not by the clock."""
    client = KotobaClient()
    client.speak(build_frames(1, 50))
    client.wait(600)
    assert client.transcripts == []
    client.speak(bytes(3_200 * 7))
    assert client.transcripts == ["1-50"]


def test_case_16_commit_is_the_end_of_all_audio() -> None:
    """What comes behind it is not heard."""
    client = KotobaClient()
    client.speak(build_frames(1, 50))
    client.say(wire.Commit())
    client.speak(build_frames(51, 50))

    assert client.transcripts == ["1-50"]
    assert client.kinds[-1] == "input_audio_buffer.committed"


def test_deltas_tell_when_their_own_words_were_said() -> None:
    """And from where a client should send again: the turn's beginning."""
    client = KotobaClient('mode = "text"\ntexts = [{text = "good morning all", ms = 1500}]')
    client.speak(build_frames(1, 150))

    spoken = [delta for delta in client.told(wire.Delta) if delta.delta]
    assert [(d.delta, d.start_ms, d.end_ms, d.audio_processed_ms) for d in spoken] == [
        ("good", 0, 500, 0),
        (" morning", 500, 1_000, 0),
        (" all", 1_000, 1_500, 1_500),
        ("good", 1_500, 2_000, 1_500),
        (" morning", 2_000, 2_500, 1_500),
        (" all", 2_500, 3_000, 3_000),
    ]


def test_case_26_without_turns_the_words_of_all_deltas_are_apart() -> None:
    """Their sum is the whole text."""
    script = 'mode = "text"\ntexts = [{text = "one.", ms = 500}, {text = "two.", ms = 500}]'
    client = KotobaClient(script, turn_detection=False)
    client.speak(build_frames(1, 75))

    assert "".join(delta.delta for delta in client.told(wire.Delta)) == "one. two. one."


@given(cuts=st.lists(st.integers(0, 22_400), max_size=10))
def test_case_22_audio_cut_elsewhere_says_the_same(cuts: list[int]) -> None:
    """Also in the middle of a sample; only the empty deltas follow the messages."""
    pcm = build_frames(1, 11) + bytes(3_200) + build_frames(12, 19)
    said: list[list[str]] = []
    for borders in ([0, len(pcm)], sorted({0, *cuts, len(pcm)})):
        client = KotobaClient(
            "segment_ms = 300\npartial_ms = 100",
            turn_detection=wire.ServerVad(silence_duration_ms=70),
        )
        for low, high in pairwise(borders):
            client.say(wire.Append(audio=wire.encode_audio(pcm[low:high])))
        client.say(wire.Commit())
        said.append([a for a in client.actions if isinstance(a, str) and '"delta":""' not in a])

    assert said[0] == said[1]
    assert any('"transcript":"1-11","start_ms":0,"end_ms":290' in text for text in said[0])


@given(
    messages=st.lists(
        st.one_of(
            st.text(max_size=20),
            st.binary(max_size=20),
            st.sampled_from(
                [
                    wire.encode_message(KotobaClient().update),
                    wire.encode_message(wire.Append(audio="AAAA")),
                    wire.encode_message(wire.Commit()),
                ]
            ),
        ),
        max_size=8,
    )
)
def test_nothing_is_said_behind_a_close(messages: list[str | bytes]) -> None:
    """Whatever a client sends, in whatever order."""
    client = KotobaClient(is_set_up=False)
    for message in messages:
        client.stream.receive(message, now_s=client.now_s)
    client.wait(100)

    said_last = [isinstance(action, str) for action in client.actions]
    assert said_last == sorted(said_last, reverse=True)
