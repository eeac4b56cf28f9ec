"""What clients of Kotoba's address may say, in any of the three dialects spoken there. Pure.

They agree on how audio comes, and differ in the session's settings and in what a commit means.
"""

from typing import Final

import msgspec

from speechbus_wire.kotoba import Append, Commit, RequestError, check_event_id
from speechbus_wire.kotoba_openai import read_general_session
from speechbus_wire.kotoba_sessions import Asked, Dialect, amend, read_session

__all__ = ["Clear", "DoorMessage", "Update", "build_default_session", "decode_door_message"]


class Update(msgspec.Struct, frozen=True):
    """The session's settings."""

    asked: Asked
    settings: bytes
    """As JSON: what the next update amends."""


class Clear(msgspec.Struct, frozen=True, tag_field="type", tag="input_audio_buffer.clear"):
    """OpenAI only: forget audio that was not committed."""


DoorMessage = Update | Append | Commit | Clear


class _TranscriptionUpdate(
    msgspec.Struct, frozen=True, tag_field="type", tag="transcription_session.update"
):
    session: msgspec.Raw


class _GeneralUpdate(msgspec.Struct, frozen=True, tag_field="type", tag="session.update"):
    session: msgspec.Raw


_Wire = _TranscriptionUpdate | _GeneralUpdate | Append | Commit | Clear


class _Typed(msgspec.Struct, frozen=True):
    type: str


_wire_decoder: Final[msgspec.json.Decoder[_Wire]] = msgspec.json.Decoder(_Wire)
_type_decoder: Final = msgspec.json.Decoder(_Typed)
_TYPES: Final = frozenset(
    str(kind.__struct_config__.tag)
    for kind in (_TranscriptionUpdate, _GeneralUpdate, Append, Commit, Clear)
)


def decode_door_message(
    text: str, dialect: Dialect, settings: bytes = b"{}", *, is_fal: bool = False
) -> DoorMessage:
    """Read what a client sent; fields that are not known are ignored.

    Args:
        text: one text message.
        dialect: in which the client introduced itself. `session.update` is OpenAI's general
            dialect whoever sends it.
        settings: JSON of the settings so far. Updates of OpenAI's name what they change.
        is_fal: it came by fal's address.

    Raises:
        RequestError: no JSON, no event of the dialect, or wrong fields.
    """
    try:
        message = _wire_decoder.decode(text)
        match message:
            case _TranscriptionUpdate():
                if dialect == "beta":
                    settings = amend(settings, bytes(message.session))
                else:
                    settings = bytes(message.session)
                spoken: Dialect = "kotoba" if dialect == "kotoba" else "beta"
                asked = read_session(settings, spoken, is_fal=is_fal)
                return Update(asked, settings)
            case _GeneralUpdate():
                if dialect == "general":
                    settings = amend(settings, bytes(message.session))
                else:
                    settings = bytes(message.session)
                return Update(read_general_session(settings), settings)
            case Append() if dialect == "kotoba":
                check_event_id(message)
                return message
            case Clear() if dialect == "kotoba":
                raise RequestError("invalid_event", "There is no such event.", param="type")
            case _:
                return message
    except msgspec.ValidationError as error:
        raise _refuse(text, error) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise RequestError("invalid_json", "The message is no JSON object.") from None


def _refuse(text: str, error: msgspec.ValidationError) -> RequestError:
    """Say what is wrong with a message that is JSON."""
    try:
        kind = _type_decoder.decode(text).type
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return RequestError("invalid_event", "An event is an object with a type.", param="type")
    if kind not in _TYPES:
        return RequestError("invalid_event", "There is no such event.", param="type")
    # msgspec names types and fields here, and values of tags only.
    return RequestError("invalid_parameters", str(error).partition(" '")[0])


def build_default_session(dialect: Dialect) -> Asked:
    """Return what a client gets that asks for nothing."""
    if dialect == "general":
        return read_general_session(b'{"type":"transcription"}')
    return read_session(b"{}", dialect)
