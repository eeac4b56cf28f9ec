"""Names of the formats, and what a client says about its audio. Pure, and quick to import."""

from typing import Final, Literal, get_args

import msgspec

__all__ = [
    "CHANNELS_MAX",
    "CONTAINERS",
    "ENCODED_FORMATS",
    "PLAIN",
    "RAW_FORMATS",
    "SAMPLE_RATE_HZ_MAX",
    "SAMPLE_RATE_HZ_MIN",
    "AudioFormat",
    "Container",
    "EncodedFormat",
    "RawFormat",
    "parse_format",
]

RawFormat = Literal[
    "pcm_s16le", "pcm_f32le", "pcm_f32be", "pcm_s32le", "pcm_s32be", "mulaw", "alaw"
]
"""Samples and nothing else."""
Container = Literal["webm", "mp3", "aac", "ogg", "flac"]
"""Compressed; decoded in a process of its own."""
EncodedFormat = Literal["wav"] | Container
"""What says its sample rate and its channels itself."""
RAW_FORMATS: Final[tuple[RawFormat, ...]] = get_args(RawFormat)
CONTAINERS: Final[tuple[Container, ...]] = get_args(Container)
ENCODED_FORMATS: Final[tuple[EncodedFormat, ...]] = ("wav", *CONTAINERS)
CHANNELS_MAX: Final = 8
"""More microphones than anybody mixes down."""
SAMPLE_RATE_HZ_MIN: Final = 8_000
SAMPLE_RATE_HZ_MAX: Final = 48_000


class AudioFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How samples are spelled; frames of several channels are interleaved."""

    encoding: RawFormat = "pcm_s16le"
    channels: int = 1
    """1 to `CHANNELS_MAX`; the mean of all is carried."""

    @property
    def is_plain(self) -> bool:
        """Whether it is what travels already."""
        return self == PLAIN


PLAIN: Final = AudioFormat()


def parse_format(name: str, *, channels: int = 1) -> AudioFormat | EncodedFormat:
    """Return the format of a name.

    Args:
        name: one of `RAW_FORMATS` or `ENCODED_FORMATS`.
        channels: of a raw format.

    Raises:
        ValueError: it is none of them.
    """
    for raw in RAW_FORMATS:
        if raw == name:
            return AudioFormat(encoding=raw, channels=channels)
    for encoded in ENCODED_FORMATS:
        if encoded == name:
            return encoded
    raise ValueError("no such format")
