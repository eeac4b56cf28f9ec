"""WAV as it streams in: the header is parsed as its bytes come, the rest is samples. Pure.

RIFF and RF64 (EBU Tech 3306), `WAVE_FORMAT_EXTENSIBLE`, sizes that a live sender could not know.
FFmpeg would need 0.7 to 4.3 s of audio before its first sample (measured; design notes, 4.1).
"""

import struct
from collections.abc import Generator
from typing import Final

import msgspec

from speechbus_ingest.formats.byte_feed import ByteFeed
from speechbus_ingest.formats.names import CHANNELS_MAX, SAMPLE_RATE_HZ_MAX, SAMPLE_RATE_HZ_MIN
from speechbus_ingest.formats.raw import Encoding, RawConverter
from speechbus_ingest.formats.undecodable import UndecodableError

__all__ = ["WavHeader", "WavReader"]

HEADER_BYTES_MAX: Final = 16 << 20
"""Before the samples; cover pictures and edit lists have some megabytes. They are skipped, not
kept."""
FMT_BYTES_MAX: Final = 64
"""The longest form in use has 40."""
_SIZE_UNKNOWN_MIN: Final = 0x7FFF_0000
"""Sizes from here on are what live senders put there: 0x7FFFFFFF, 0x7FFFF000, 0x80000000,
0xFFFFFFFF. It would be 2 GiB, 18 hours at 16 kHz; such a file goes on to its end all the same."""
_SIZE_IN_DS64: Final = 0xFFFF_FFFF
_SIZE64_UNKNOWN_MIN: Final = 1 << 62

_CHUNK: Final = struct.Struct("<4sI")
"""Name and size of a chunk; its body is padded to an even number of bytes."""
_FMT: Final = struct.Struct("<HHIIHH")
_DS64: Final = struct.Struct("<QQ")
"""The file's size and that of the samples; more follows."""
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_SUBFORMAT_TAIL: Final = bytes.fromhex("000000001000800000aa00389b71")
"""Of the GUIDs whose first two bytes are a format tag."""
_ENCODINGS: Final[dict[tuple[int, int], Encoding]] = {
    (_PCM, 1): "pcm_u8",
    (_PCM, 2): "pcm_s16le",
    (_PCM, 3): "pcm_s24le",
    (_PCM, 4): "pcm_s32le",
    (_FLOAT, 4): "pcm_f32le",
    (_FLOAT, 8): "pcm_f64le",
    (_ALAW, 1): "alaw",
    (_MULAW, 1): "mulaw",
}
"""By format tag and bytes per sample. Fewer bits than the bytes have are at their upper end."""


class WavHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What the samples are."""

    encoding: Encoding
    channels: int
    sample_rate_hz: int
    frame_bytes: int


class WavReader:
    """Turns the bytes of one WAV file, cut anywhere, into PCM s16le.

    After an error it is of no use any more.

    Args:
        is_split: give each channel by itself, instead of the mean of all.
    """

    def __init__(self, *, is_split: bool = False) -> None:
        self.header: WavHeader | None = None
        """Known before the first samples are returned."""
        self._is_split = is_split
        self._converter: RawConverter | None = None
        self._bytes = ByteFeed()
        self._samples = b""
        self.left_bytes: int | None = None
        """Samples that are still to come; None: until the end."""
        self._has_begun = False
        self._parser = self._parse()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the samples that `data` completes: one piece, or one for each channel.

        Raises:
            UndecodableError: this is no WAV, or one that is not served.
        """
        self._has_begun = self._has_begun or bool(data)
        self._bytes.put(data)
        next(self._parser)
        samples, self._samples = self._samples, b""
        return self._converter.convert(samples) if self._converter is not None else []

    def finish(self) -> None:
        """Say that nothing follows.

        Raises:
            UndecodableError: there should have been more.
        """
        if self._converter is None:
            raise UndecodableError("truncated" if self._has_begun else "no_audio")
        if self.left_bytes:
            raise UndecodableError("truncated")

    def _parse(self) -> Generator[None, None, None]:
        """Work through the buffer; yield whenever more is needed."""
        form = yield from self._bytes.take(12)
        if form[:4] not in {b"RIFF", b"RF64"} or form[8:] != b"WAVE":
            raise UndecodableError("damaged")
        size = yield from self._read_header()
        if self.header is None:
            raise UndecodableError("damaged")
        self._converter = RawConverter(
            self.header.encoding, self.header.channels, is_split=self._is_split
        )
        self.left_bytes = size
        while self.left_bytes is None or self.left_bytes > 0:
            samples = self._bytes.take_some(self.left_bytes)
            self._samples += samples
            if self.left_bytes is not None:
                self.left_bytes -= len(samples)
            if self.left_bytes != 0:
                yield
        yield from self._bytes.skip((size or 0) % 2)
        while True:
            name, size = _CHUNK.unpack((yield from self._bytes.take(_CHUNK.size)))
            if name in {b"RIFF", b"RF64", b"data"}:
                raise UndecodableError("changed")  # a second file; its samples must not get lost
            yield from self._bytes.skip(size + size % 2)

    def _read_header(self) -> Generator[None, None, int | None]:
        """Read up to the samples; return how many bytes of them there are, None: until the end."""
        n_bytes = 0
        size64 = 0
        while True:
            name, size = _CHUNK.unpack((yield from self._bytes.take(_CHUNK.size)))
            if name == b"data":
                if size == _SIZE_IN_DS64 and 0 < size64 < _SIZE64_UNKNOWN_MIN:
                    return size64
                return size if 0 < size < _SIZE_UNKNOWN_MIN else None
            n_bytes += _CHUNK.size + size
            if n_bytes > HEADER_BYTES_MAX:
                raise UndecodableError("damaged")
            n_used = 0
            if name == b"fmt ":
                n_used = min(size, FMT_BYTES_MAX)
                self.header = _parse_fmt((yield from self._bytes.take(n_used)))
            elif name == b"ds64" and size >= _DS64.size:
                n_used = _DS64.size
                _, size64 = _DS64.unpack((yield from self._bytes.take(n_used)))
            yield from self._bytes.skip(size - n_used + size % 2)


def _parse_fmt(body: bytes) -> WavHeader:
    if len(body) < _FMT.size:
        raise UndecodableError("damaged")
    tag, channels, sample_rate_hz, _, frame_bytes, _ = _FMT.unpack_from(body)
    if tag == _EXTENSIBLE:
        if body[26:40] != _SUBFORMAT_TAIL:
            raise UndecodableError("codec")
        tag = int.from_bytes(body[24:26], "little")
    if not 1 <= channels <= CHANNELS_MAX:
        raise UndecodableError("channels")
    if not SAMPLE_RATE_HZ_MIN <= sample_rate_hz <= SAMPLE_RATE_HZ_MAX:
        raise UndecodableError("sample_rate")
    sample_bytes, odd_bytes = divmod(frame_bytes, channels)
    encoding = _ENCODINGS.get((tag, sample_bytes))
    if odd_bytes or encoding is None:
        raise UndecodableError("codec")
    return WavHeader(
        encoding=encoding,
        channels=channels,
        sample_rate_hz=sample_rate_hz,
        frame_bytes=frame_bytes,
    )
