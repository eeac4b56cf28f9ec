import base64
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_wire import palabra as wire
from speechbus_wire import palabra_sessions as sessions
from speechbus_wire import palabra_storage as storage

TRANSCRIPTS = sorted((Path(__file__).parents[1] / "transcripts" / "palabra").glob("*.jsonl"))
KNOWN_TYPES = {"transcription", "translated_transcription", "finalize"}
SECRET = b"a secret of thirty-two characters"
CLAIMS = sessions.SessionClaims(tenant="acme", session_id="s1", expires_at_s=1_000)


def read_transcript(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and messages of one recorded conversation."""
    header, *messages = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return header, messages


def encode_part(octets: bytes) -> str:
    """Spell a part of a JSON Web Token."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def times() -> st.SearchStrategy[float]:
    """Seconds as the wire has them."""
    return st.integers(0, 10**9).map(wire.to_seconds)


def spans() -> st.SearchStrategy[wire.Span]:
    """Every span."""
    return st.builds(wire.Span, text=st.text(max_size=20), start_time=times(), end_time=times())


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_each_side_writes_what_the_other_side_of_a_transcript_read(path: Path) -> None:
    """The door serves clients and the adapter talks to servers that we did not write."""
    for message in read_transcript(path)[1]:
        if message.get("text", {}).get("message_type") not in KNOWN_TYPES:
            continue
        text = json.dumps(message["text"])
        decode = {"sent": wire.decode_client_message, "received": wire.decode_server_message}
        decoded = decode[message["dir"]](text)
        assert decoded is not None

        assert json.loads(wire.encode_message(decoded)) == message["text"]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_unknown_types_of_a_transcript_are_ignored_by_both_sides(path: Path) -> None:
    """Palabra has added message types before; neither side may fall over one."""
    for message in read_transcript(path)[1]:
        if message.get("text", {}).get("message_type", "finalize") not in KNOWN_TYPES:
            text = json.dumps(message["text"])

            assert wire.decode_client_message(text) is None
            assert wire.decode_server_message(text) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"message_type":"finalize"}', wire.Finalize()),
        ('{"message_type":"finalize","more":1}', wire.Finalize()),
        ("{}", None),
        ('{"type":"KeepAlive"}', None),
        ('{"message_type":null}', None),
        ('{"message_type":"Finalize"}', None),
    ],
)
def test_only_a_finalize_is_one(text: str, message: wire.ClientMessage | None) -> None:
    """Clients of other services say other things, and each finalize cuts a segment."""
    assert wire.decode_client_message(text) == message


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_query_of_a_transcript_is_understood(path: Path) -> None:
    """All settings of a stream are in its URL."""
    header, _ = read_transcript(path)

    assert wire.parse_stream_parameters(dict(parse_qsl(header["query"]))).sample_rate_hz == 16_000


def test_the_marker_of_a_transcript_is_taken_off_whatever_is_eos_says() -> None:
    """Clients wait for it; it has come on partials too."""
    marked: list[tuple[str, bool, tuple[str, bool]]] = []
    for path in TRANSCRIPTS:
        for message in read_transcript(path)[1]:
            text = message.get("text", {}).get("segment", {}).get("text", "")
            if wire.FIN in text:
                marked.append((path.stem, message["text"]["is_eos"], wire.split_fin(text)))

    assert marked == [
        ("flush_in_silence", False, ("", True)),
        ("flush_inside_utterance", True, ("see you later", True)),
    ]


@given(text=st.text(max_size=30))
def test_a_marker_that_was_appended_comes_off_again(text: str) -> None:
    """What the client makes of the answer to its finalize is the text, give or take blanks."""
    span = wire.Span(text=text, start_time=0.0, end_time=1.0)
    message = wire.Transcription(
        transcription_id="a", language="en", is_eos=True, segment=span, delta=span
    )
    marked = wire.append_fin(message)

    assert wire.split_fin(marked.segment.text) == (text.rstrip(), True)
    assert marked.delta == marked.segment


