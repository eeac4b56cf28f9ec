"""Whether a container's outer structure holds, as its bytes come. Pure.

FFmpeg's demuxers look for the next thing that they know, say nothing of what they passed over, and
take any end for the end. These checks say what was broken: nothing may be lost without a word.
"""

from collections.abc import Generator
from typing import Final

from speechbus_ingest.formats.byte_feed import ByteFeed
from speechbus_ingest.formats.undecodable import UndecodableError

__all__ = ["Framing", "Mp3Framing", "OggFraming", "WebmFraming"]

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

_MPEG_RATES_HZ: Final = (44_100, 48_000, 32_000)
_BIT_RATES: Final = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
"""In kbit/s, of the second and the first version; 0: any other."""
_CHILDREN: Final = (_ANYWHERE | {_EBML, _SEGMENT}, _IN_SEGMENT, _IN_CLUSTER)
"""What may stand at the top, in a segment, and in a cluster."""


class Framing:
    """Follows one stream from header to header; a subclass knows them."""

    def __init__(self) -> None:
        self._bytes = ByteFeed()
        self.after: bytes | None = None
        """The beginning of another recording behind this one, as far as it has come; None: there
        is none so far."""
        self._is_between = True
        """Whether the stream may end here."""
        self._parser = self._parse()

    def feed(self, data: bytes) -> None:
        """Follow.

        Raises:
            UndecodableError: there is something where a header should be.
        """
        self._bytes.put(data)
        next(self._parser, None)

    def finish(self) -> None:
        """Say that nothing follows.

        Raises:
            UndecodableError: there should have been more.
        """
        if self._bytes.n_waiting or not self._is_between:
            raise UndecodableError("truncated")

    def _parse(self) -> Generator[None, None, None]:
        raise NotImplementedError

    def _end_before(self, head: bytes) -> None:
        """Another recording begins with `head`, which has been taken."""
        self.after = head + self._bytes.take_some(None)
        self._is_between = True


class Mp3Framing(Framing):
    """Frames of MPEG audio, layer III, and ID3 tags before them (ISO 11172-3, 2.4.2.3).

    Behind anything else, such as the many kinds of tags at the end, it follows no further.
    """

    def _parse(self) -> Generator[None, None, None]:
        while True:
            head = yield from self._bytes.take(4)
            self._is_between = False
            if head[:3] == b"ID3":
                size = yield from self._bytes.take(6)
                yield from self._bytes.skip(_read_id3_size(size[2:]))
            elif frame_bytes := _read_frame_bytes(head):
                yield from self._bytes.skip(frame_bytes - len(head))
            else:
                break
            self._is_between = True
        self._is_between = True
        while True:
            self._bytes.take_some(None)
            yield


def _read_id3_size(digits: bytes) -> int:
    size = 0
    for digit in digits:  # of 7 bits
        size = size << 7 | digit & 0x7F
    return size


def _read_frame_bytes(head: bytes) -> int:
    """Return a frame's length; 0: this is no frame, or one that does not say it."""
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
            self._is_between = False
            if head[:5] != b"OggS\0":
                raise UndecodableError("damaged")
            is_beginning = bool(head[5] & 2)
            if is_beginning and has_data:
                self._end_before(head)
                return
            has_data = has_data or not is_beginning
            lengths = yield from self._bytes.take(head[26])
            yield from self._bytes.skip(sum(lengths))
            self._is_between = True


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
            self._is_between = not any(open_ends) and has_segment
            name = yield from self._take_name()
            if name == _EBML and has_segment and self._is_between:
                self._end_before(_EBML.to_bytes(4))
                return
            self._is_between = False
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
