"""What the chunks that carry no audio say. Pure; what cannot be read says nothing."""

import msgspec

from speechbus_contracts import AudioChunk

__all__ = ["read_end_reason", "read_language"]


class _End(msgspec.Struct):
    reason: str = "end"


class _Settings(msgspec.Struct):
    language: str | None = None


def read_end_reason(chunk: AudioChunk) -> str:
    """Why the stream ends."""
    try:
        return msgspec.json.decode(bytes(chunk.payload), type=_End).reason
    except msgspec.DecodeError:
        return "end"


def read_language(chunk: AudioChunk) -> str | None:
    """The language from a `reconfigure` chunk on; None: the provider decides."""
    try:
        return msgspec.json.decode(bytes(chunk.payload), type=_Settings).language
    except msgspec.DecodeError:
        return None
