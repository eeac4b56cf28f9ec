"""Names of the raw formats, and what a client says about its audio. Pure, and quick to import."""

from typing import Final, Literal, get_args

import msgspec

__all__ = ["CHANNELS_MAX", "PLAIN", "RAW_FORMATS", "AudioFormat", "RawFormat"]

RawFormat = Literal[
    "pcm_s16le", "pcm_f32le", "pcm_f32be", "pcm_s32le", "pcm_s32be", "mulaw", "alaw"
]
RAW_FORMATS: Final[tuple[str, ...]] = get_args(RawFormat)
CHANNELS_MAX: Final = 8
"""More microphones than anybody mixes down."""


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
