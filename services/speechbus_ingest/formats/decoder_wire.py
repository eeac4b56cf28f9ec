"""What ingest and a decoder process say to each other over their socket. Pure.

Ingest sends one `Job`, framed, then the client's bytes as they come; closing its direction is their
end. The decoder answers in frames: a length (u32), a kind (u8), a body.
"""

import enum
import struct
from typing import Final

import msgspec

from speechbus_ingest.formats.names import Container

__all__ = ["BODY_BYTES_MAX", "HEAD", "Job", "Kind", "encode_frame", "encode_position"]

HEAD: Final = struct.Struct("<IB")
BODY_BYTES_MAX: Final = 2 << 20
"""The longest block of FLAC, 65,535 frames of 8 channels, makes 1 MiB."""
_POSITION: Final = struct.Struct("<Q")


class Job(msgspec.Struct, frozen=True):
    """What a decoder shall do."""

    container: Container
    channels: int | None = None
    """Give each of so many channels by itself; None: the mean of however many there are."""


class Kind(enum.IntEnum):
    """What a frame's body is."""

    STARTED = 1
    """Sample rate in Hz, u64; before the first samples."""
    PCM = 2
    """PCM s16le, one channel after the other."""
    IDLE = 3
    """All the client's bytes up to this position, u64, have been worked on; it waits for more."""
    END = 4
    """Nothing follows; all is well."""
    FAILED = 5
    """Nothing follows; the body is a `Problem`."""


def encode_frame(kind: Kind, body: bytes = b"") -> bytes:
    """Return a whole frame."""
    return HEAD.pack(len(body), kind) + body


def encode_position(kind: Kind, number: int) -> bytes:
    """Return a frame whose body is a number."""
    return encode_frame(kind, _POSITION.pack(number))
