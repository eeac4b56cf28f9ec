"""What clients of Kotoba's address may say, in its three dialects."""

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.formats.names import RAW_FORMATS
from speechbus_wire.kotoba import Append, Commit, RequestError
from speechbus_wire.kotoba_door import (
    Clear,
    DoorMessage,
    Update,
    build_default_session,
    decode_door_message,
)
from speechbus_wire.kotoba_openai import encode_session_event
from speechbus_wire.kotoba_sessions import Asked, AudioAsked, Dialect

DIALECTS: list[Dialect] = ["kotoba", "beta", "general"]
SECRET = "a-very-secret-word"


def update(session: dict[str, Any], dialect: Dialect = "kotoba") -> Asked:
    """The settings of an update."""
    kind = "session.update" if dialect == "general" else "transcription_session.update"
    message = decode_door_message(json.dumps({"type": kind, "session": session}), dialect)
    assert isinstance(message, Update)
    return message.asked


def transcription(**fields: object) -> dict[str, Any]:
    """A session of Kotoba's or the beta's with fields of its transcription."""
    return {"input_audio_transcription": fields}


def general(**fields: object) -> dict[str, Any]:
    """A session of the general dialect with fields of its input."""
    return {"type": "transcription", "audio": {"input": fields}}


def refusal(text: str, dialect: Dialect = "kotoba") -> tuple[str, str | None]:
    """Code and param of a refusal, which repeats nothing."""
    with pytest.raises(RequestError) as refused:
        decode_door_message(text, dialect)
    assert SECRET not in str(refused.value)
    return refused.value.code, refused.value.param


@pytest.mark.parametrize(
    ("session", "has_turns"),
    [
        ({}, True),
        ({"turn_detection": False}, False),
        ({"turn_detection": {"type": "server_vad"}}, True),
    ],
)
def test_at_fals_address_turns_are_detected_unless_the_settings_say_no(
    *, session: dict[str, Any], has_turns: bool
) -> None:
    """Elsewhere they are not (providers.md 1.1)."""
    text = json.dumps({"type": "transcription_session.update", "session": session})
    message = decode_door_message(text, "kotoba", is_fal=True)

    assert isinstance(message, Update)
    assert message.asked.has_turns is has_turns
    assert bool(message.asked.echo["turn_detection"]) is has_turns
    assert not update({}).has_turns


def test_the_update_of_the_seed_is_echoed_with_every_field() -> None:
    """Normalized, as the vendor's own sample shows it (providers.md 1.6)."""
    asked = update(
        {
            "input_audio_format": "pcm16",
            "input_audio_sample_rate": 24000,
            "input_audio_number_of_channels": 1,
            "input_audio_transcription": {"language": "ja", "target_language": "ja"},
        }
    )

    assert asked == Asked(
        dialect="kotoba",
        audio=AudioAsked(encoding="pcm_s16le", sample_rate_hz=24_000),
        language="ja",
        keywords=(),
        has_turns=False,
        has_timestamps=False,
        echo={
            "object": "realtime.transcription_session",
            "input_audio_format": "pcm16",
            "input_audio_sample_rate": 24000,
            "input_audio_number_of_channels": 1,
            "input_audio_transcription": {
                "language": "ja",
                "target_language": "ja",
                "keywords": (),
                "kana": False,
                "timestamps": False,
            },
            "turn_detection": False,
        },
    )


def test_the_sdks_options_are_taken_and_echoed() -> None:
    """Turn detection as given, without fields that nobody named."""
    session = transcription(
        language="en",
        target_language="en",
        keywords=[" Speechbus ", "", "NATS"],
        style_preference={"human_name": "kana"},
        timestamps=True,
    )
    asked = update(session | {"turn_detection": {"type": "server_vad"}})

    assert (asked.keywords, asked.has_turns, asked.has_timestamps) == (
        ("Speechbus", "NATS"),
        True,
        True,
    )
    assert asked.echo["turn_detection"] == {"type": "server_vad"}
    assert asked.echo["input_audio_transcription"]["style_preference"] == {"human_name": "kana"}


@pytest.mark.parametrize(
    ("session", "encoding", "rate_hz"),
    [
        ({}, "pcm_s16le", 24_000),
        ({"input_audio_format": "float32", "input_audio_sample_rate": 44_100}, "pcm_f32le", 44_100),
        ({"input_audio_format": "mulaw"}, "mulaw", 8_000),
        ({"input_audio_format": "twilio"}, "mulaw", 8_000),
        ({"input_audio_format": "g711_alaw"}, "alaw", 8_000),
        ({"input_audio_sample_rate": 8_000}, "pcm_s16le", 8_000),
    ],
)
def test_formats_have_their_names_and_rates(
    session: dict[str, Any], encoding: str, rate_hz: int
) -> None:
    """Telephone formats come at 8 kHz, everything else at 24 when nothing is said."""
    assert update(session).audio == AudioAsked(encoding=encoding, sample_rate_hz=rate_hz)


