"""Every shape of Kotoba's errors: what to do then, and that nothing of their text is repeated."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.providers.interface import HttpResponse, ProviderError
from speechbus_transcriber.providers.kotoba import SILENCE_MS
from speechbus_transcriber.providers.kotoba_failures import refusal_error
from speechbus_transcriber.providers.kotoba_wishes import KotobaWishes
from speechbus_wire import kotoba as wire
from speechbus_wire.kotoba_errors import CODES, KINDS, read_error_body
from tests.support.kotoba_session import KotobaSession, build, delta

SPEECH = "秘密 speech"


def build_modest() -> KotobaWishes:
    """Wishes behind a first refusal, so that another one is about something else."""
    wishes = KotobaWishes()
    assert wishes.refuse(are_all=True)
    return wishes


def spell(error: ProviderError) -> str:
    """Class and code."""
    return f"{type(error).__name__.removeprefix('Provider').removesuffix('Error')}:{error.code}"


@pytest.mark.parametrize(
    ("event", "failure"),
    [
        (
            {"error": {"type": "limitation", "code": "rate_limit_error", "message": SPEECH}},
            wire.Failure(kind="limitation", code="rate_limit_error"),
        ),
        (
            {"error": {"type": "limitation", "code": None, "message": SPEECH, "param": None}},
            wire.Failure(kind="limitation"),
        ),
        (
            {"error": {"error": {"type": "server_error", "code": "internal_error"}}},
            wire.Failure(kind="server_error", code="internal_error"),
        ),
        (
            {"error": {"type": "server_error", "code": None, "message": "Try again later."}},
            wire.Failure(kind="server_error", is_capacity=True),
        ),
        ({"error": {"code": "worker_unavailable"}}, wire.Failure(is_capacity=True)),
        ({"error": {"code": SPEECH, "type": SPEECH, "message": SPEECH}}, wire.Failure()),
        ({"error": "worker_unavailable"}, wire.Failure(is_capacity=True)),
        ({"error": "rate_limit_error"}, wire.Failure(code="rate_limit_error")),
        ({"error": f"invalid_api_key: {SPEECH}"}, wire.Failure(code="invalid_api_key")),
        ({"error": SPEECH}, wire.Failure()),
        ({"error": "secret-word"}, wire.Failure()),
        ({"code": "session_expired", "message": SPEECH}, wire.Failure(code="session_expired")),
        ({"code": 429, "message": SPEECH}, wire.Failure(code="rate_limit_error")),
        ({"code": "401"}, wire.Failure(code="invalid_api_key")),
        ({"error": None, "code": 7}, wire.Failure()),
        ({"error": [SPEECH], "code": {"a": SPEECH}, "message": 1}, wire.Failure()),
        ({}, wire.Failure()),
    ],
)
@pytest.mark.parametrize("kind", ["error", "x-fal-error"])
def test_case_17_an_error_is_understood_in_every_shape(
    kind: str, event: dict[str, Any], failure: wire.Failure
) -> None:
    """And what it says about the audio is not kept."""
    read = wire.decode_server_message(json.dumps({"type": kind, **event}))

    assert read == failure
    assert SPEECH not in repr(read)


BY_CODE = [
    ("invalid_request_error", "invalid_url", "Rejected", "Rejected"),
    ("invalid_request_error", "invalid_api_key", "Rejected", "Rejected"),
    ("invalid_request_error", "invalid_json", "Protocol", "Protocol"),
    ("invalid_request_error", "invalid_event", "Protocol", "Protocol"),
    ("invalid_request_error", "invalid_parameters", "Rejected", "Protocol"),
    ("invalid_request_error", "session_expired", "Rejected", "Unavailable"),
    ("limitation", "timeout_error", "Unavailable", "Unavailable"),
    ("limitation", "rate_limit_error", "RateLimited", "RateLimited"),
    ("server_error", "internal_error", "Unavailable", "Unavailable"),
]


@pytest.mark.parametrize(("kind", "code", "at_first", "later"), BY_CODE)
def test_case_17_each_code_says_what_to_do_in_each_shape(
    kind: str, code: str, at_first: str, later: str
) -> None:
    """Right after the connection, and in the middle of a session."""
    for is_open, expected in ((False, at_first), (True, later)):
        for error in ({"type": kind, "code": code, "message": SPEECH}, {"code": code}, code):
            raised = KotobaSession(is_open=is_open, wishes=build_modest()).fail(error)

            assert spell(raised) == f"{expected}:{code}"
            assert raised.__cause__ is None


def test_every_code_of_the_vendors_table_is_tested() -> None:
    """A code that nobody has looked at would be worth another try for ever."""
    assert [code for _, code, _, _ in BY_CODE] == list(CODES)
    assert {kind for kind, _, _, _ in BY_CODE} == KINDS


@pytest.mark.parametrize(
    ("error", "at_first", "later"),
    [
        ({"type": "limitation"}, "RateLimited:rate_limit_error", "RateLimited:rate_limit_error"),
        (
            {"type": "limitation", "code": "concurrency", "message": SPEECH},
            "RateLimited:rate_limit_error",
            "RateLimited:rate_limit_error",
        ),
        (
            {"type": "invalid_request_error", "code": None},
            "Rejected:invalid_request_error",
            "Protocol:invalid_request_error",
        ),
        ({"type": "server_error"}, "Unavailable:server_error", "Unavailable:server_error"),
        (
            {"type": "server_error", "code": "init_success not received"},
            "RateLimited:rate_limit_error",
            "RateLimited:rate_limit_error",
        ),
        (
            "No available batch slot",
            "RateLimited:rate_limit_error",
            "RateLimited:rate_limit_error",
        ),
        ("secret-word", "Unavailable:error", "Unavailable:error"),
        ({"type": SPEECH, "code": SPEECH}, "Unavailable:error", "Unavailable:error"),
        ({}, "Unavailable:error", "Unavailable:error"),
    ],
)
def test_case_12_an_error_without_a_known_code_is_told_by_its_kind_or_its_words(
    error: dict[str, Any] | str, at_first: str, later: str
) -> None:
    """A limit is nobody's failure, whether or not it has a code."""
    assert spell(KotobaSession(is_open=False, wishes=build_modest()).fail(error)) == at_first
    assert spell(KotobaSession().fail(error)) == later


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, wire.encode_error_body("invalid_parameters", SPEECH), "Rejected:http_400"),
        (401, wire.encode_error_body("invalid_api_key", SPEECH), "Rejected:http_401"),
        (403, {}, "Rejected:http_403"),
        (404, wire.encode_error_body("invalid_url", SPEECH), "Rejected:http_404"),
        (429, {}, "RateLimited:http_429"),
        (403, wire.encode_error_body("rate_limit_error", SPEECH), "RateLimited:http_403"),
        (400, {"error": {"type": "limitation", "code": None}}, "RateLimited:http_400"),
        (503, {"error": "No available batch slot"}, "RateLimited:http_503"),
        (500, wire.encode_error_body("internal_error", SPEECH), "Unavailable:http_500"),
        (503, {}, "Unavailable:http_503"),
        (504, {}, "Unavailable:http_504"),
    ],
)
def test_case_12_a_refused_upgrade_is_told_by_its_status_or_its_limit(
    status: int, body: dict[str, Any], expected: str
) -> None:
    """Beyond the limit "the connection may be rejected", with what status is not said (seed)."""
    response = HttpResponse(status=status, body=json.dumps(body).encode(), retry_after_s=3.0)
    error = refusal_error(response)

    assert spell(error) == expected
    assert getattr(error, "retry_after_s", 3.0) == 3.0
    with pytest.raises(type(error), match=f"kotoba: http_{status}"):
        build().receive_response(response, now_s=0.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(CODES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "type", "code", "message", "param"]), inner, max_size=5
        )
    ),
    max_leaves=8,
)