@given(
    message=st.builds(
        wire.Transcription,
        transcription_id=st.text(max_size=9),
        language=st.text(max_size=9),
        is_eos=st.booleans(),
        segment=spans(),
        delta=st.none() | spans(),
    )
    | st.builds(
        wire.TranslatedTranscription,
        transcription_id=st.text(max_size=9),
        language=st.text(max_size=9),
        is_eos=st.just(value=True),
        segment=spans(),
    )
)
def test_a_server_message_survives_the_wire(message: wire.ServerMessage) -> None:
    """Whatever was said, in whatever script."""
    assert wire.decode_server_message(wire.encode_message(message)) == message


@given(ms=st.integers(-(10**12), 10**12))
def test_a_time_survives_the_way_to_seconds_and_back(ms: int) -> None:
    """True time: the vendor's clock counts seconds, ours integer milliseconds."""
    assert wire.to_ms(wire.to_seconds(ms)) == ms


@given(
    text=st.text(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.text(max_size=5) | st.sampled_from(sorted(KNOWN_TYPES)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["message_type", "segment", "text"]), inner, max_size=3
            )
        ),
        max_leaves=6,
    ).map(json.dumps)
)
def test_garbage_raises_one_error_that_does_not_repeat_it(text: str) -> None:
    """Clients send what they like, and an error's text ends up in logs."""
    wire.decode_client_message(text)
    refused: wire.PalabraError | None = None
    try:
        wire.decode_server_message(text)
    except wire.PalabraError as error:
        refused = error

    assert refused is None or str(refused) == "not a valid message of the stream"
    assert refused is None or refused.__cause__ is None


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({}, 'missing parameter "format"'),
        ({"format": "opus"}, 'invalid parameter "format"'),
        ({"format": "mulaw"}, 'missing parameter "sample_rate"'),
        ({"format": "pcm_s16le", "sample_rate": "7999"}, 'invalid parameter "sample_rate"'),
        ({"format": "pcm_s16le", "sample_rate": "48001"}, 'invalid parameter "sample_rate"'),
        ({"format": "pcm_s16le", "sample_rate": "16e3"}, 'invalid parameter "sample_rate"'),
        ({"format": "pcm_s16le", "sample_rate": "١٦٠٠٠"}, 'invalid parameter "sample_rate"'),
        ({"format": "pcm_s16le", "language": "en.US"}, 'invalid parameter "language"'),
        ({"format": "pcm_s16le", "language": "en\n"}, 'invalid parameter "language"'),
        (
            {"format": "pcm_s16le", "translate_languages": "es,>"},
            'invalid parameter "translate_languages"',
        ),
        (
            {
                "format": "pcm_s16le",
                "translate_languages": ",".join(map("a{}".format, "bcdefghijklmnopqrs")),
            },
            'invalid parameter "translate_languages"',
        ),
        (
            {"format": "pcm_s16le", "enable_filler_filter": "1"},
            'invalid parameter "enable_filler_filter"',
        ),
        (
            {"format": "pcm_s16le", "finalization_mode": "both"},
            'invalid parameter "finalization_mode": auto or manual',
        ),
        *(
            (
                {"format": "pcm_s16le", "finalization_timeout": timeout},
                'invalid parameter "finalization_timeout": seconds, more than 0, at most 60',
            )
            for timeout in ("0", "60.1", "-1", "1e1", "nan", "inf", "1s", "٣")
        ),
    ],
)
def test_a_wrong_parameter_is_named(query: dict[str, str], told: str) -> None:
    """The client's developer sees nothing but this text and the status."""
    with pytest.raises(wire.ParameterError) as raised:
        wire.parse_stream_parameters(query)

    assert str(raised.value).startswith(told)