def test_every_encoding_is_one_of_ingests() -> None:
    """The wire has names, ingest has what reads them."""
    kotobas = ("pcm16", "float32", "mulaw", "twilio", "g711_ulaw", "g711_alaw")
    encodings = [update({"input_audio_format": name}).audio.encoding for name in kotobas]
    encodings += [
        update(general(format={"type": name}), "general").audio.encoding
        for name in ("audio/pcm", "audio/pcmu", "audio/pcma")
    ]

    assert set(encodings) <= set(RAW_FORMATS)


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"input_audio_format": SECRET}, "input_audio_format"),
        ({"input_audio_format": "opus"}, "input_audio_format"),
        ({"input_audio_sample_rate": 7_999}, "input_audio_sample_rate"),
        ({"input_audio_sample_rate": 48_001}, "input_audio_sample_rate"),
        ({"input_audio_number_of_channels": 2}, "input_audio_number_of_channels"),
        ({"turn_detection": True}, "turn_detection"),
        ({"turn_detection": None}, "turn_detection"),
        ({"turn_detection": {"type": "semantic_vad"}}, "turn_detection"),
        ({"turn_detection": {"type": SECRET}}, None),
        ({"turn_detection": {"type": "server_vad", "silence_duration_ms": "600"}}, None),
        ({"turn_detection": {"type": "server_vad", "silence_duration_ms": 600.5}}, None),
        ({"turn_detection": {"type": "server_vad", "silence_duration_ms": True}}, None),
        ({"turn_detection": {"type": "server_vad", "silence_duration_ms": -1}}, None),
        (transcription(language="en", target_language="ja"), "language,target_language"),
        (transcription(language="e n"), "language"),
        (transcription(target_language="*"), "language"),
        (transcription(keywords=["x" * 65]), "keywords"),
        (transcription(keywords=["x"] * 1_001), "keywords"),
        (transcription(keywords=SECRET), None),
        (transcription(timestamps="yes"), None),
    ],
)
def test_a_wrong_setting_is_refused_and_named(session: dict[str, Any], param: str | None) -> None:
    """Strictly where the vendor is strict; the value itself is not repeated."""
    text = json.dumps({"type": "transcription_session.update", "session": session})

    assert refusal(text) == ("invalid_parameters", param)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ('{"a":' + "[" * 5_000, "invalid_json"),
        ("[]", "invalid_event"),
        ("1", "invalid_event"),
        ("{}", "invalid_event"),
        (f'{{"type":"{SECRET}"}}', "invalid_event"),
        ('{"type":"response.create"}', "invalid_event"),
        ('{"type":"transcription_session.update"}', "invalid_parameters"),
        ('{"type":"session.update","session":{"type":"realtime"}}', "invalid_parameters"),
        ('{"type":"input_audio_buffer.append"}', "invalid_parameters"),
        ('{"type":"input_audio_buffer.append","audio":7}', "invalid_parameters"),
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_wrong_message_has_a_code_of_the_vendors_table(
    text: str, code: str, dialect: Dialect
) -> None:
    """Clients act on the code."""
    assert refusal(text, dialect)[0] == code


def test_kotobas_ids_of_appends_are_checked_and_openais_are_not() -> None:
    """Kotoba's come back as `item_id`; OpenAI's never do."""
    text = json.dumps({"type": "input_audio_buffer.append", "event_id": "ev.1", "audio": ""})

    assert refusal(text) == ("invalid_parameters", "event_id")
    assert decode_door_message(text, "general") == Append(audio="", event_id="ev.1")


def test_clear_is_openais_alone() -> None:
    """No source of Kotoba knows it, and it would promise what nobody can keep."""
    text = '{"type":"input_audio_buffer.clear"}'

    assert refusal(text) == ("invalid_event", "type")
    assert decode_door_message(text, "beta") == Clear()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_audio_and_commit_are_the_same_in_all_dialects(dialect: Dialect) -> None:
    """And what is not known is ignored."""
    said: list[DoorMessage] = [
        decode_door_message('{"type":"input_audio_buffer.commit","event_id":"x"}', dialect),
        decode_door_message(
            '{"event_id":"chunk_1","new":{},"type":"input_audio_buffer.append","audio":"AAA="}',
            dialect,
        ),
    ]

    assert said == [Commit(), Append(audio="AAA=", event_id="chunk_1")]


