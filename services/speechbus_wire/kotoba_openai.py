"""OpenAI's realtime transcription as Kotoba's address serves it: sessions and events. Pure.

Shapes: providers.md 2, and `openai` 3.57.0, `types/realtime` and `types/beta/realtime`. Times on
this wire are integer ms of the session's audio.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from speechbus_wire.kotoba import Completed, Delta, RequestError, ServerVad, Told
from speechbus_wire.kotoba_sessions import (
    Asked,
    AudioAsked,
    Dialect,
    SemanticVad,
    check_keywords,
    check_language,
    check_sample_rate,
    read_prompt,
)

__all__ = [
    "Cleared",
    "Item",
    "ItemAdded",
    "ItemCompleted",
    "ItemDelta",
    "ItemDone",
    "ItemMade",
    "OpenAIMessage",
    "SpeechStarted",
    "SpeechStopped",
    "TurnCommitted",
    "Usage",
    "encode_event",
    "encode_session_event",
    "read_general_session",
]

_PCM: Final = "audio/pcm"
_FORMATS: Final[Mapping[str, tuple[str, int]]] = {
    _PCM: ("pcm_s16le", 24_000),
    "audio/pcmu": ("mulaw", 8_000),
    "audio/pcma": ("alaw", 8_000),
}
"""Their names, ours, and the rate when none is named."""


# --- the session of the general dialect --------------------------------------------------------


class _Format(msgspec.Struct, frozen=True):
    type: str = _PCM
    rate: int | None = None


class _Transcription(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    language: str | None = None
    languages: tuple[str, ...] | None = None
    prompt: str | None = None
    keywords: tuple[str, ...] | None = None


class _Input(msgspec.Struct, frozen=True, kw_only=True):
    format: _Format | None = None
    transcription: _Transcription | None = None
    turn_detection: ServerVad | SemanticVad | msgspec.UnsetType | None = msgspec.UNSET


class _Audio(msgspec.Struct, frozen=True):
    input: _Input | None = None


class _Session(msgspec.Struct, frozen=True):
    type: str = ""
    audio: _Audio | None = None


_session_decoder: Final = msgspec.json.Decoder(_Session)


def read_general_session(session: bytes) -> Asked:
    """Read the settings of a session with `type: transcription`.

    Args:
        session: a JSON object.

    Raises:
        RequestError: a field is wrong.
        msgspec.DecodeError: no object, or fields of wrong types.
    """
    asked = _session_decoder.decode(session)
    if asked.type != "transcription":
        raise RequestError(
            "invalid_parameters", "A session's type is transcription.", param="session.type"
        )
    heard = (asked.audio and asked.audio.input) or _Input()
    settings = heard.transcription or _Transcription()
    audio = _read_format(heard.format or _Format())
    languages = settings.languages or ()
    # Of several languages none is the one: the recognizer decides.
    language = settings.language or (languages[0] if len(languages) == 1 else None)
    keywords = check_keywords((*(settings.keywords or ()), *read_prompt(settings.prompt)))
    detection = heard.turn_detection
    turns = ServerVad() if detection is msgspec.UNSET else detection
    return Asked(
        dialect="general",
        audio=audio,
        language=check_language(language),
        keywords=keywords,
        has_turns=turns is not None,
        has_timestamps=False,
        echo={
            "object": "realtime.transcription_session",
            "type": "transcription",
            "audio": {
                "input": {
                    "format": _echo_format(heard.format or _Format(), audio),
                    "transcription": _echo(settings),
                    "noise_reduction": None,
                    "turn_detection": None if turns is None else _echo(turns),
                }
            },
        },
    )


def _read_format(asked: _Format) -> AudioAsked:
    if asked.type not in _FORMATS:
        raise RequestError(
            "invalid_parameters",
            f"A format's type is one of: {', '.join(_FORMATS)}.",
            param="session.audio.input.format.type",
        )
    encoding, rate_hz = _FORMATS[asked.type]
    if asked.rate is not None:
        rate_hz = check_sample_rate(asked.rate, param="session.audio.input.format.rate")
    return AudioAsked(encoding=encoding, sample_rate_hz=rate_hz)


def _echo_format(asked: _Format, audio: AudioAsked) -> dict[str, Any]:
    if asked.type == _PCM:
        return {"type": asked.type, "rate": audio.sample_rate_hz}
    return {"type": asked.type}


def _echo(settings: _Transcription | ServerVad | SemanticVad) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(settings)
    return {name: value for name, value in fields.items() if value is not None}


# --- what the server says ----------------------------------------------------------------------


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    event_id: str


class SpeechStarted(_Event, frozen=True, kw_only=True, tag="input_audio_buffer.speech_started"):
    """A turn has begun."""

    audio_start_ms: int
    item_id: str


class SpeechStopped(_Event, frozen=True, kw_only=True, tag="input_audio_buffer.speech_stopped"):
    """A turn is over."""

    audio_end_ms: int
    item_id: str


class TurnCommitted(_Event, frozen=True, kw_only=True, tag="input_audio_buffer.committed"):
    """A turn's audio is complete; unlike Kotoba's `committed`, more turns follow."""

    item_id: str
    previous_item_id: str | None


class Cleared(_Event, frozen=True, kw_only=True, tag="input_audio_buffer.cleared"):
    """Answer to `clear`."""


class _Content(msgspec.Struct, frozen=True):
    type: str = "input_audio"
    transcript: str | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A turn, as part of a conversation."""

    id: str
    object: str = "realtime.item"
    type: str = "message"
    status: Literal["in_progress", "completed"]
    role: str = "user"
    content: tuple[_Content, ...] = (_Content(),)


