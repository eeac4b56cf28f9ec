"""Kotoba's messages, read tolerantly and written exactly."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_wire import kotoba as wire
from tests.support.golden import read_golden, transcripts_of

SPEECH = "秘密 speech"


@pytest.mark.parametrize("name", transcripts_of("kotoba/client"))
def test_each_side_reads_what_the_other_writes(name: str) -> None:
    """Every message of every transcript, both ways."""
    for line in read_golden("kotoba/client", name):
        text = line.get("text")
        if text is None:
            continue
        if line["dir"] == "sent":
            if "audio" in text:
                text["audio"] = wire.encode_audio(bytes(text["audio"]["bytes"]))
            message = wire.decode_client_message(json.dumps(text))
            assert json.loads(wire.encode_message(message)) == text
        else:
            wire.decode_server_message(json.dumps(text))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("[]", "invalid_parameters"),
        ('{"type":"response.create"}', "invalid_event"),
        ('{"type":"input_audio_buffer.append"}', "invalid_parameters"),
        ('{"type":"input_audio_buffer.append","audio":"","event_id":"ä"}', "invalid_parameters"),
    ],
)
def test_a_wrong_message_of_a_client_has_a_code_of_the_vendors_table(text: str, code: str) -> None:
    """Clients act on the code."""
    with pytest.raises(wire.RequestError) as caught:
        wire.decode_client_message(text)

    assert caught.value.code == code


@pytest.mark.parametrize(
    "session",
    [
        {"turn_detection": True},
        {"turn_detection": None},
        {"turn_detection": {"type": "server_vad", "silence_duration_ms": "600"}},
        {"turn_detection": {"type": "server_vad", "silence_duration_ms": -1}},
        {"input_audio_number_of_channels": 2},
        {"input_audio_transcription": {"language": "en", "target_language": "ja"}},
    ],
)
def test_a_session_that_the_vendor_refuses_is_refused(session: dict[str, Any]) -> None:
    """Strictly, as documented (providers.md 1.4)."""
    update = {"type": "transcription_session.update", "session": session}
    with pytest.raises(wire.RequestError) as caught:
        wire.decode_client_message(json.dumps(update))

    assert caught.value.code == "invalid_parameters"


@given(pcm=st.binary(max_size=200))
def test_audio_survives_its_spelling(pcm: bytes) -> None:
    """Every byte of it."""
    assert wire.decode_audio(wire.encode_audio(pcm)) == pcm


@pytest.mark.parametrize("text", ["*", "A", "AA=A", "A" * 1_500_000])
def test_what_is_no_audio_is_refused(text: str) -> None:
    """Not base64, or more than a client may send at once."""
    with pytest.raises(wire.RequestError, match="audio"):
        wire.decode_audio(text)


@given(text=st.text(max_size=50))
def test_garbage_is_a_known_error_and_nothing_else(text: str) -> None:
    """On both sides."""
    for decode in (wire.decode_server_message, wire.decode_client_message):
        try:
            decode(text)
        except (wire.KotobaError, wire.RequestError):
            continue


def test_case_19_an_empty_delta_has_its_field() -> None:
    """Clients read it by its name; times that are not asked for are left out."""
    text = wire.encode_message(wire.Delta(item_id=None))

    assert json.loads(text) == {
        "type": "conversation.item.input_audio_transcription.delta",
        "item_id": None,
        "delta": "",
    }


def test_an_error_body_has_the_vendors_shape() -> None:
    """SDKs read it."""
    assert wire.encode_error_body("rate_limit_error", "Wait.") == {
        "error": {
            "type": "limitation",
            "code": "rate_limit_error",
            "message": "Wait.",
            "param": None,
        }
    }
    assert wire.encode_error_body("invalid_api_key", "No.")["error"]["type"] == (
        "invalid_request_error"
    )
