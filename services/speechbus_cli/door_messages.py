"""What the native door and its client say to each other, beside audio and events."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from speechbus_cli.errors import CannotConnectError, CommandError, FailedError, UnauthorizedError
from speechbus_contracts import AnyEvent, ContractError, decode_event

__all__ = [
    "END",
    "DoorAccepted",
    "DoorMessage",
    "DoorQueued",
    "DoorReady",
    "Hello",
    "NoRoomError",
    "Resume",
    "decode_message",
]


class DoorReady(msgspec.Struct, frozen=True, kw_only=True):
    """The stream is open and audio may follow."""

    stream_id: str
    accepted_samples: int = 0
    resume_within_s: float | None = None
    """How long the client may be away; None: the stream ends with its connection."""


class DoorAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """So much audio will not be asked for again."""

    samples: int


class DoorQueued(msgspec.Struct, frozen=True, kw_only=True):
    """No worker has room yet; audio is kept until one has."""

    message: str = ""


DoorMessage = DoorReady | DoorAccepted | DoorQueued


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Which stream goes on, and what the client has of it."""

    stream_id: str
    samples: int
    sequence: int
    """Of the last event that is no translation."""
    translations: Mapping[str, int]
    """By language, of the last translation."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """The first message of a connection."""

    format: Literal["pcm_s16le"] = "pcm_s16le"
    sample_rate_hz: int
    language: str | None
    target_languages: tuple[str, ...]
    providers: tuple[str, ...]
    resumable: bool = True
    resume: Resume | msgspec.UnsetType


class _Head(msgspec.Struct, frozen=True):
    type: str
    sequence: int = 0


class _DoorError(msgspec.Struct, frozen=True):
    code: str = "unknown"
    message: str = ""


class NoRoomError(FailedError):
    """The key, or the server, has as many streams as may be; elsewhere that may be otherwise."""


END: Final = '{"type":"end"}'
_head_decoder: Final = msgspec.json.Decoder(_Head)
_ready_decoder: Final = msgspec.json.Decoder(DoorReady)
_accepted_decoder: Final = msgspec.json.Decoder(DoorAccepted)
_queued_decoder: Final = msgspec.json.Decoder(DoorQueued)
_error_decoder: Final = msgspec.json.Decoder(_DoorError)


def decode_message(raw: bytes) -> tuple[AnyEvent | DoorMessage | None, int]:
    """Return a message, and its sequence if it is a stored event.

    Returns:
        None for what a newer server's event is, or one that cannot be used: others follow.

    Raises:
        CommandError: the server has refused; the text says why.
        FailedError: it is no such server.
    """
    try:
        head = _head_decoder.decode(raw)
        match head.type:
            case "ready":
                return _ready_decoder.decode(raw), 0
            case "accepted":
                return _accepted_decoder.decode(raw), 0
            case "queued":
                return _queued_decoder.decode(raw), 0
            case "error":
                raise _explain_error(_error_decoder.decode(raw))
            case _:
                return _decode_event(raw), head.sequence
    except msgspec.DecodeError:
        raise FailedError(
            "The server sent something else than events: check that --url names a Speechbus ingest."
        ) from None


def _decode_event(raw: bytes) -> AnyEvent | None:
    try:
        return decode_event(raw)
    except ContractError:
        return None


def _explain_error(problem: _DoorError) -> CommandError:
    message = "".join(c for c in problem.message if c.isprintable()) or "look at its log."
    text = f"The server refused ({problem.code}): {message}"
    if problem.code == "unauthorized":
        return UnauthorizedError(text)
    if problem.code == "overloaded":
        return CannotConnectError(text)
    if problem.code == "too_many_streams":
        return NoRoomError(text)
    return FailedError(text)