class ItemMade(_Event, frozen=True, kw_only=True, tag="conversation.item.created"):
    """There is a new item (beta)."""

    previous_item_id: str | None
    item: Item


class ItemAdded(_Event, frozen=True, kw_only=True, tag="conversation.item.added"):
    """There is a new item (general)."""

    previous_item_id: str | None
    item: Item


class ItemDone(_Event, frozen=True, kw_only=True, tag="conversation.item.done"):
    """An item is complete (general)."""

    previous_item_id: str | None
    item: Item


class Usage(msgspec.Struct, frozen=True):
    """What a turn is counted as."""

    seconds: float
    type: str = "duration"


class ItemDelta(
    Delta,
    frozen=True,
    kw_only=True,
    tag="conversation.item.input_audio_transcription.delta",
):
    """Kotoba's `delta`, and what OpenAI's has besides."""

    event_id: str
    content_index: int


class ItemCompleted(
    Completed,
    frozen=True,
    kw_only=True,
    tag="conversation.item.input_audio_transcription.completed",
):
    """Kotoba's `completed`, and what OpenAI's has besides."""

    event_id: str
    content_index: int
    usage: Usage | None = None


OpenAIMessage = (
    SpeechStarted
    | SpeechStopped
    | TurnCommitted
    | Cleared
    | ItemMade
    | ItemAdded
    | ItemDone
    | ItemDelta
    | ItemCompleted
)

_encoder: Final = msgspec.json.Encoder()


def encode_event(message: OpenAIMessage | Told) -> str:
    """Return the text message, Kotoba's or OpenAI's."""
    return _encoder.encode(message).decode()


def encode_session_event(
    kind: Literal["created", "updated"],
    asked: Asked,
    *,
    event_id: str,
    session_id: str,
) -> str:
    """Return `created` or `updated` of a session, in the dialect of its settings.

    Kotoba's `created` is bare, and the session in its `updated` has no id (providers.md 1.6).
    """
    dialect: Dialect = asked.dialect
    name = "session" if dialect == "general" else "transcription_session"
    event: dict[str, Any] = {"type": f"{name}.{kind}", "event_id": event_id}
    if dialect != "kotoba":
        event["session"] = {"id": session_id, **asked.echo}
    elif kind == "updated":
        event["session"] = asked.echo
    return _encoder.encode(event).decode()
