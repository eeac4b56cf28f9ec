"""Ids: who made them and how they are spelled."""

import re
from typing import Final, NewType

from speechbus_contracts.errors import ContractError

__all__ = [
    "TOKEN_CHARS_MAX",
    "Epoch",
    "StreamId",
    "Tenant",
    "TranscriptionId",
    "WorkerId",
    "build_stream_id",
    "build_transcription_id",
    "parse_token",
    "parse_transcription_id",
]

StreamId = NewType("StreamId", str)
Tenant = NewType("Tenant", str)
WorkerId = NewType("WorkerId", str)
TranscriptionId = NewType("TranscriptionId", str)
Epoch = NewType("Epoch", int)
"""Generation of a stream's ownership, from 1; grows with each claim."""

TOKEN_CHARS_MAX: Final = 64
"""Longest token of a subject; several of them stay far below NATS' 4,096 bytes a subject."""

# \Z, not $: a trailing newline must not pass.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_INDEX_MAX: Final = 10**9


def parse_token(text: str) -> str:
    """Return `text` if it may stand between two dots of a subject.

    Raises:
        ContractError: it has other characters than `A-Z a-z 0-9 _ -`, or not 1 to 64 of them.
    """
    if _TOKEN.match(text) is None:
        raise ContractError("a token has 1 to 64 characters out of A-Z a-z 0-9 _ -")
    return text


def build_stream_id(*, unix_ms: int, entropy: bytes) -> StreamId:
    """Spell a UUIDv7 (RFC 9562, section 5.7): ids sort by the time they were made.

    Args:
        unix_ms: milliseconds since 1970, below 2**48.
        entropy: 10 random bytes; 6 bits of them give way to version and variant.

    Raises:
        ContractError: another number of bytes, or a time out of range.
    """
    if len(entropy) != 10 or not 0 <= unix_ms < 1 << 48:
        raise ContractError("a stream id needs 10 random bytes and a time below 2**48 ms")
    random_bits = int.from_bytes(entropy)
    value = (unix_ms << 80) | random_bits
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    digits = f"{value:032x}"
    return StreamId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def build_transcription_id(stream_id: str, index: int) -> TranscriptionId:
    """Name segment `index` (from 0) of a stream.

    Raises:
        ContractError: the stream id is not a token, or the index is out of range.
    """
    if not 0 <= index < _INDEX_MAX:
        raise ContractError("a segment index is between 0 and 999,999,999")
    return TranscriptionId(f"{parse_token(stream_id)}-{index}")


def parse_transcription_id(text: str) -> tuple[StreamId, int]:
    """Return the stream and the segment index that `build_transcription_id` was given.

    Raises:
        ContractError: not an id of that form.
    """
    stream_id, dash, digits = text.rpartition("-")
    if not dash or not (digits.isascii() and digits.isdigit()) or str(int(digits[:9])) != digits:
        raise ContractError("a transcription id is <stream_id>-<index>")
    return StreamId(parse_token(stream_id)), int(digits)
