"""A session's settings at Kotoba's address, in any of the three dialects spoken there. Pure.

Kotoba's own and the two of OpenAI's realtime transcription: the beta (`transcription_session.*`)
and the general one (`session.*`), from which Kotoba's is taken (providers.md 2). Here are Kotoba's
and the beta's, which differ in little; the general one is in `kotoba_openai`.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

import msgspec

from speechbus_wire.kotoba import RequestError, ServerVad

__all__ = [
    "Asked",
    "AudioAsked",
    "Dialect",
    "SemanticVad",
    "amend",
    "check_keywords",
    "check_language",
    "check_sample_rate",
    "read_prompt",
    "read_session",
]

Dialect = Literal["kotoba", "beta", "general"]

SAMPLE_RATE_HZ_MIN: Final = 8_000
SAMPLE_RATE_HZ_MAX: Final = 48_000
KEYWORDS_MAX: Final = 1_000
KEYWORD_CHARS_MAX: Final = 64
"""Kotoba's limits (providers.md 1.4)."""

SETTINGS_BYTES_MAX: Final = 256 << 10
"""As JSON: all keywords that are allowed, in any script, and all else."""
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8}){0,4}\Z")
_FORMATS: Final[Mapping[str, tuple[str, int]]] = {
    "pcm16": ("pcm_s16le", 24_000),
    "float32": ("pcm_f32le", 24_000),
    "mulaw": ("mulaw", 8_000),
    "twilio": ("mulaw", 8_000),
    "g711_ulaw": ("mulaw", 8_000),
    "g711_alaw": ("alaw", 8_000),
}
"""Kotoba's and OpenAI's names, ours, and the rate when none is named."""


class SemanticVad(msgspec.Struct, frozen=True, tag_field="type", tag="semantic_vad"):
    """OpenAI only: turns end by what is said."""

    eagerness: str = "auto"


TurnDetection = ServerVad | SemanticVad | bool | None


class AudioAsked(msgspec.Struct, frozen=True, kw_only=True):
    """How the audio of a session is spelled."""

    encoding: str
    """`pcm_s16le`, `pcm_f32le`, `mulaw` or `alaw`."""
    sample_rate_hz: int


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A session's settings, whatever dialect they came in."""

    dialect: Dialect
    audio: AudioAsked
    language: str | None
    """BCP 47 tag; None: not named."""
    keywords: tuple[str, ...]
    has_turns: bool
    """Whether the server ends turns."""
    has_timestamps: bool
    echo: Mapping[str, Any]
    """The settings in effect, as the dialect spells them; without id."""


class _Style(msgspec.Struct, frozen=True):
    human_name: str | None = None


