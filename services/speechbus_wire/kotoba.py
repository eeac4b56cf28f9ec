"""Kotoba's realtime speech recognition: its messages and their JSON, both directions. Pure.

Four generations of documents disagree (providers.md 1.1): reading a server is tolerant, writing as
one gives what every known client takes. Times on this wire are integer ms of the session's audio.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from speechbus_wire.kotoba_errors import Failure, read_failure

__all__ = [
    "REALTIME_PATH",
    "Append",
    "ClientMessage",
    "Commit",
    "Committed",
    "Completed",
    "Created",
    "Delta",
    "Failure",
    "ItemCreated",
    "KotobaError",
    "RequestError",
    "ServerMessage",
    "ServerVad",
    "Session",
    "SessionUpdate",
    "Told",
    "TranscriptionSettings",
    "Updated",
    "check_event_id",
    "decode_audio",
    "decode_client_message",
    "decode_server_message",
    "encode_audio",
    "encode_error",
    "encode_error_body",
    "encode_message",
]

REALTIME_PATH: Final = "/v1/realtime"
AUDIO_BYTES_MAX: Final = 1 << 20
"""Of one append, decoded (providers.md 1.1)."""
_EVENT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,36}\Z")


class KotobaError(Exception):
    """A server's message is not what this protocol allows; the text never repeats it."""


class RequestError(Exception):
    """A client's message is wrong: what the vendor's error body says about it.

    Attributes:
        code: of the vendor's table: `invalid_json`, `invalid_event` or `invalid_parameters`.
        param: the fields that are wrong, separated by commas; None: no particular one.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


# --- the session -----------------------------------------------------------------------------


class TranscriptionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be recognized."""

    language: str | None = None
    target_language: str | None = None
    """Of the text; the same as `language` (providers.md 1.10)."""
    keywords: tuple[str, ...] = ()
    kana: bool = False
    timestamps: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether texts come with times and the point from which to send again. Not known to all
    servers, so it is left out where it is not wanted."""


class ServerVad(msgspec.Struct, frozen=True, tag_field="type", tag="server_vad"):
    """The server ends turns."""

    silence_duration_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """None: the server's default."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a session, as asked for and as echoed."""

    object: str = "realtime.transcription_session"
    input_audio_format: str = "pcm16"
    input_audio_sample_rate: int = 24_000
    input_audio_number_of_channels: int = 1
    input_audio_transcription: TranscriptionSettings = TranscriptionSettings()
    turn_detection: bool | ServerVad = False
    """Never true: false, or how turns are ended."""


# --- what clients say ------------------------------------------------------------------------


class SessionUpdate(
    msgspec.Struct, frozen=True, tag_field="type", tag="transcription_session.update"
):
    """Once, before any audio."""

    session: Session


class Append(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="type",
    tag="input_audio_buffer.append",
):
    """Audio."""

    audio: str
    """Base64."""
    event_id: str | None = None


class Commit(msgspec.Struct, frozen=True, tag_field="type", tag="input_audio_buffer.commit"):
    """The end of all audio, not of a turn (providers.md 1.5)."""


ClientMessage = SessionUpdate | Append | Commit


# --- what servers say ------------------------------------------------------------------------


class Created(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="transcription_session.created"
):
    """First; no session in it."""

    event_id: str = ""


class Updated(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="transcription_session.updated"
):
    """Audio is accepted from here on."""

    event_id: str = ""
    session: Session = Session()


class ItemCreated(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="conversation.item.created"
):
    """Once, before the first delta."""

    event_id: str = ""


class Delta(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="type",
    tag="conversation.item.input_audio_transcription.delta",
):
    """Text to append; empty in silence."""

    # By factory: written even where it is null, as the vendor does, and read where it is missing.
    item_id: str | None = msgspec.field(default_factory=type(None))
    """Of the turn, or the last append's `event_id`, or none: nothing to rely on."""
    # A factory's value is always written, unlike a plain default: clients read the field by name.
    delta: str = msgspec.field(default_factory=str)
    start_ms: int | None = None
    end_ms: int | None = None
    audio_processed_ms: int | None = None
    """Later text starts no earlier."""


class Completed(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="type",
    tag="conversation.item.input_audio_transcription.completed",
):
    """A turn's whole text, again."""

    item_id: str | None = msgspec.field(default_factory=type(None))
    transcript: str
    start_ms: int | None = None
    end_ms: int | None = None
    audio_processed_ms: int | None = None


class Committed(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="input_audio_buffer.committed"
):
    """All audio is transcribed; nothing follows."""

    event_id: str = ""


ServerMessage = Created | Updated | ItemCreated | Delta | Completed | Committed | Failure
Told = Created | Updated | ItemCreated | Delta | Completed | Committed
"""What servers say besides errors."""


class _Typed(msgspec.Struct, frozen=True):
    type: str


