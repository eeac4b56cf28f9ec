"""Whether a container's outer structure holds, as its bytes come. Pure.

FFmpeg's demuxers look for the next thing that they know, say nothing of what they passed over, and
take any end for the end. These checks say what was broken: nothing may be lost without a word.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Final

from speechbus_ingest.formats.byte_feed import ByteFeed
from speechbus_ingest.formats.undecodable import UndecodableError

__all__ = ["AdtsFraming", "Framing", "Mp3Framing", "OggFraming", "WebmFraming"]

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_ANYWHERE: Final = frozenset({0xEC, 0xBF})
"""Void and CRC-32."""
_IN_SEGMENT: Final = _ANYWHERE | {
    _CLUSTER,
    0x114D9B74,  # SeekHead
    0x1549A966,  # Info
    0x1654AE6B,  # Tracks
    0x1C53BB6B,  # Cues
    0x1254C367,  # Tags
    0x1043A770,  # Chapters
    0x1941A469,  # Attachments
}
_IN_CLUSTER: Final = _ANYWHERE | {
    0xE7,  # Timestamp
    0x5854,  # SilentTracks
    0xA7,  # Position
    0xAB,  # PrevSize
    0xA3,  # SimpleBlock
    0xA0,  # BlockGroup
    0xAF,  # EncryptedBlock
}

_IN_A_ROW: Final = 3
"""Frames behind something unknown that show where frames begin; one can occur by chance."""
LEADING_BYTES_MAX: Final = 64 << 10
"""Before the first frames: the rest of a frame, of a stream that ran already, and what writers of
tags leave behind."""
_TRAILERS: Final = (b"TAG", b"APETAGEX", b"LYRICSBEGIN")
"""Tags at the end: ID3 of the first version, APE, Lyrics3."""
_MPEG_RATES_HZ: Final = (44_100, 48_000, 32_000)
_BIT_RATES: Final = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
"""In kbit/s, of the second and the first version; 0: any other."""
_CHILDREN: Final = (_ANYWHERE | {_EBML, _SEGMENT}, _IN_SEGMENT, _IN_CLUSTER)
"""What may stand at the top, in a segment, and in a cluster."""


class Framing(ABC):
    """Follows one stream from header to header; a subclass knows them."""

    def __init__(self) -> None:
        self._bytes = ByteFeed()
        self.after: bytes | None = None
        """The beginning of another recording behind this one, as far as it has come; None: there
        is none so far."""
        self.is_between = True
        """Whether the stream may end here."""
        self._parser = self._parse()

    def feed(self, data: bytes) -> None:
        """Follow.

        Raises:
            UndecodableError: there is something where a header should be.
        """
        self._bytes.put(data)
        next(self._parser, None)

    @property
    def n_unread(self) -> int:
        """Bytes of what was fed, at its end, that were not looked at so far."""
        return self._bytes.n_waiting

    def finish(self) -> None:
        """Say that nothing follows.

        Raises:
            UndecodableError: there should have been more.
        """
        if self._bytes.n_waiting or not self.is_between:
            raise UndecodableError("truncated")

    @abstractmethod
    def _parse(self) -> Generator[None, None, None]:
        """Take what belongs together; yield where more has to come."""

    def _end_before(self, head: bytes) -> None:
        """Another recording begins with `head`, which has been taken."""
        self.after = head + self._bytes.take_some(None)
        self.is_between = True


class _FrameFraming(Framing):
    """Frames one after the other, which say their lengths, and ID3 tags between them.

    What is before the first frames may be anything: whoever records a stream that runs already
    begins inside one. Behind them only tags, which it follows no further, and zeros may stand.
    """

    _HEAD_BYTES: int

    @abstractmethod
    def _read_frame_bytes(self, head: bytes) -> int:
        """Return a frame's length; 0: this is no frame, or one that does not say it."""

    def _parse(self) -> Generator[None, None, None]:
        n_in_a_row = _IN_A_ROW - 1  # the very first is believed
        n_leading = 0
        head = b""
        while True:
            head += yield from self._bytes.take(self._HEAD_BYTES - len(head))
            if head[:3] == b"ID3":
                self.is_between = False
                head += yield from self._bytes.take(10 - len(head))
                yield from self._bytes.skip(_read_id3_size(head))
            elif frame_bytes := self._read_frame_bytes(head):
                self.is_between = False
                n_in_a_row += 1
                yield from self._bytes.skip(frame_bytes - len(head))
            elif n_in_a_row < _IN_A_ROW:
                n_in_a_row = 0
                n_leading += 1
                if n_leading > LEADING_BYTES_MAX:
                    raise UndecodableError("damaged")
                self.is_between = True
                head = head[1:]
                continue
            else:
                break
            self.is_between = True
            head = b""
        if not any(head):
            yield from self._bytes.skip_zeros()
        elif any(head.startswith(name[: len(head)]) for name in _TRAILERS):
            while True:
                self._bytes.take_some(None)
                yield
        raise UndecodableError("damaged")