class _Transcription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be recognized: Kotoba's fields, and OpenAI's."""

    language: str | None = None
    target_language: str | None = None
    keywords: tuple[str, ...] | None = None
    kana: bool = False
    style_preference: _Style | None = None
    timestamps: bool = False
    model: str | None = None
    prompt: str | None = None


class _Session(msgspec.Struct, frozen=True, kw_only=True):
    input_audio_format: str = "pcm16"
    input_audio_sample_rate: int | None = None
    input_audio_number_of_channels: int = 1
    input_audio_transcription: _Transcription | None = None
    turn_detection: TurnDetection | msgspec.UnsetType = msgspec.UNSET


_object_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_session_decoder: Final = msgspec.json.Decoder(_Session)


def read_session(session: bytes, dialect: Dialect, *, is_fal: bool = False) -> Asked:
    """Read the settings of a `transcription_session`, Kotoba's or the beta's.

    Args:
        session: a JSON object.
        dialect: `kotoba` or `beta`: they differ in what stands for no turn detection, and in
            whether there is one when it is not named. Settings that name a `model` are the beta's
            in any case.
        is_fal: the client came by fal's address, where turns are detected unless the settings say
            no (providers.md 1.1).

    Raises:
        RequestError: a field is wrong.
        msgspec.DecodeError: no object, or fields of wrong types.
    """
    asked = _session_decoder.decode(session)
    if asked.input_audio_number_of_channels != 1:
        raise RequestError(
            "invalid_parameters", "Audio has one channel.", param="input_audio_number_of_channels"
        )
    settings = asked.input_audio_transcription or _Transcription()
    if settings.model is not None:
        dialect = "beta"
    language = _read_language(settings)
    keywords = check_keywords((*(settings.keywords or ()), *read_prompt(settings.prompt)))
    detection = (
        ServerVad()
        if is_fal and asked.turn_detection is msgspec.UNSET
        else _read_turn_detection(asked.turn_detection, dialect)
    )
    audio = _read_format(asked)
    echo = msgspec.to_builtins(settings) | {
        "language": language,
        "target_language": language,
        "keywords": keywords,
        "kana": settings.kana,
        "timestamps": settings.timestamps,
    }
    return Asked(
        dialect=dialect,
        audio=audio,
        language=language,
        keywords=keywords,
        has_turns=bool(detection),
        has_timestamps=settings.timestamps,
        echo={
            "object": "realtime.transcription_session",
            "input_audio_format": asked.input_audio_format,
            "input_audio_sample_rate": audio.sample_rate_hz,
            "input_audio_number_of_channels": 1,
            "input_audio_transcription": echo,
            "turn_detection": _echo_turn_detection(detection, dialect),
        },
    )


def amend(settings: bytes, changes: bytes) -> bytes:
    """Return settings with those that an update of OpenAI's names: the others stay.

    Args:
        settings: a JSON object.
        changes: JSON.

    Raises:
        RequestError: they become too many.
        msgspec.DecodeError: the changes are no object.
    """
    merged = _merge(_object_decoder.decode(settings), _object_decoder.decode(changes))
    amended = msgspec.json.encode(merged)
    # Fields that are not known are kept, too: they would pile up for ever.
    if len(amended) > SETTINGS_BYTES_MAX:
        raise RequestError("invalid_parameters", "Settings have at most 256 KiB.", param="session")
    return amended


def _merge(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(before)
    for name, value in changes.items():
        known = merged.get(name)
        # A tagged object, such as turn detection, is replaced when its kind is.
        if isinstance(known, dict) and isinstance(value, dict) and "type" not in value:
            value = _merge(cast(dict[str, Any], known), cast(dict[str, Any], value))
        merged[name] = value
    return merged


def _read_format(asked: _Session) -> AudioAsked:
    if asked.input_audio_format not in _FORMATS:
        raise RequestError(
            "invalid_parameters",
            f"input_audio_format is one of: {', '.join(_FORMATS)}.",
            param="input_audio_format",
        )
    encoding, rate_hz = _FORMATS[asked.input_audio_format]
    if asked.input_audio_sample_rate is not None:
        rate_hz = check_sample_rate(asked.input_audio_sample_rate, param="input_audio_sample_rate")
    return AudioAsked(encoding=encoding, sample_rate_hz=rate_hz)


def _read_language(settings: _Transcription) -> str | None:
    language, target = settings.language, settings.target_language
    if language is not None and target is not None and language != target:
        raise RequestError(
            "invalid_parameters",
            "language and target_language must be the same: no translations come here.",
            param="language,target_language",
        )
    return check_language(language or target)


def _read_turn_detection(
    detection: TurnDetection | msgspec.UnsetType, dialect: Dialect
) -> ServerVad | SemanticVad | None:
    if detection is msgspec.UNSET:
        # Off at Kotoba (the seed's host), on at OpenAI.
        return None if dialect == "kotoba" else ServerVad()
    if dialect == "kotoba" and (detection is None or isinstance(detection, SemanticVad)):
        detection = True
    if detection is True:
        off = "false" if dialect == "kotoba" else "null"
        raise RequestError(
            "invalid_parameters",
            f'turn_detection is {off} or {{"type": "server_vad"}}.',
            param="turn_detection",
        )
    return detection or None


def _echo_turn_detection(
    detection: ServerVad | SemanticVad | None, dialect: Dialect
) -> dict[str, Any] | Literal[False] | None:
    if detection is None:
        return False if dialect == "kotoba" else None
    echo: dict[str, Any] = msgspec.to_builtins(detection)
    return {name: value for name, value in echo.items() if value is not None}


def check_sample_rate(rate_hz: int, *, param: str) -> int:
    """Return a rate that can be served.

    Raises:
        RequestError: it cannot.
    """
    if not SAMPLE_RATE_HZ_MIN <= rate_hz <= SAMPLE_RATE_HZ_MAX:
        raise RequestError("invalid_parameters", "The sample rate is 8000 to 48000.", param=param)
    return rate_hz


def check_language(language: str | None) -> str | None:
    """Return a language tag.

    Raises:
        RequestError: it is none.
    """
    if language is not None and _LANGUAGE.match(language) is None:
        raise RequestError(
            "invalid_parameters", "A language is a tag such as ja or en-US.", param="language"
        )
    return language


def check_keywords(keywords: tuple[str, ...]) -> tuple[str, ...]:
    """Return terms without blanks around them, and without those that are nothing else.

    Raises:
        RequestError: too many, or one is too long.
    """
    terms = tuple(stripped for term in keywords if (stripped := term.strip()))
    if len(terms) > KEYWORDS_MAX or any(len(term) > KEYWORD_CHARS_MAX for term in terms):
        raise RequestError(
            "invalid_parameters",
            f"keywords are at most {KEYWORDS_MAX} terms of at most {KEYWORD_CHARS_MAX} characters.",
            param="keywords",
        )
    return terms


def read_prompt(prompt: str | None) -> tuple[str, ...]:
    """Return the terms of OpenAI's prompt: what stands between its commas and may be a keyword.

    Whole sentences are left out: nothing here is told how to listen.
    """
    terms = (term.strip() for term in (prompt or "").split(","))
    return tuple(term for term in terms if term and len(term) <= KEYWORD_CHARS_MAX)
