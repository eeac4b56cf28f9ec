"""Compressed audio to PCM, blocking; for a process of its own: what it reads is not to be trusted.

PyAV with the demuxer named and the smallest probe: samples come out after the first message of a
browser's recorder instead of the fifth (measured; design notes, 4.1).
"""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import av
import av.container
import msgspec
from av.audio.stream import AudioStream
from av.error import FFmpegError

from speechbus_ingest.formats.decoder_wire import Job
from speechbus_ingest.formats.framing import (
    AdtsFraming,
    Framing,
    Mp3Framing,
    OggFraming,
    WebmFraming,
)
from speechbus_ingest.formats.names import (
    CHANNELS_MAX,
    SAMPLE_RATE_HZ_MAX,
    SAMPLE_RATE_HZ_MIN,
    Container,
)
from speechbus_ingest.formats.raw import Encoding, RawConverter
from speechbus_ingest.formats.undecodable import UndecodableError

__all__ = ["Block", "Source", "decode"]

READ_BYTES: Final = 512
"""What FFmpeg asks for at once; the more, the later the first samples."""
PAUSE_S_MAX: Final = 60.0
"""Longest pause inside a recording that becomes silence; beyond it the recording is damaged."""
LATE_S_MAX: Final = 0.1
"""Capture times vary by some tens of milliseconds, and leaving a stream that much early is better
than silence inside its words."""
SILENCE_S: Final = 1.0
"""Of silence in one block."""
LEADING_ERRORS_MAX: Final = 16
"""Packets before the first samples that may be broken: recordings of a running MP3 stream begin
inside what their first frames refer to."""


class _Kind(msgspec.Struct, frozen=True):
    demuxer: str
    codecs: frozenset[str]
    """Those that occur in such streams; each other one would be surface for nothing."""
    jump_s_max: float
    """Times of consecutive frames that differ more than this from their lengths show that something
    between them is missing."""
    pause_s_max: float = 0.0
    """Nothing may have been captured for so long; it becomes silence."""
    framing: type[Framing] | None = None
    """Says what the demuxer passes over in silence."""
    options: Mapping[str, str] = {}
    """Of the decoder."""
    has_whole_reads: bool = False
    """While the header is read, give FFmpeg as much as it asks for: else its MP3 demuxer loses the
    first frame where it cannot go back in a short read."""


_KINDS: Final[Mapping[Container, _Kind]] = {
    # Browsers write the time of capture, which jumps when their machine was busy or asleep.
    "webm": _Kind("matroska", frozenset({"opus", "vorbis"}), 1.0, PAUSE_S_MAX, WebmFraming),
    "mp3": _Kind("mp3", frozenset({"mp3float"}), 0.005, framing=Mp3Framing, has_whole_reads=True),
    "aac": _Kind("aac", frozenset({"aac"}), 0.005, framing=AdtsFraming),
    "ogg": _Kind("ogg", frozenset({"opus", "vorbis", "flac"}), 0.005, framing=OggFraming),
    # Every frame has a checksum, and the decoder looks at it only when it is told to.
    "flac": _Kind("flac", frozenset({"flac"}), 0.005, options={"err_detect": "crccheck+explode"}),
}
_ENCODINGS: Final[Mapping[str, Encoding]] = {
    "s16": "pcm_s16le",
    "s32": "pcm_s32le",
    "flt": "pcm_f32le",
}


class Source(Protocol):
    """Where the bytes come from."""

    n_read: int
    """Bytes returned so far."""

    def read(self, n: int) -> bytes:
        """Return 1 to `n` bytes as soon as there are any; none at the end."""
        ...


class Block(msgspec.Struct, frozen=True):
    """Some decoded samples."""

    sample_rate_hz: int
    """The same in all blocks of a stream."""
    channels: list[bytes]
    """PCM s16le: the mean of all, or each by itself."""


class _Watched:
    """A source as FFmpeg's demuxers need it; ends where the container's structure breaks."""

    def __init__(self, source: Source, kind: _Kind, carried: bytes) -> None:
        self._source = source
        self._carried = carried
        """Bytes of the source that were read before."""
        self._framing = kind.framing() if kind.framing is not None else None
        self._problem: UndecodableError | None = None
        self.is_patient = kind.has_whole_reads
        """Until the header has been read."""

    def read(self, n: int) -> bytes:
        if self._problem is not None or self.next_recording is not None:
            return b""
        data = self._read_some(n)
        while self.is_patient and 0 < len(data) < n:
            more = self._read_some(n - len(data))
            if not more:
                break
            data += more
        if self._framing is not None and data:
            try:
                self._framing.feed(data)
            except UndecodableError as error:
                self._problem = error
                # FFmpeg would find the next frame behind the damage and give it too early a time.
                data = data[: len(data) - self._framing.n_unread]
            if self.next_recording is not None:
                # Its first bytes may have come with the data before, which does no harm.
                data = data[: max(0, len(data) - len(self.next_recording))]
        return data

    @property
    def next_recording(self) -> bytes | None:
        """The first bytes of another recording in the same stream, once they have come."""
        return None if self._framing is None else self._framing.after

    def _read_some(self, n: int) -> bytes:
        if not self._carried:
            return self._source.read(n)
        data, self._carried = self._carried[:n], self._carried[n:]
        return data

    def finish(self) -> None:
        """All has been decoded.

        Raises:
            UndecodableError: it was not all that there should have been.
        """
        if self._problem is not None:
            raise self._problem
        if self._framing is not None:
            self._framing.finish()


