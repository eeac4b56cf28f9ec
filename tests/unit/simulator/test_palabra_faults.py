"""Everything that a script can let go wrong in a stream of the simulated Palabra."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_simulator.actions import Action, Close, HalfOpen, Reset
from speechbus_wire import palabra as wire
from tests.support.simulated_sessions import PalabraClient

TWO_TEXTS = """
mode = "text"
texts = [{text = "good morning", ms = 1000}, {text = "how can I", ms = 1000}]
"""


def speak(faults: str, *targets: str, n_frames: int = 100, session: int = 1) -> PalabraClient:
    """A stream with segments of a second, and time for what comes late."""
    client = PalabraClient(f"segment_ms = 1000\nfaults = [{faults}]", *targets, session=session)
    client.speak(1, n_frames)
    client.wait(5)
    return client


def said(client: PalabraClient) -> list[str]:
    """Texts in order, with the language of translations in them."""
    return [message.segment.text for message in client.messages]


@pytest.mark.parametrize(
    ("fault", "action"),
    [
        ('{kind = "reset", after_ms = 500}', Reset()),
        ('{kind = "half_open", after_ms = 500}', HalfOpen()),
        ('{kind = "close", after_ms = 500, code = 1008}', Close(1008)),
    ],
)
def test_case_13_a_connection_ends_after_so_much_audio(fault: str, action: Action) -> None:
    """Once, and no sooner."""
    client = PalabraClient(f"faults = [{fault}]")
    client.speak(1, 20)
    assert action not in client.actions
    client.speak(21, 10)

    assert client.actions.count(action) == 1


def test_a_fault_is_of_its_session() -> None:
    """Another session has its own."""
    fault = '{kind = "close", session = 2, code = 4000}'

    assert Close(4000) not in speak(fault, session=1).actions
    assert Close(4000) in speak(fault, session=2).actions


def test_messages_that_nobody_expects_change_nothing_else() -> None:
    """Garbage, an unknown type, and an error as Palabra's other endpoints have it."""
    plain = speak("").actions
    for kind in ("garbage", "unknown_message", "error"):
        actions = speak(f'{{kind = "{kind}", after_ms = 300}}').actions
        (extra,) = [action for action in actions if action not in plain]
        assert [action for action in actions if action != extra] == plain
        assert isinstance(extra, str)
        match kind:
            case "garbage":
                with pytest.raises(json.JSONDecodeError):
                    json.loads(extra)
            case "error":
                assert json.loads(extra)["data"]["code"] == "internal_error"
                assert wire.decode_server_message(extra) is None
            case _:
                assert wire.decode_server_message(extra) is None


def test_a_mute_stream_hears_and_says_nothing() -> None:
    """The half-dead session: pings are answered, words are not, and it is not closed."""
    client = PalabraClient('faults = [{kind = "mute", after_ms = 3000}]')
    client.speak(1, 300)
    client.finalize()
    client.wait(100)

    assert client.finals == ["1-150"]
    assert client.stream.next_due_s() is None


def test_case_01_the_tail_of_a_partial_is_rewritten() -> None:
    """Unless the filler filter is off: then nothing is taken back."""
    assert said(speak('{kind = "tail_rewrite"}'))[:3] == ["1-25 uh", "1-25", "1-50"]
    script = f'{TWO_TEXTS}\nfaults = [{{kind = "tail_rewrite"}}]'
    client = PalabraClient(script, has_filler_filter=False)
    client.speak(1, 50)
    assert said(client) == ["good", "good morning"]


def test_case_06_a_final_may_be_followed_by_another_message_of_its_id() -> None:
    """The same again, or a new text."""
    assert speak('{kind = "duplicate_final"}').finals == ["1-50", "1-50", "51-100", "51-100"]
    client = speak('{kind = "revised_final", after_ms = 1100}')
    assert client.finals == ["1-50", "51-100", "51-100 uh"]
    assert len({message.transcription_id for message in client.messages}) == 2


