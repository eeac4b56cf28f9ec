"""What the local engine and its adapter say to each other: frames and messages, both directions.

A frame is a 4-byte little-endian length N, one kind byte (0: JSON text, 1: audio) and N - 1 bytes.
In code a text frame is a `str` and an audio frame a `bytes`. Audio is PCM s16le mono, whole
samples. All times are integer milliseconds of audio since the session's first sample.
"""

import struct
from typing import Annotated, Literal

import msgspec

__all__ = [
    "FRAME_BYTES_MAX",
    "ClientMessage",
    "Covered",
    "EngineErrorCode",
    "EngineMessage",
    "Error",
    "Final",
    "Finish",
    "Finished",
    "Flush",
    "Flushed",
    "FrameError",
    "FrameReader",
    "MessageError",
    "Open",
    "Partial",
    "Ready",
    "TurnEnded",
    "TurnStarted",
    "Word",
    "decode_client_message",
    "decode_engine_message",
    "encode_frame",
    "encode_message",
]

FRAME_BYTES_MAX = 1 << 20
"""Largest length field either side accepts: 10 s of audio at 48 kHz, and the memory that one peer
can make the other hold."""

_HEADER = struct.Struct("<IB")
_LENGTH = struct.Struct("<I")
_TEXT = 0
_AUDIO = 1

_Milliseconds = Annotated[int, msgspec.Meta(ge=0)]

EngineErrorCode = Literal["bad_message", "bad_request", "engine_full", "internal"]
"""Why the engine ends a session.

`bad_message`: the client broke this protocol. `bad_request`: it asked for what the engine cannot do
(sample rate, turn length). `engine_full`: no room for another session now. `internal`: a bug.
"""


class FrameError(Exception):
    """The byte stream cannot be cut into frames any more; the connection is of no further use."""


class MessageError(Exception):
    """A text frame is no message of this protocol. The text says where, never what was in it."""


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Client: the first message of a session."""

    sample_rate_hz: int
    turn_stop_ms: int = 600
    """Silence that ends a turn."""


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """Client: end an open utterance now; `Flushed` answers."""


class Finish(msgspec.Struct, frozen=True, tag="finish"):
    """Client: flush and end the session; `Finished` answers, then the engine closes."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Engine: the session stands."""


class TurnStarted(msgspec.Struct, frozen=True, kw_only=True, tag="turn_started"):
    """Engine: speech began."""

    at_ms: _Milliseconds


class TurnEnded(msgspec.Struct, frozen=True, kw_only=True, tag="turn_ended"):
    """Engine: speech ended; all finals of the turn were sent before."""

    at_ms: _Milliseconds


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One recognized word."""

    text: str
    start_ms: _Milliseconds
    end_ms: _Milliseconds
    confidence: float | None = None
    """Posterior probability of the word, 0 to 1."""


class Partial(msgspec.Struct, frozen=True, kw_only=True, tag="partial"):
    """Engine: the whole open utterance so far; replaces the partial before it."""

    text: str
    start_ms: _Milliseconds
    end_ms: _Milliseconds


class Final(msgspec.Struct, frozen=True, kw_only=True, tag="final"):
    """Engine: the last word on the open utterance."""

    text: str
    start_ms: _Milliseconds
    end_ms: _Milliseconds
    words: tuple[Word, ...]
    covered_ms: _Milliseconds
    """All audio before this is in finals or holds no speech."""


class Covered(msgspec.Struct, frozen=True, kw_only=True, tag="covered"):
    """Engine: all audio before this is in finals or holds no speech, and nothing is open."""

    covered_ms: _Milliseconds


class Flushed(msgspec.Struct, frozen=True, tag="flushed"):
    """Engine: everything sent before the matching `Flush` has been answered."""


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """Engine: everything sent before `Finish` has been answered; nothing follows."""


class Error(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """Engine: the session ends here."""

    code: EngineErrorCode


ClientMessage = Open | Flush | Finish
EngineMessage = (
    Ready | TurnStarted | TurnEnded | Partial | Final | Covered | Flushed | Finished | Error
)

_encoder = msgspec.json.Encoder()
_client_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_engine_decoder: msgspec.json.Decoder[EngineMessage] = msgspec.json.Decoder(EngineMessage)


def encode_message(message: ClientMessage | EngineMessage) -> str:
    """Return the JSON text of one message, the content of a text frame."""
    return _encoder.encode(message).decode()


def decode_client_message(text: str) -> ClientMessage:
    """Read what a client sent.

    Raises:
        MessageError: No such message, or a field is missing or of the wrong type.
    """
    try:
        return _client_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise MessageError("not a client message") from None


def decode_engine_message(text: str) -> EngineMessage:
    """Read what the engine sent.

    Raises:
        MessageError: No such message, or a field is missing or of the wrong type.
    """
    try:
        return _engine_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise MessageError("not an engine message") from None


def encode_frame(message: str | bytes) -> bytes:
    """Wrap one message for the socket: text as a JSON frame, bytes as an audio frame.

    Raises:
        FrameError: The frame would exceed `FRAME_BYTES_MAX`.
    """
    kind, payload = (_TEXT, message.encode()) if isinstance(message, str) else (_AUDIO, message)
    length = len(payload) + 1
    if length > FRAME_BYTES_MAX:
        raise FrameError(f"frame of {length} bytes, at most {FRAME_BYTES_MAX} are allowed")
    return _HEADER.pack(length, kind) + payload


class FrameReader:
    """Cuts a byte stream into frames; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[str | bytes]:
        """Take the next bytes of the stream, cut anywhere; return the frames they complete.

        Raises:
            FrameError: Length zero or above `FRAME_BYTES_MAX`, unknown kind, or text that is not
                UTF-8. Frames completed before it in the same call are lost; close the connection.
        """
        self._buffer += data
        messages: list[str | bytes] = []
        at = 0
        while len(self._buffer) - at >= _HEADER.size:
            length, kind = _checked_header(self._buffer, at)
            end = at + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(_payload(kind, bytes(self._buffer[at + _HEADER.size : end])))
            at = end
        del self._buffer[:at]
        return messages


def _checked_header(buffer: bytearray, at: int) -> tuple[int, int]:
    length, kind = _HEADER.unpack_from(buffer, at)
    if not 1 <= length <= FRAME_BYTES_MAX:
        raise FrameError(f"frame length {length} is not within 1 and {FRAME_BYTES_MAX}")
    if kind not in (_TEXT, _AUDIO):
        raise FrameError(f"frame kind {kind} is not known")
    return length, kind


def _payload(kind: int, payload: bytes) -> str | bytes:
    if kind == _AUDIO:
        return payload
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise FrameError("text frame is not UTF-8") from None
