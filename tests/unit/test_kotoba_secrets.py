"""Client secrets of Kotoba's address."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_wire.kotoba import RequestError
from speechbus_wire.kotoba_secrets import (
    SESSION_BYTES_MAX,
    TTL_S,
    SecretClaims,
    decode_client_secret_request,
    decode_transcription_session_request,
    encode_client_secret,
    encode_transcription_session,
    read_remembered_session,
    sign_secret,
    verify_secret,
)
from speechbus_wire.kotoba_sessions import Dialect
from speechbus_wire.palabra_sessions import SessionClaims, sign_token, verify_token

KEY = b"thirty-two bytes of signing key."
CLAIMS = SecretClaims(tenant="acme", stream_id="s-1", expires_at_s=1_000)
SPEECH = "a-very-secret-word"


@given(
    tenant=st.text(max_size=20),
    dialect=st.sampled_from(["kotoba", "beta", "general"]),
    remembered=st.sampled_from(["", "{}", '{"keywords":["おはよう"]}']),
)
def test_a_secret_says_what_it_was_given(tenant: str, dialect: Dialect, remembered: str) -> None:
    """To whoever has the key it was signed with."""
    claims = SecretClaims(
        tenant=tenant, stream_id="s", expires_at_s=7, dialect=dialect, remembered=remembered
    )

    assert verify_secret(sign_secret(claims, KEY), KEY) == claims


@given(at=st.integers(0, 10_000), flip=st.integers(1, 127))
def test_a_secret_that_was_changed_anywhere_is_none(at: int, flip: int) -> None:
    """One bit of it is enough."""
    good = sign_secret(CLAIMS, KEY)
    at %= len(good)
    bad = good[:at] + chr(ord(good[at]) ^ flip) + good[at + 1 :]

    assert verify_secret(bad, KEY) is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        "ek_",
        "ek_..",
        "ek_\ud800.\ud800.\ud800",
        sign_secret(CLAIMS, KEY).removeprefix("ek_"),
        sign_secret(CLAIMS, b"another signing key"),
        "ek_" + sign_token(SessionClaims(tenant="acme", session_id="s", expires_at_s=9), KEY),
        sign_secret(CLAIMS, KEY) + "A" * 5_000,
    ],
)
def test_other_tokens_are_none(token: str) -> None:
    """Also those that another door of the same system has signed."""
    assert verify_secret(token, KEY) is None


def test_a_secret_opens_no_other_door() -> None:
    """It is for one stream at one address."""
    secret = sign_secret(CLAIMS, KEY).removeprefix("ek_")

    assert verify_token(secret, KEY, now_s=0) is None


def test_the_longest_secret_fits_into_a_header() -> None:
    """And is still taken for one."""
    session = json.dumps({"input_audio_transcription": {"keywords": ['"' * 20] * 44}})
    asked = decode_transcription_session_request(session.encode(), "kotoba")
    claims = SecretClaims(
        tenant="t" * 64,
        stream_id="s" * 36,
        expires_at_s=1 << 40,
        dialect="general",
        remembered=asked.remembered,
    )
    secret = sign_secret(claims, KEY)

    assert SESSION_BYTES_MAX - 80 < len(asked.remembered) <= SESSION_BYTES_MAX
    assert len(secret) < 4_096
    assert verify_secret(secret, KEY) == claims


# --- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b" ", b"{}"])
def test_nothing_asked_for_is_ten_minutes_and_no_settings(body: bytes) -> None:
    """The seed's program sends an empty object."""
    requests = [
        decode_transcription_session_request(body, "kotoba"),
        decode_client_secret_request(body),
    ]

    assert [(request.ttl_s, request.remembered) for request in requests] == [(TTL_S, "")] * 2


@pytest.mark.parametrize("name", ["expires_at", "expires_after"])
def test_the_betas_expiry_is_taken_in_both_spellings(name: str) -> None:
    """They are in one object, and the object is not part of the settings."""
    body = {"client_secret": {name: {"anchor": "created_at", "seconds": 10}}}
    request = decode_transcription_session_request(json.dumps(body).encode(), "beta")

    assert (request.ttl_s, request.remembered) == (10, "")


def test_the_general_requests_settings_are_remembered() -> None:
    """A client may then send audio and nothing else."""
    session = {
        "type": "transcription",
        "audio": {"input": {"transcription": {"language": "ja"}, "turn_detection": None}},
    }
    body = {"expires_after": {"anchor": "created_at", "seconds": 7_200}, "session": session}
    request = decode_client_secret_request(json.dumps(body).encode())

    assert request.ttl_s == 7_200
    assert read_remembered_session(request.remembered, "general") == request.asked
    assert (request.asked.language, request.asked.has_turns) == ("ja", False)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[]", "invalid_parameters"),
        (b'{"client_secret":{"expires_at":{"seconds":9}},"expires_after":1}', "invalid_parameters"),
        (b'{"client_secret":1,"expires_after":{"seconds":7201}}', "invalid_parameters"),
        (b'{"expires_after":{"seconds":"x"},"client_secret":7}', "invalid_parameters"),
        (b'{"session":{"type":"realtime"},"input_audio_format":"x"}', "invalid_parameters"),
        (f'{{"input_audio_format":"{SPEECH}","session":[]}}'.encode(), "invalid_parameters"),
        (
            json.dumps(
                {
                    "input_audio_transcription": {"keywords": ["x" * 60] * 40},
                    "session": {"type": "transcription", "x": "x" * 2_048},
                }
            ).encode(),
            "invalid_parameters",
        ),
    ],
)
def test_a_wrong_request_is_refused_without_repeating_it(body: bytes, code: str) -> None:
    """By the vendor's table."""
    with pytest.raises(RequestError) as refused:
        decode_transcription_session_request(body, "kotoba")
    with pytest.raises(RequestError) as refused_too:
        decode_client_secret_request(body)

    for error in (refused.value, refused_too.value):
        assert error.code == code
        assert SPEECH not in str(error)


def test_both_answers_have_their_vendors_shape() -> None:
    """Clients read `client_secret.value`, or `value`."""
    asked = decode_client_secret_request(b"").asked
    fields: dict[str, Any] = {"session_id": "sess_1", "secret": "ek_1", "expires_at_s": 7}
    beta = decode_transcription_session_request(b"", "kotoba").asked
    nested = json.loads(encode_transcription_session(beta, **fields))
    flat = json.loads(encode_client_secret(asked, **fields))

    assert nested["client_secret"] == {"value": "ek_1", "expires_at": 7}
    assert (nested["id"], nested["input_audio_format"]) == ("sess_1", "pcm16")
    assert (flat["value"], flat["expires_at"]) == ("ek_1", 7)
    assert (flat["session"]["id"], flat["session"]["type"]) == ("sess_1", "transcription")