def test_case_07_a_final_may_never_come() -> None:
    """Its partials do, and a finalize is answered all the same."""
    client = speak('{kind = "missing_final"}', n_frames=75)
    client.finalize()

    assert client.finals == []
    assert said(client) == ["1-25", "51-75", "<fin>"]


def test_case_04_a_translation_may_come_for_a_final_that_never_came() -> None:
    """Nobody can tell its source."""
    assert said(speak('{kind = "missing_final"}', "es", n_frames=50)) == ["1-25", "[es] 1-50"]


def test_case_08_a_final_may_be_empty() -> None:
    """All that was said was a filler."""
    assert speak('{kind = "empty_final"}').finals == ["", ""]


def test_case_02_a_translation_may_come_before_its_final() -> None:
    """Only into the language that the script names."""
    client = speak('{kind = "early_translation", language = "es"}', "es", "de", n_frames=50)

    assert said(client) == ["1-25", "[es] 1-50", "1-50", "[de] 1-50"]


def test_case_03_a_translation_may_come_long_after_its_final() -> None:
    """Behind whatever was said in the meantime."""
    client = PalabraClient(
        'segment_ms = 1000\nfaults = [{kind = "late_translation", delay_ms = 1200}]', "es"
    )
    client.speak(1, 100)
    assert said(client) == ["1-25", "1-50", "51-75", "51-100"]
    client.wait(0.2)
    assert said(client)[4:] == ["[es] 1-50"]
    client.wait(1)
    assert said(client)[5:] == ["[es] 51-100"]


def test_case_05_some_translations_may_be_missing() -> None:
    """The others come."""
    client = speak('{kind = "missing_translation", language = "es"}', "es", "de", n_frames=50)

    assert said(client) == ["1-25", "1-50", "[de] 1-50"]


def test_a_translation_may_be_said_twice() -> None:
    """Only into the language that the script names."""
    client = speak('{kind = "duplicate_translation", language = "es"}', "es", "de", n_frames=50)

    assert said(client) == ["1-25", "1-50", "[es] 1-50", "[es] 1-50", "[de] 1-50"]


def test_translations_of_two_finals_may_change_places() -> None:
    """And a last one comes by itself in the end."""
    client = PalabraClient('segment_ms = 1000\nfaults = [{kind = "reordered_translation"}]', "es")
    client.speak(1, 150)
    client.wait(1.8)
    texts = [text for text in said(client) if text.startswith("[")]
    assert texts == ["[es] 51-100", "[es] 1-50"]
    client.wait(0.2)
    assert said(client)[-1] == "[es] 101-150"


def test_case_28_audio_that_comes_too_fast_is_not_heard() -> None:
    """What is more than half a second ahead of real time is lost, unless the script is patient."""
    for script, finals in (("", ["1-25<fin>"]), ("is_real_time = false", ["1-50<fin>"])):
        client = PalabraClient(script)
        client.speak_at_once(1, 25)
        client.speak_at_once(26, 25)
        client.finalize()
        assert client.finals == finals


def test_deltas_may_be_empty() -> None:
    """They are only a hint."""
    script = f'{TWO_TEXTS}\nfaults = [{{kind = "empty_delta"}}]'
    client = PalabraClient(script)
    client.speak(1, 50)

    spoken = [m for m in client.messages if isinstance(m, wire.Transcription)]
    assert [(m.segment.text, m.delta and m.delta.text) for m in spoken] == [
        ("good", ""),
        ("good morning", ""),
    ]


@given(
    messages=st.lists(
        st.one_of(st.text(max_size=20), st.binary(max_size=2_000), st.just('{"message_type":"f"}'))
    )
)
def test_whatever_a_client_sends_is_endured(messages: list[str | bytes]) -> None:
    """A stream that is sent garbage goes on."""
    client = PalabraClient("is_real_time = false")
    for message in messages:
        client.stream.receive(message, now_s=client.now_s)
    client.finalize()

    assert client.messages[-1].segment.text.endswith("<fin>")
