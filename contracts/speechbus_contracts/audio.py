"""One chunk of audio on the bus: a fixed binary prefix, then PCM.

| bytes | field | type |
|---|---|---|
| 0 | version, 1 | u8 |
| 1 | kind | u8 |
| 2-3 | chunks of this ingest epoch before this one, at most 65,535 | u16 |
| 4-7 | ingest epoch | u32 |
| 8-15 | chunk number, from 0, counts every kind | u64 |
| 16-23 | first sample, counts samples since the stream's first | u64 |
| 24-31 | capture time, ns since 1970 on the ingest's clock | u64 |
| 32- | `audio`: PCM s16le mono; `end`, `reconfigure`: JSON; others: empty | |

All integers are little-endian. There are no headers: 3 microseconds a message on each side.
"""

import enum
import struct
from typing import Final

import msgspec

from speechbus_contracts.errors import ContractError

__all__ = [
    "AUDIO_PAYLOAD_BYTES_MAX",
    "AUDIO_PREFIX_BYTES",
    "AUDIO_VERSION",
    "CHUNKS_BEFORE_MAX",
    "AudioChunk",
    "ChunkKind",
    "decode_chunk",
    "encode_chunk",
    "encode_chunk_prefix",
]

_PREFIX: Final = struct.Struct("<BBHIQQQ")
AUDIO_PREFIX_BYTES: Final = _PREFIX.size
AUDIO_VERSION: Final = 1
AUDIO_PAYLOAD_BYTES_MAX: Final = 65_536
"""320 ms at 48 kHz are 30,720 bytes; twice that leaves room and stays far below NATS' limit."""
CHUNKS_BEFORE_MAX: Final = 65_535
"""Further back than AUDIO keeps even the shortest chunks: nothing of an older ingest is left."""


class ChunkKind(enum.IntEnum):
    """What a chunk carries."""

    AUDIO = 1
    END = 2
    """Last chunk of the stream; payload: empty or JSON `{"reason": …}`."""
    FLUSH = 3
    """Finalize what came before; the stream goes on."""
    RECONFIGURE = 4
    """From here on other settings; payload: JSON `{"language": …}`."""
    SILENCE = 5
    """The source is alive and sends nothing; takes no stream time."""


class AudioChunk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One chunk.

    `payload` of a decoded chunk is a view of the received message: nothing is copied.
    """

    kind: ChunkKind
    number: int
    """Counts the stream's chunks of every kind, from 0."""
    first_sample: int
    """Samples of the stream before this chunk."""
    captured_at_ns: int
    """When ingest had the chunk's last sample, ns since 1970 on its clock."""
    payload: bytes | memoryview = b""
    ingest_epoch: int = 1
    """Generation of the ingest that numbered it; of two chunks with one number the higher wins."""
    chunks_before: int = 0
    """Chunks of this ingest epoch before this one, at most `CHUNKS_BEFORE_MAX`."""

    @property
    def epoch_start(self) -> int:
        """Number from which chunks of lower ingest epochs count for nothing."""
        return max(0, self.number - self.chunks_before)

    @property
    def n_samples(self) -> int:
        """Samples of audio in the payload; 0 for every other kind."""
        return len(self.payload) >> 1 if self.kind is ChunkKind.AUDIO else 0


def encode_chunk_prefix(
    kind: ChunkKind,
    ingest_epoch: int,
    number: int,
    first_sample: int,
    captured_at_ns: int,
    chunks_before: int = 0,
) -> bytes:
    """Return the 32 bytes before the payload (positional: this is the hot path).

    Raises:
        ContractError: a number does not fit its field.
    """
    try:
        return _PREFIX.pack(
            AUDIO_VERSION,
            kind,
            chunks_before,
            ingest_epoch,
            number,
            first_sample,
            captured_at_ns,
        )
    except struct.error:
        raise ContractError("a number of the audio prefix is out of range") from None


def encode_chunk(chunk: AudioChunk) -> bytes:
    """Return the message of one chunk.

    Raises:
        ContractError: a field is out of range, or the payload does not fit the kind.
    """
    _check_payload(chunk.kind, len(chunk.payload))
    if chunk.payload and chunk.kind in _WITHOUT_PAYLOAD:
        raise ContractError("flush and silence carry no payload")
    prefix = encode_chunk_prefix(
        chunk.kind,
        chunk.ingest_epoch,
        chunk.number,
        chunk.first_sample,
        chunk.captured_at_ns,
        chunk.chunks_before,
    )
    return prefix + bytes(chunk.payload)


def decode_chunk(message: bytes) -> AudioChunk:
    """Read one message of an audio subject.

    Raises:
        ContractError: too short, another version, an unknown kind, half a sample, too long.
    """
    if len(message) < AUDIO_PREFIX_BYTES:
        raise ContractError("an audio message is at least 32 bytes long")
    version, kind, chunks_before, ingest_epoch, number, first_sample, captured_at_ns = (
        _PREFIX.unpack_from(message)
    )
    if version != AUDIO_VERSION:
        raise ContractError("this reader knows version 1 of the audio prefix")
    known = _KINDS.get(kind)
    if known is None:
        raise ContractError("unknown kind of audio chunk")
    _check_payload(known, len(message) - AUDIO_PREFIX_BYTES)
    return AudioChunk(
        kind=known,
        ingest_epoch=ingest_epoch,
        chunks_before=chunks_before,
        number=number,
        first_sample=first_sample,
        captured_at_ns=captured_at_ns,
        payload=memoryview(message)[AUDIO_PREFIX_BYTES:],
    )


_KINDS: Final = {int(kind): kind for kind in ChunkKind}
# Refused when written, ignored when read: a reader that dropped the chunk would miss its number.
_WITHOUT_PAYLOAD: Final = frozenset({ChunkKind.FLUSH, ChunkKind.SILENCE})


def _check_payload(kind: ChunkKind, n_bytes: int) -> None:
    if n_bytes > AUDIO_PAYLOAD_BYTES_MAX:
        raise ContractError("an audio payload is at most 65,536 bytes long")
    if kind is ChunkKind.AUDIO and n_bytes & 1:
        raise ContractError("an audio payload holds whole samples of 2 bytes")