# --- OpenAI's ------------------------------------------------------------------------------------


def test_the_betas_session_is_understood() -> None:
    """As OpenAI documents it: what has no meaning here is ignored."""
    asked = update(
        {
            "include": ["item.input_audio_transcription.logprobs"],
            "input_audio_format": "g711_ulaw",
            "input_audio_noise_reduction": {"type": "near_field"},
            "input_audio_transcription": {
                "model": "gpt-4o-transcribe",
                "language": "en",
                "prompt": "Speechbus, Kotoba Technologies",
            },
            "modalities": ["text", "audio"],
            "turn_detection": {
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 300,
                "silence_duration_ms": 500,
            },
        },
        "beta",
    )

    assert (asked.audio.encoding, asked.audio.sample_rate_hz) == ("mulaw", 8_000)
    assert (asked.language, asked.has_turns) == ("en", True)
    assert asked.keywords == ("Speechbus", "Kotoba Technologies")
    assert asked.echo["input_audio_transcription"]["model"] == "gpt-4o-transcribe"


def test_settings_that_name_a_model_are_the_betas_whoever_sends_them() -> None:
    """Some clients leave out the header that says so; Kotoba has no such field."""
    asked = update(transcription(model="whisper-1") | {"turn_detection": None})

    assert (asked.dialect, asked.has_turns) == ("beta", False)


def test_the_general_session_is_understood_whoever_sends_it() -> None:
    """`session.update` is no other dialect's."""
    message = decode_door_message(
        json.dumps(
            {
                "type": "session.update",
                "session": general(
                    format={"type": "audio/pcm", "rate": 24000},
                    transcription={
                        "model": "gpt-realtime-whisper",
                        "language": "en",
                        "keywords": ["NATS"],
                        "delay": "low",
                    },
                    turn_detection={"type": "semantic_vad", "eagerness": "low"},
                    noise_reduction={"type": "near_field"},
                ),
            }
        ),
        "kotoba",
    )
    assert isinstance(message, Update)
    asked = message.asked

    assert (asked.dialect, asked.language, asked.keywords) == ("general", "en", ("NATS",))
    assert asked.has_turns
    assert asked.echo["audio"]["input"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "transcription": {
            "model": "gpt-realtime-whisper",
            "language": "en",
            "keywords": ("NATS",),
        },
        "noise_reduction": None,
        "turn_detection": {"type": "semantic_vad", "eagerness": "low"},
    }


@pytest.mark.parametrize(("kind", "encoding"), [("audio/pcmu", "mulaw"), ("audio/pcma", "alaw")])
def test_telephone_formats_of_the_general_dialect(kind: str, encoding: str) -> None:
    """They have no rate: it is 8 kHz."""
    asked = update(general(format={"type": kind}), "general")

    assert asked.audio == AudioAsked(encoding=encoding, sample_rate_hz=8_000)
    assert asked.echo["audio"]["input"]["format"] == {"type": kind}


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({}, "session.type"),
        (general(format={"type": SECRET}), "session.audio.input.format.type"),
        (general(format={"type": "audio/pcm", "rate": 1}), "session.audio.input.format.rate"),
        (general(transcription={"language": SECRET}), "language"),
        (general(turn_detection=False), None),
    ],
)
def test_a_wrong_general_setting_is_refused(session: dict[str, Any], param: str | None) -> None:
    """By the same table."""
    text = json.dumps({"type": "session.update", "session": session})

    assert refusal(text, "general") == ("invalid_parameters", param)


@pytest.mark.parametrize(
    ("languages", "language"), [(["en"], "en"), (["en", "ja"], None), ([], None), (None, None)]
)
def test_one_of_several_languages_is_not_chosen(
    languages: list[str] | None, language: str | None
) -> None:
    """The recognizer is left to find out."""
    assert update(general(transcription={"languages": languages}), "general").language == language


@pytest.mark.parametrize(
    ("dialect", "has_turns"), [("kotoba", False), ("beta", True), ("general", True)]
)
def test_turn_detection_that_nobody_named(dialect: Dialect, *, has_turns: bool) -> None:
    """Off at the vendor, on at OpenAI (providers.md 1.1, 2.2)."""
    assert build_default_session(dialect).has_turns is has_turns


