"""Everything that a script can let go wrong in a session of the simulated Kotoba."""

import json
from typing import Any

import pytest

from speechbus_simulator.actions import Action, Close, HalfOpen, Reset
from speechbus_wire import kotoba as wire
from tests.support.frame_numbers import build_frames
from tests.support.simulated_sessions import KotobaClient

SETTINGS = 2
"""Messages of a session that has its settings and no audio."""


def speak(faults: str, *, n_frames: int = 150, session: int = 1) -> KotobaClient:
    """A session with segments of a second, and its end."""
    client = KotobaClient(f"segment_ms = 1000\nfaults = [{faults}]", session=session)
    client.speak(build_frames(1, n_frames))
    client.say(wire.Commit())
    return client


def error_of(faults: str) -> dict[str, Any]:
    """The one error event of a session that ends with it."""
    client = KotobaClient(f"faults = [{faults}]")
    error, close = client.actions[-2:]
    assert isinstance(error, str)
    assert close == Close(1008)
    client.say(client.update)
    assert client.actions[-1] == close
    event: dict[str, Any] = json.loads(error)
    return event


@pytest.mark.parametrize(
    ("fault", "action"),
    [
        ('{kind = "reset", after_ms = 500}', Reset()),
        ('{kind = "half_open", after_ms = 500}', HalfOpen()),
        ('{kind = "close", after_ms = 500, code = 1013}', Close(1013)),
    ],
)
def test_case_13_a_connection_ends_after_so_much_audio(fault: str, action: Action) -> None:
    """Once, and no sooner."""
    client = KotobaClient(f"faults = [{fault}]")
    client.speak(build_frames(1, 20))
    assert action not in client.actions
    client.speak(build_frames(21, 5))
    client.speak(build_frames(26, 5))

    assert client.actions.count(action) == 1


def test_a_fault_is_of_its_session() -> None:
    """Another session has its own."""
    fault = '{kind = "close", session = 2, code = 4000}'

    assert Close(4000) not in speak(fault, session=1).actions
    assert Close(4000) in speak(fault, session=2).actions


def test_case_17_an_error_comes_in_every_shape() -> None:
    """As the four generations of documents have it."""
    text = "The script says so."

    assert error_of('{kind = "error", error_code = "invalid_event"}')["error"] == {
        "type": "invalid_request_error",
        "code": "invalid_event",
        "message": text,
        "param": None,
    }
    assert error_of('{kind = "string_error"}')["error"] == "No available batch slot"
    assert error_of('{kind = "top_level_error", error_code = "c"}') == {
        "type": "error",
        "code": "c",
        "message": text,
    }
    assert error_of('{kind = "fal_error"}') == {
        "type": "x-fal-error",
        "code": "internal_error",
        "message": text,
    }


def test_case_12_a_rate_limit_is_said_after_the_upgrade() -> None:
    """In the vendor's words."""
    error = error_of('{kind = "rate_limit_error"}')["error"]

    assert (error["type"], error["code"]) == ("limitation", "rate_limit_error")


def test_an_unknown_message_and_garbage_change_nothing_else() -> None:
    """Clients ignore the one and mind the other."""
    plain = speak("").actions
    for kind in ("unknown_message", "garbage"):
        actions = speak(f'{{kind = "{kind}", after_ms = 500}}').actions
        (extra,) = [action for action in actions if action not in plain]
        assert [action for action in actions if action != extra] == plain
        assert isinstance(extra, str)
        if kind == "garbage":
            with pytest.raises(json.JSONDecodeError):
                json.loads(extra)
        else:
            assert wire.decode_server_message(extra) is None


def test_a_mute_session_says_nothing() -> None:
    """Not even `created`, nor why it does not like a message; and it never closes."""
    client = KotobaClient('faults = [{kind = "mute"}]')
    client.speak(build_frames(1, 200))
    client.say("nonsense")
    client.wait(100)

    assert client.actions == []
    assert client.stream.next_due_s() is None


def test_a_session_can_fall_mute_later() -> None:
    """What is behind it is never said."""
    client = speak('{kind = "mute", after_ms = 1000}')
    client.wait(100)

    assert client.transcripts == ["1-50"]
    assert client.told(wire.Committed) == []


def test_case_18_completed_comes_out_of_order() -> None:
    """Every other one behind the next, the last at the end."""
    client = speak('{kind = "reordered_final"}')

    assert client.transcripts == ["51-100", "1-50", "101-150"]
    assert client.kinds[-1] == "input_audio_buffer.committed"


def test_completed_may_come_twice_or_never() -> None:
    """The deltas are not touched."""
    for kind, transcripts in (
        ("duplicate_final", ["1-50", "1-50", "51-100", "51-100", "101-150", "101-150"]),
        ("missing_final", []),
    ):
        client = speak(f'{{kind = "{kind}"}}')
        assert client.transcripts == transcripts
        assert "".join(d.delta for d in client.told(wire.Delta)) == "1-5051-100101-150"


def test_completed_may_have_another_id_than_its_deltas() -> None:
    """Nothing to rely on."""
    client = speak('{kind = "other_id"}')
    spoken = {delta.item_id for delta in client.told(wire.Delta) if delta.delta}
    completed = {completed.item_id for completed in client.told(wire.Completed)}

    assert len(spoken) == len(completed) == 3
    assert not spoken & completed


def test_case_01_deltas_may_end_otherwise_than_their_turn() -> None:
    """`completed` holds the truth."""
    client = speak('{kind = "tail_rewrite", after_ms = 1100}', n_frames=100)

    assert [d.delta for d in client.told(wire.Delta) if d.delta] == ["1-50", "51-100", " uh"]
    assert client.transcripts == ["1-50", "51-100"]


def test_case_28_a_script_may_ignore_audio_that_comes_too_fast() -> None:
    """No source says what the vendor does, so by itself all is heard."""
    for script, transcripts in (("", ["1-100"]), ("is_real_time = true", ["1-25"])):
        client = KotobaClient(script)
        for first in (1, 26, 51, 76):
            client.say(wire.Append(audio=wire.encode_audio(build_frames(first, 25))))
        client.say(wire.Commit())
        assert client.transcripts == transcripts


def test_all_of_it_at_once_ends_in_order() -> None:
    """Faults of messages may be combined."""
    client = speak(
        '{kind = "reordered_final"}, {kind = "duplicate_final"}, {kind = "other_id"},'
        '{kind = "tail_rewrite"}, {kind = "unknown_message", after_ms = 700}'
    )
    client.wait(10)

    assert client.transcripts == ["51-100", "51-100", "1-50", "101-150"]
    assert client.actions[-1] == Close(1000)
    assert len(client.told(wire.Updated)) + len(client.told(wire.Created)) == SETTINGS


def test_case_26_an_old_server_takes_neither_turns_nor_times() -> None:
    """Whoever asks for one of them gets an error; who does not, the text of it all."""
    fault = 'faults = [{kind = "refuse_settings"}]'
    assert error_of('{kind = "refuse_settings"}')["error"]["param"] == "turn_detection"
    timed = KotobaClient(fault, turn_detection=False)
    (failure,) = timed.told(wire.Failure)
    assert failure.code == "invalid_parameters"
    settings = wire.TranscriptionSettings(language="ja", target_language="ja")
    client = KotobaClient(fault, is_set_up=False)
    client.say(wire.SessionUpdate(wire.Session(input_audio_transcription=settings)))

    (updated,) = client.told(wire.Updated)
    assert updated.session.turn_detection is False