def decode(source: Source, job: Job) -> Iterator[Block]:
    """Decode a whole stream, as it comes: one recording, or several of WebM or Ogg in a row.

    Raises:
        UndecodableError: it cannot be decoded any further.
    """
    kind = _KINDS[job.container]
    decoding = _Decoding(job, kind)
    begun: bytes | None = b""
    try:
        while begun is not None:
            watched = _Watched(source, kind, begun)
            with _open(watched, kind) as container:
                watched.is_patient = False
                yield from decoding.run(container)
            # A demuxer may see the end before the client says so, and what follows still counts.
            while watched.read(READ_BYTES):
                continue
            watched.finish()
            begun = watched.next_recording
    except UndecodableError as error:
        raise UndecodableError(error.problem if source.n_read else "no_audio") from None
    except MemoryError:
        raise UndecodableError("costly") from None
    except Exception:  # noqa: BLE001 - FFmpeg's errors are of a dozen classes
        raise UndecodableError("damaged" if source.n_read else "no_audio") from None


def _open(source: _Watched, kind: _Kind) -> av.container.InputContainer:
    return av.open(
        source,
        "r",
        format=kind.demuxer,
        options={
            "probesize": "512",
            "analyzeduration": "0",
            "codec_whitelist": ",".join(kind.codecs),
        },
        buffer_size=READ_BYTES,
        metadata_errors="ignore",
    )


class _Decoding:
    """What is known of one stream."""

    def __init__(self, job: Job, kind: _Kind) -> None:
        self._job = job
        self._kind = kind
        self._form: tuple[int, int, str] | None = None
        self._converter: RawConverter | None = None
        self._n_errors = 0
        self._ends_at_s: float | None = None
        self._reached_s = 0.0
        """Where a recording's samples have come to; behind `_ends_at_s` if times were late."""

    def run(self, container: av.container.InputContainer) -> Iterator[Block]:
        """Decode one recording."""
        self._ends_at_s = None
        if not container.streams.audio:
            raise UndecodableError("no_audio")
        track = container.streams.audio[0]
        if track.codec_context.name not in self._kind.codecs:
            raise UndecodableError("codec")
        track.codec_context.thread_count = 1  # a child may start no threads
        track.codec_context.options = dict(self._kind.options)
        for packet in container.demux(track):
            for frame in self._decode(packet):
                late_s = self._check_time(frame)
                block = self._convert(frame)
                yield from _fill(block, late_s)
                yield block
        if self._form is None:
            raise UndecodableError("damaged")

    def _decode(self, packet: "av.Packet[AudioStream]") -> list[av.AudioFrame]:
        try:
            return packet.decode()
        except FFmpegError:
            self._n_errors += 1
            if self._form is not None or self._n_errors > LEADING_ERRORS_MAX:
                raise
            return []

    def _check_time(self, frame: av.AudioFrame) -> float:
        """See whether anything is missing before this frame.

        Demuxers skip what they do not understand without a word.

        Returns:
            Seconds of silence that belong before it.
        """
        at_s, kind = frame.time, self._kind
        if at_s is None:
            return 0.0
        if self._ends_at_s is None:
            self._ends_at_s = self._reached_s = at_s
        jump_s = at_s - self._ends_at_s
        if not -kind.jump_s_max <= jump_s <= max(kind.jump_s_max, kind.pause_s_max):
            raise UndecodableError("damaged")
        late_s = at_s - self._reached_s  # not only this jump: many small ones add up
        if not kind.pause_s_max or late_s <= LATE_S_MAX:
            late_s = 0.0
        length_s = frame.samples / frame.sample_rate
        self._ends_at_s = at_s + length_s
        self._reached_s += late_s + length_s
        return late_s

    def _convert(self, frame: av.AudioFrame) -> Block:
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        packed = frame.format.packed.name
        if self._converter is None:
            self._converter = self._open_converter(rate, channels, packed)
            self._form = (rate, channels, packed)
        elif self._form != (rate, channels, packed):
            raise UndecodableError("changed")
        samples = frame.to_ndarray()
        interleaved = samples.T.tobytes() if frame.format.is_planar else samples.tobytes()
        return Block(rate, self._converter.convert(interleaved))

    def _open_converter(self, rate: int, channels: int, packed: str) -> RawConverter:
        if not SAMPLE_RATE_HZ_MIN <= rate <= SAMPLE_RATE_HZ_MAX:
            raise UndecodableError("sample_rate")
        is_split = self._job.channels is not None
        if channels > CHANNELS_MAX or (is_split and channels != self._job.channels):
            raise UndecodableError("channels")
        if packed not in _ENCODINGS:
            raise UndecodableError("codec")
        return RawConverter(_ENCODINGS[packed], channels, is_split=is_split)


def _fill(block: Block, seconds: float) -> Iterator[Block]:
    """Make silence that goes before a block."""
    n_left = round(seconds * block.sample_rate_hz)
    while n_left:
        n = min(n_left, int(SILENCE_S * block.sample_rate_hz))
        n_left -= n
        yield Block(block.sample_rate_hz, [bytes(2 * n)] * len(block.channels))