def _read_id3_size(head: bytes) -> int:
    size = 0
    for digit in head[6:]:  # of 7 bits
        size = size << 7 | digit & 0x7F
    return size + (10 if head[5] & 0x10 else 0)  # a footer


class AdtsFraming(_FrameFraming):
    """Frames of AAC (ISO 14496-3, 1.A.2.2)."""

    _HEAD_BYTES = 7

    def _read_frame_bytes(self, head: bytes) -> int:
        frame_bytes = int.from_bytes(head[3:6]) >> 5 & 0x1FFF
        is_frame = head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and frame_bytes >= self._HEAD_BYTES
        return frame_bytes if is_frame else 0


class Mp3Framing(_FrameFraming):
    """Frames of MPEG audio, layer III (ISO 11172-3, 2.4.2.3)."""

    _HEAD_BYTES = 4

    def _read_frame_bytes(self, head: bytes) -> int:
        return _read_mp3_frame_bytes(head)


def _read_mp3_frame_bytes(head: bytes) -> int:
    bits = int.from_bytes(head)
    version, layer = bits >> 19 & 3, bits >> 17 & 3
    rate_index, bit_rate_index = bits >> 10 & 3, bits >> 12 & 15
    if bits >> 21 != 0x7FF or version == 1 or layer != 1 or rate_index == 3 or bit_rate_index == 15:
        return 0
    is_first_version = version == 3
    bit_rate = 1000 * _BIT_RATES[is_first_version][bit_rate_index]
    rate = _MPEG_RATES_HZ[rate_index] >> (0 if is_first_version else 1 if version == 2 else 2)
    return bit_rate and (144 if is_first_version else 72) * bit_rate // rate + (bits >> 9 & 1)


class OggFraming(Framing):
    """Pages (RFC 3533, section 6)."""

    def _parse(self) -> Generator[None, None, None]:
        has_data = False
        while True:
            head = yield from self._bytes.take(27)
            self.is_between = False
            if head[:5] != b"OggS\0":
                raise UndecodableError("damaged")
            is_beginning = bool(head[5] & 2)
            if is_beginning and has_data:
                self._end_before(head)
                return
            has_data = has_data or not is_beginning
            lengths = yield from self._bytes.take(head[26])
            yield from self._bytes.skip(sum(lengths))
            self.is_between = True


class WebmFraming(Framing):
    """Elements of Matroska, down to the blocks (RFC 8794 and 9559).

    Segments and clusters of a live sender have no size: a cluster ends where the next begins.
    """

    def _parse(self) -> Generator[None, None, None]:
        open_ends: list[int | None] = []
        """Where the open segment, and the open cluster in it, end; None: not said."""
        has_segment = False
        while True:
            while open_ends and open_ends[-1] == self._bytes.n_used:
                open_ends.pop()
            self.is_between = not any(open_ends) and has_segment
            name = yield from self._take_name()
            if name == _EBML and has_segment and self.is_between:
                self._end_before(_EBML.to_bytes(4))
                return
            self.is_between = False
            size = yield from self._take_size()
            if len(open_ends) == 2 and open_ends[-1] is None and name not in _IN_CLUSTER:
                open_ends.pop()
            if name not in _CHILDREN[len(open_ends)]:
                raise UndecodableError("damaged")
            end = None if size is None else self._bytes.n_used + size
            if name in {_SEGMENT, _CLUSTER}:
                has_segment = True
                open_ends.append(end)
            elif size is None:
                raise UndecodableError("damaged")
            else:
                yield from self._bytes.skip(size)

    def _take_name(self) -> Generator[None, None, int]:
        first = (yield from self._bytes.take(1))[0]
        n_more = 8 - first.bit_length()
        if n_more > 3:
            raise UndecodableError("damaged")
        return int.from_bytes(bytes([first]) + (yield from self._bytes.take(n_more)))

    def _take_size(self) -> Generator[None, None, int | None]:
        first = (yield from self._bytes.take(1))[0]
        n_more = 8 - first.bit_length()
        if n_more > 7:
            raise UndecodableError("damaged")
        size = int.from_bytes(bytes([first]) + (yield from self._bytes.take(n_more)))
        size &= (1 << 7 * (n_more + 1)) - 1
        return None if size == (1 << 7 * (n_more + 1)) - 1 else size