def test_sentences_in_a_prompt_are_no_keywords() -> None:
    """A prompt may be prose; only what can be a term is taken for one."""
    prose = "The speakers talk about the history of the railway in some detail and at length"

    assert update(transcription(model="m", prompt=f"{prose}, NATS")).keywords == ("NATS",)


# --- the session's events ------------------------------------------------------------------------


def test_kotobas_created_is_bare() -> None:
    """Event id and type, and no session (providers.md 1.6)."""
    text = encode_session_event(
        "created", build_default_session("kotoba"), event_id="e", session_id="sess_1"
    )

    assert json.loads(text) == {"type": "transcription_session.created", "event_id": "e"}


@pytest.mark.parametrize(
    ("dialect", "kind", "name"),
    [
        ("kotoba", "updated", "transcription_session.updated"),
        ("beta", "created", "transcription_session.created"),
        ("general", "updated", "session.updated"),
    ],
)
def test_other_session_events_have_the_session(
    dialect: Dialect, kind: Literal["created", "updated"], name: str
) -> None:
    """With an id at OpenAI only."""
    event = json.loads(
        encode_session_event(
            kind, build_default_session(dialect), event_id="e", session_id="sess_1"
        )
    )

    assert event["type"] == name
    assert event["session"]["object"] == "realtime.transcription_session"
    assert ("id" in event["session"]) is (dialect != "kotoba")


@given(text=st.one_of(st.text(max_size=60), st.binary(max_size=60).map(repr)))
@pytest.mark.parametrize("dialect", DIALECTS)
def test_garbage_is_a_known_error_and_nothing_else(dialect: Dialect, text: str) -> None:
    """The port is open to strangers."""
    with pytest.raises(RequestError):
        decode_door_message(text, dialect)


NAMES = [
    "type",
    "audio",
    "input",
    "format",
    "rate",
    "turn_detection",
    "language",
    "keywords",
    "prompt",
    "input_audio_transcription",
    "input_audio_format",
]
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(session=JSON)
@pytest.mark.parametrize("kind", ["transcription_session.update", "session.update"])
def test_any_session_is_taken_or_refused(kind: str, session: object) -> None:
    """No settings crash a connection."""
    text = json.dumps({"type": kind, "session": session})
    try:
        message: object = decode_door_message(text, "beta")
    except RequestError as error:
        message = error.code

    assert message == "invalid_parameters" or isinstance(message, Update)


def test_an_update_of_openais_changes_what_it_names_and_nothing_else() -> None:
    """Clients send the format once, and later a language."""
    said = [
        general(
            format={"type": "audio/pcm", "rate": 16_000}, turn_detection={"type": "semantic_vad"}
        ),
        {"type": "transcription", "audio": {"input": {"transcription": {"language": "ja"}}}},
        general(transcription={"prompt": "NATS"}, turn_detection=None),
    ]
    latest = Update(build_default_session("general"), b"{}")
    for session in said:
        text = json.dumps({"type": "session.update", "session": session})
        message = decode_door_message(text, "general", latest.settings)
        assert isinstance(message, Update)
        latest = message

    assert latest.asked == update(
        general(
            format={"type": "audio/pcm", "rate": 16_000},
            transcription={"language": "ja", "prompt": "NATS"},
            turn_detection=None,
        ),
        "general",
    )


def test_settings_do_not_pile_up() -> None:
    """Each update may bring fields that nobody knows, and they are kept."""
    settings = json.dumps({"type": "transcription", "x": "x" * (256 << 10)}).encode()
    text = json.dumps({"type": "session.update", "session": {"y": 1}})

    with pytest.raises(RequestError, match="256 KiB"):
        decode_door_message(text, "general", settings)


def test_another_kind_of_turn_detection_replaces_the_one_before() -> None:
    """Its fields are its own."""
    settings = json.dumps({"turn_detection": {"type": "server_vad", "silence_duration_ms": 7}})
    text = json.dumps(
        {
            "type": "transcription_session.update",
            "session": {"turn_detection": {"type": "semantic_vad"}},
        }
    )
    message = decode_door_message(text, "beta", settings.encode())

    assert isinstance(message, Update)
    assert message.asked.echo["turn_detection"] == {"type": "semantic_vad", "eagerness": "auto"}


def test_kotobas_update_is_the_whole() -> None:
    """There is one, and what it leaves out has its default."""
    text = json.dumps({"type": "transcription_session.update", "session": {}})
    message = decode_door_message(text, "kotoba", b'{"input_audio_sample_rate":8000}')

    assert isinstance(message, Update)
    assert message.asked == build_default_session("kotoba")