def test_what_the_url_leaves_out_has_the_documented_default() -> None:
    """Existing clients name little: JavaScript clients leave `language` out for auto."""
    japanese = {"format": "pcm_s16le", "language": "ja-JP"}

    assert wire.parse_stream_parameters({"format": "pcm_s16le", "of_tomorrow": "x"}) == (
        wire.StreamParameters(format="pcm_s16le", sample_rate_hz=16_000)
    )
    assert wire.parse_stream_parameters(
        {
            "format": "alaw",
            "sample_rate": "8000",
            "language": "en-US",
            "translate_languages": "es, de,,es",
        }
    ) == wire.StreamParameters(
        format="alaw", sample_rate_hz=8_000, language="en-US", target_languages=("es", "de")
    )
    assert (
        wire.parse_stream_parameters({"format": "ogg", "sample_rate": "1"}).sample_rate_hz is None
    )
    assert not wire.parse_stream_parameters(japanese).has_filler_filter
    assert wire.parse_stream_parameters(
        japanese | {"enable_filler_filter": "true"}
    ).has_filler_filter


def test_who_ends_a_segment_is_said_in_the_url() -> None:
    """Voice agents end their turns themselves; captions leave it to the recognizer."""
    parameters = wire.parse_stream_parameters(
        {"format": "flac", "finalization_mode": "Manual", "finalization_timeout": "1.5"}
    )

    assert (parameters.finalization_mode, parameters.finalization_timeout_s) == ("manual", 1.5)
    assert wire.build_stream_query(parameters) == {
        "format": "flac",
        "finalization_mode": "manual",
        "finalization_timeout": "1.5",
    }


def test_a_session_token_is_taken_until_it_expires_and_with_its_secret_only() -> None:
    """It stands for the key, in URLs that end up in places."""
    token = sessions.sign_token(CLAIMS, SECRET)

    assert sessions.verify_token(token, SECRET, now_s=999.9) == CLAIMS
    assert sessions.verify_token(token, SECRET, now_s=1_000.0) is None
    assert sessions.verify_token(token, SECRET + b".", now_s=0.0) is None


@given(at=st.integers(0, 400), replacement=st.characters())
def test_a_session_token_with_another_character_is_refused(at: int, replacement: str) -> None:
    """Nobody makes a publisher's token out of a subscriber's, or of another tenant's."""
    token = sessions.sign_token(CLAIMS, SECRET)
    at %= len(token)
    changed = token[:at] + replacement + token[at + 1 :]

    assert changed == token or sessions.verify_token(changed, SECRET, now_s=0.0) is None


@given(token=st.text(max_size=200))
def test_no_other_text_is_a_session_token(token: str) -> None:
    """It is the first thing a stranger's request meets."""
    assert sessions.verify_token(token, SECRET, now_s=0.0) is None


def test_a_token_for_another_use_of_the_secret_is_refused() -> None:
    """The secret signs the tokens of other doors as well."""
    payload = msgspec.json.encode(
        {"aud": "elsewhere", "sub": "acme", "sid": "s", "role": "publisher", "exp": 9}
    )
    header = sessions.sign_token(CLAIMS, SECRET).partition(".")[0]
    signed = f"{header}.{encode_part(payload)}"
    token = f"{signed}.{encode_part(hmac.digest(SECRET, signed.encode(), 'sha256'))}"

    assert sessions.verify_token(token, SECRET, now_s=0.0) is None


def test_a_session_token_is_a_json_web_token() -> None:
    """Clients' libraries read who it is for and when it expires."""
    header, payload, _ = sessions.sign_token(CLAIMS, SECRET).split(".")

    assert header == encode_part(b'{"alg":"HS256","typ":"JWT"}')
    assert payload == encode_part(
        b'{"aud":"palabra","sub":"acme","sid":"s1","role":"publisher","exp":1000}'
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"data":[]}', b'{"data":{"subscriber_count":11}}', b"\xff", b"[" * 5_000],
)
def test_a_broken_request_for_a_session_is_one_error(body: bytes) -> None:
    """The caller gets a 400 and a sentence, whatever came."""
    with pytest.raises(wire.PalabraError):
        sessions.decode_session_request(body)