@given(error=JSON, is_open=st.booleans())
def test_no_word_of_the_server_gets_into_an_error(
    error: Any,  # noqa: ANN401 (any JSON)
    is_open: bool,  # noqa: FBT001 - named by hypothesis
) -> None:
    """Errors are logged; what servers write may quote speech, or a key."""
    raised = KotobaSession(is_open=is_open).fail(error)

    assert raised.code in {*CODES, *KINDS, "error", "settings_refused"}
    assert str(raised) == f"kotoba: {raised.code}"


@given(body=st.binary(max_size=60) | JSON.map(msgspec.json.encode))
def test_any_body_of_a_refusal_is_read_without_a_crash(body: bytes) -> None:
    """Gateways answer with pages of their own."""
    failure = read_error_body(body)

    assert failure.code in {"", *CODES}


def test_case_26_an_old_server_is_asked_for_neither_turns_nor_times_the_second_time() -> None:
    """It takes nothing but false; every later session with the account begins with that."""
    wishes = KotobaWishes()
    refused = {"type": "invalid_request_error", "code": "invalid_parameters", "message": SPEECH}
    raised = KotobaSession(is_open=False, wishes=wishes).fail(refused)
    assert spell(raised) == "Unavailable:settings_refused"
    session = KotobaSession(turn_detection=False, wishes=wishes)
    later = KotobaSession(is_open=False, wishes=wishes)

    for (update,) in (session.opening, later.opening):
        assert update["session"]["turn_detection"] is False
        assert "timestamps" not in update["session"]["input_audio_transcription"]
    session.speak(1_000)
    session.receive(delta("はい。"))
    assert session.texts == ["はい。"]


def test_settings_that_are_refused_without_turns_and_times_are_wrong_themselves() -> None:
    """Perhaps the keywords of one stream: it is over there, and others ask for all again."""
    wishes = KotobaWishes()
    at_once = [KotobaSession(is_open=False, wishes=wishes) for _ in range(2)]
    for session in at_once:
        assert spell(session.fail("invalid_parameters")) == "Unavailable:settings_refused"
    again = KotobaSession(is_open=False, wishes=wishes)
    assert spell(again.fail("invalid_parameters")) == "Rejected:invalid_parameters"
    (update,) = KotobaSession(is_open=False, wishes=wishes).opening

    assert update["session"]["turn_detection"] == {
        "type": "server_vad",
        "silence_duration_ms": SILENCE_MS,
    }
    assert update["session"]["input_audio_transcription"]["timestamps"] is True