_encoder: Final = msgspec.json.Encoder()
_type_decoder: Final = msgspec.json.Decoder(_Typed)
_told_decoder: Final[msgspec.json.Decoder[Told]] = msgspec.json.Decoder(Told)
_client_decoder: Final[msgspec.json.Decoder[ClientMessage]] = msgspec.json.Decoder(ClientMessage)
_object_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_TOLD_TYPES: Final = frozenset(
    str(kind.__struct_config__.tag)
    for kind in (Created, Updated, ItemCreated, Delta, Completed, Committed)
)
_CLIENT_TYPES: Final = frozenset(
    str(kind.__struct_config__.tag) for kind in (SessionUpdate, Append, Commit)
)
_UPDATED_TYPE: Final = str(Updated.__struct_config__.tag)
_FAILURE_TYPES: Final = frozenset({"error", "x-fal-error"})


def encode_message(message: ClientMessage | Told) -> str:
    """Return the text message of either side."""
    return _encoder.encode(message).decode()


def decode_server_message(text: str) -> ServerMessage | None:
    """Read what a server sent; None: a type that is not known, to be ignored.

    Raises:
        KotobaError: no JSON object with a `type`, or a known type with wrong fields.
    """
    try:
        kind = _type_decoder.decode(text).type
        if kind in _FAILURE_TYPES:
            return read_failure(_object_decoder.decode(text))
        return _decode_told(text, kind=kind) if kind in _TOLD_TYPES else None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        # `from None`: the decoder's text may quote speech.
        raise KotobaError("not a valid message of the session") from None


def _decode_told(text: str, *, kind: str) -> Told:
    try:
        return _told_decoder.decode(text)
    except msgspec.ValidationError:
        if kind == _UPDATED_TYPE:
            return Updated()  # that it came is what matters; its echo differs between servers
        raise


def decode_client_message(text: str) -> ClientMessage:
    """Read what a client sent; fields that are not known are ignored.

    Raises:
        RequestError: no JSON, no event of this protocol, or wrong fields.
    """
    try:
        kind = _type_decoder.decode(text).type
        if kind not in _CLIENT_TYPES:
            raise RequestError("invalid_event", "There is no such event.", param="type")
        message = _client_decoder.decode(text)
    except msgspec.ValidationError as error:
        # msgspec names types and fields here, never values.
        raise RequestError("invalid_parameters", str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise RequestError("invalid_json", "The message is no JSON object.") from None
    if isinstance(message, SessionUpdate):
        _check_session(message.session)
    elif isinstance(message, Append):
        check_event_id(message)
    return message


def check_event_id(append: Append) -> None:
    """Check the name that a client gives its audio (providers.md 1.5).

    Raises:
        RequestError: it is none.
    """
    if not _EVENT_ID.match(append.event_id or "none"):
        raise RequestError(
            "invalid_parameters", "event_id has 1 to 36 of A-Z a-z 0-9 _ -", param="event_id"
        )


def _check_session(session: Session) -> None:
    if session.turn_detection is True:
        raise RequestError(
            "invalid_parameters",
            'turn_detection is false or {"type": "server_vad"}.',
            param="turn_detection",
        )
    if session.input_audio_number_of_channels != 1:
        raise RequestError(
            "invalid_parameters",
            "Audio has one channel.",
            param="input_audio_number_of_channels",
        )
    asked = session.input_audio_transcription
    if asked.language is not None and asked.language != asked.target_language:
        raise RequestError(
            "invalid_parameters",
            "language and target_language must be the same: no translations come here.",
            param="language,target_language",
        )


def encode_audio(pcm: bytes) -> str:
    """Return audio as an append carries it."""
    return base64.b64encode(pcm).decode()


def decode_audio(text: str) -> bytes:
    """Read the audio of an append.

    Raises:
        RequestError: no base64, or more than `AUDIO_BYTES_MAX`.
    """
    if len(text) > AUDIO_BYTES_MAX * 4 // 3 + 4:
        raise RequestError("invalid_parameters", "audio has at most 1 MiB.", param="audio")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("invalid_parameters", "audio is no base64.", param="audio") from None


_KINDS: Final[Mapping[str, Literal["limitation", "server_error"]]] = {
    "timeout_error": "limitation",
    "rate_limit_error": "limitation",
    "internal_error": "server_error",
}
"""By code; all others are an `invalid_request_error` (providers.md 1.8)."""


def encode_error_body(code: str, message: str, *, param: str | None = None) -> dict[str, Any]:
    """Return the vendor's error object: of an HTTP body, and of the `error` event."""
    return {
        "error": {
            "type": _KINDS.get(code, "invalid_request_error"),
            "code": code,
            "message": message,
            "param": param,
        }
    }


def encode_error(error: Mapping[str, Any] | str, *, event_id: str = "") -> str:
    """Return an `error` event: with the object of `encode_error_body`, or a plain string."""
    return _encoder.encode({"type": "error", "event_id": event_id, "error": error}).decode()