def test_the_requests_of_the_seed_are_understood() -> None:
    """Both forms are in the vendor's documentation."""
    long = b'{"data":{"subscriber_count":0,"publisher_count":1,"publisher_can_subscribe":true}}'

    assert sessions.decode_session_request(b'{"data":{}}') == sessions.SessionRequest()
    assert sessions.decode_session_request(long) == sessions.SessionRequest()


SESSIONS = [
    storage.SessionInfo(
        session_id=f"s{number}", created_at=1_750_000_000_999, updated_at=0, expires_at=60_000
    )
    for number in range(5)
]


def test_a_session_is_told_with_its_times() -> None:
    """The vendor's documentation shows whole seconds, in UTC."""
    assert json.loads(storage.encode_session_info(SESSIONS[0])) == {
        "ok": True,
        "data": {
            "id": "s0",
            "created_at": "2025-06-15T15:06:40Z",
            "updated_at": "1970-01-01T00:00:00Z",
            "expires_at": "1970-01-01T00:01:00Z",
        },
    }


@given(size=st.integers(1, 6), n_sessions=st.integers(0, 5))
def test_pages_hold_every_session_once_and_in_order(size: int, n_sessions: int) -> None:
    """Clients follow `next_page_token` until there is none."""
    listed: list[str] = []
    query = {"page_size": str(size)}
    while True:
        page = json.loads(
            storage.encode_session_list(SESSIONS[:n_sessions], storage.parse_page(query))
        )
        listed += [session["id"] for session in page["data"]]
        assert len(page["data"]) <= size
        if not page["next_page_token"]:
            break
        query["page_token"] = page["next_page_token"]

    assert listed == [session.session_id for session in SESSIONS[:n_sessions]]


@given(text=st.text(max_size=20), name=st.sampled_from(["page_size", "page_token", "ttl_seconds"]))
def test_any_query_of_the_session_storage_is_understood_or_refused(text: str, name: str) -> None:
    """Strangers' mistakes are answered, in words that repeat nothing of them."""
    read = storage.parse_ttl if name == "ttl_seconds" else storage.parse_page
    told = ""
    try:
        read({name: text})
    except wire.ParameterError as error:
        told = str(error)

    assert told == "" or f'"{name}"' in told
    assert len(text) < 8 or text not in told


def test_session_and_error_have_the_documented_fields() -> None:
    """Clients with strict models refuse an answer that lacks one."""
    session = json.loads(
        sessions.encode_session(
            sessions.SessionToken(session_id="s", publisher="p", subscribers=("q",))
        )
    )
    problem = json.loads(
        sessions.encode_problem(
            sessions.Problem(
                status=401, title="Unauthorized", detail="d", error_code="c", instance="/i"
            )
        )
    )

    assert session["ok"] is True
    assert session["data"].items() >= {"id": "s", "publisher": "p", "intent": "api"}.items()
    assert session["data"]["subscriber"] == ["q"]
    assert {"webrtc_room_name", "webrtc_url", "ws_url", "ws_tts_url"} <= session["data"].keys()
    assert problem["ok"] is False
    assert problem["errors"] == [
        {
            "type": "about:blank",
            "status": 401,
            "title": "Unauthorized",
            "detail": "d",
            "instance": "/i",
            "error_code": "c",
        }
    ]


def test_a_streams_url_says_what_was_asked_for_and_keeps_its_own_query() -> None:
    """Clients put the token first; a proxy's address may have parameters of its own."""
    parameters = wire.StreamParameters(
        format="mulaw", sample_rate_hz=8_000, language="ja", target_languages=("es", "fr-ca")
    )
    url = wire.build_stream_url("wss://proxy.example/p?via=1", parameters, token="a b&c")
    head, _, query = url.partition("?")

    assert head == "wss://proxy.example/p"
    assert parse_qsl(query)[:2] == [("via", "1"), ("token", "a b&c")]
    assert wire.parse_stream_parameters(dict(parse_qsl(query))) == parameters
