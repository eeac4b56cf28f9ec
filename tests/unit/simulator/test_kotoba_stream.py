"""The simulated Kotoba, message by message: the pure part."""

import json
from typing import Any, Final

import pytest

from speechbus_simulator.actions import Action, Close, Reset
from speechbus_simulator.kotoba import KotobaStream
from speechbus_simulator.script import parse_script
from speechbus_wire import kotoba as wire
from tests.support.frame_numbers import build_frames

RATE_HZ: Final = 16_000
VAD: Final = wire.ServerVad(silence_duration_ms=600)


class Client:
    """Sends audio and collects what is done about it."""

    def __init__(
        self,
        script: str = "",
        *,
        turn_detection: bool | wire.ServerVad = VAD,
        has_timestamps: bool = True,
        session: int = 1,
        is_set_up: bool = True,
    ) -> None:
        self.now_s = 100.0
        self.actions: list[Action] = []
        self.stream = KotobaStream(
            parse_script(script.encode(), provider="kotoba"), session=session, now_s=self.now_s
        )
        self.update = wire.SessionUpdate(
            wire.Session(
                input_audio_sample_rate=RATE_HZ,
                input_audio_transcription=wire.TranscriptionSettings(
                    language="ja", target_language="ja", timestamps=has_timestamps
                ),
                turn_detection=turn_detection,
            )
        )
        self._take()
        if is_set_up:
            self.say(self.update)

    def say(self, message: wire.ClientMessage | str) -> None:
        """Send a message."""
        text = message if isinstance(message, str) else wire.encode_message(message)
        self.stream.receive(text, now_s=self.now_s)
        self._take()

    def speak(self, pcm: bytes) -> None:
        """Send audio, 100 ms at a time."""
        for at in range(0, len(pcm), 3_200):
            audio = wire.encode_audio(pcm[at : at + 3_200])
            self.say(wire.Append(audio=audio, event_id="chunk-1"))
            self.now_s += 0.1

    def wait(self, seconds: float) -> None:
        """Send nothing."""
        self.now_s += seconds
        self._take()

    def told(self, kind: type[Any]) -> list[Any]:
        """Messages of one kind."""
        read = [wire.decode_server_message(a) for a in self.actions if isinstance(a, str)]
        return [message for message in read if isinstance(message, kind)]

    @property
    def kinds(self) -> list[str]:
        """Types of all messages, without repeats in a row."""
        kinds = [json.loads(a)["type"] for a in self.actions if isinstance(a, str)]
        return [k for n, k in enumerate(kinds) if n == 0 or kinds[n - 1] != k]

    def _take(self) -> None:
        self.actions += self.stream.take_due(now_s=self.now_s)


def test_a_session_goes_as_the_vendor_documents_it() -> None:
    """Every message in its place; nothing behind `committed`; closed 5 s later."""
    client = Client()
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
    client = Client()
    client.speak(build_frames(1, 50))
    client.speak(bytes(3_200 * 5))
    assert client.told(wire.Completed) == []
    client.speak(bytes(3_200 * 2))
    client.speak(build_frames(51, 50))
    client.say(wire.Commit())

    first, second = client.told(wire.Completed)
    assert (first.transcript, first.end_ms) == ("1-50", 1_600)
    assert (second.transcript, second.end_ms) == ("51-100", 2_700)


def test_without_turn_detection_there_are_deltas_only() -> None:
    """Their ids echo the last append's."""
    client = Client(turn_detection=False, has_timestamps=False)
    client.speak(build_frames(1, 150))
    client.say(wire.Commit())

    assert client.told(wire.Completed) == []
    assert {(d.item_id, d.start_ms, d.audio_processed_ms) for d in client.told(wire.Delta)} == {
        ("chunk-1", None, None)
    }
    assert client.told(wire.Committed)


def test_planned_texts_grow_by_words() -> None:
    """And never shrink."""
    client = Client('mode = "text"\ntexts = [{text = "good morning all", ms = 1500}]')
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
    client = Client(is_set_up=before)
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
    stream.receive(wire.encode_message(Client().update), now_s=0.0)

    kinds = [json.loads(a)["type"] for a in stream.take_due(now_s=0.0) if isinstance(a, str)]
    assert kinds == ["transcription_session.created", "transcription_session.updated"]


def test_a_client_that_says_nothing_is_sent_away() -> None:
    """Ten seconds for the update."""
    client = Client(is_set_up=False)
    client.wait(9.9)
    assert client.told(wire.Failure) == []
    client.wait(0.2)
    assert [failure.code for failure in client.told(wire.Failure)] == ["timeout_error"]
    assert client.actions[-1] == Close(1008)


def test_faults_come_as_planned() -> None:
    """Of the connection, of the room, and of what is said."""
    reset = Client('faults = [{kind = "reset", after_ms = 500}]')
    reset.speak(build_frames(1, 25))
    assert reset.actions[-1] == Reset()

    full = Client('faults = [{kind = "rate_limit_error"}]', is_set_up=False)
    assert [failure.code for failure in full.told(wire.Failure)] == ["rate_limit_error"]
    vague = Client('faults = [{kind = "string_error"}]', is_set_up=False)
    assert [failure.is_capacity for failure in vague.told(wire.Failure)] == [True]

    twice = Client('segment_ms = 500\nfaults = [{kind = "duplicate_final"}]')
    twice.speak(build_frames(1, 25))
    assert [c.transcript for c in twice.told(wire.Completed)] == ["1-25", "1-25"]

    mute = Client('segment_ms = 500\nfaults = [{kind = "mute", after_ms = 500}]')
    mute.speak(build_frames(1, 75))
    assert [c.transcript for c in mute.told(wire.Completed)] == ["1-25"]
