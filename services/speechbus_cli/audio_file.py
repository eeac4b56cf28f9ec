"""Audio files of every format that the doors take, as PCM."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from speechbus_cli.audio_input import BYTES_PER_SAMPLE, CHUNK_MS
from speechbus_cli.errors import FailedError
from speechbus_ingest.formats.decoder_wire import Job
from speechbus_ingest.formats.names import Container, EncodedFormat
from speechbus_ingest.formats.undecodable import PROBLEMS, UndecodableError

__all__ = ["AudioFile", "open_audio", "read_audio"]

READ_BYTES: Final = 65_536
_MAKES_WAV: Final = "`ffmpeg -i FILE -ar 16000 -ac 1 OUT.wav` makes one that works"
_WORKS: Final = f"WAV, WebM, Ogg, MP3, AAC (ADTS) and FLAC work; {_MAKES_WAV}"
_BEGINNINGS: Final[tuple[tuple[bytes, EncodedFormat], ...]] = (
    (b"RIFF", "wav"),
    (b"RF64", "wav"),
    (b"\x1a\x45\xdf\xa3", "webm"),
    (b"OggS", "ogg"),
    (b"fLaC", "flac"),
    (b"ID3", "mp3"),
    (b"\xff\xf1", "aac"),
    (b"\xff\xf9", "aac"),
    *((bytes([0xFF, second]), "mp3") for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)),
)
"""How files of each format begin; names of files are not to be relied on."""


class AudioFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that can be streamed."""

    path: Path
    audio_format: EncodedFormat
    sample_rate_hz: int
    seconds: float | None
    """Length of the audio that the file holds; None: its format does not tell beforehand."""


def open_audio(path: Path) -> AudioFile:
    """Look at a file's beginning.

    Raises:
        FailedError: not there, of another format, or damaged from the start.
    """
    try:
        with path.open("rb") as opened:
            head = opened.read(4)
        if not head:
            raise FailedError(f"{path} is empty.")
        audio_format = _find_format(head)
        if audio_format is None:
            raise FailedError(f"{path} is of a format that is not known here: {_WORKS}.")
        first = next(_decode(path, audio_format), None)
    except OSError as error:
        raise FailedError(f"{path}: {error.strerror or 'cannot be read'}.") from None
    except UndecodableError as error:
        problem = PROBLEMS[error.problem]
        raise FailedError(f"{path} cannot be decoded: {problem}; {_WORKS}.") from None
    if first is None:
        raise FailedError(f"{path}: {PROBLEMS['no_audio']}.")
    return AudioFile(
        path=path,
        audio_format=audio_format,
        sample_rate_hz=first.sample_rate_hz,
        seconds=None if first.left_s is None else first.seconds + first.left_s,
    )


async def read_audio(
    audio: AudioFile, *, on_problem: Callable[[str], None]
) -> AsyncIterator[bytes]:
    """Yield the file as PCM s16le mono, `CHUNK_MS` at a time; channels are averaged.

    Reads and decodes in place: a chunk takes some hundred microseconds.

    Args:
        audio: what `open_audio` found.
        on_problem: told, in words, why the audio ends before the file does.

    Raises:
        FailedError: the file cannot be read any more.
    """
    chunk_bytes = audio.sample_rate_hz * CHUNK_MS // 1_000 * BYTES_PER_SAMPLE
    waiting = b""
    try:
        for piece in _decode(audio.path, audio.audio_format):
            waiting += piece.pcm
            whole = len(waiting) // chunk_bytes * chunk_bytes
            for start in range(0, whole, chunk_bytes):
                yield waiting[start : start + chunk_bytes]
            waiting = waiting[whole:]
    except OSError as error:
        raise FailedError(f"{audio.path}: {error.strerror or 'cannot be read'}.") from None
    except UndecodableError as error:
        on_problem(PROBLEMS[error.problem])
    if waiting:
        yield waiting


class _Piece(msgspec.Struct, frozen=True):
    sample_rate_hz: int
    pcm: bytes
    left_s: float | None
    """Audio behind it."""

    @property
    def seconds(self) -> float:
        return len(self.pcm) / (BYTES_PER_SAMPLE * self.sample_rate_hz)


def _find_format(head: bytes) -> EncodedFormat | None:
    return next((name for beginning, name in _BEGINNINGS if head.startswith(beginning)), None)


def _decode(path: Path, audio_format: EncodedFormat) -> Iterator[_Piece]:
    with path.open("rb") as opened:
        if audio_format == "wav":
            yield from _decode_wav(opened, path.stat().st_size)
        else:
            yield from _decode_container(opened, audio_format)


def _decode_wav(opened: BinaryIO, size: int) -> Iterator[_Piece]:
    from speechbus_ingest.formats.wav import WavReader  # numpy, 0.1 s to load

    reader = WavReader()
    while data := opened.read(READ_BYTES):
        samples = reader.feed(data)
        if reader.header is not None and samples and samples[0]:
            held = size - opened.tell()  # a truncated file's header promises more
            left = held if reader.left_bytes is None else min(held, reader.left_bytes)
            rate = reader.header.sample_rate_hz
            yield _Piece(rate, samples[0], left / (reader.header.frame_bytes * rate))
    reader.finish()


def _decode_container(opened: BinaryIO, container: Container) -> Iterator[_Piece]:
    from speechbus_ingest.formats.containers import decode  # FFmpeg, 0.1 s to load

    for block in decode(_FileSource(opened), Job(container)):
        yield _Piece(block.sample_rate_hz, block.channels[0], None)


class _FileSource:
    """See `containers.Source`."""

    def __init__(self, opened: BinaryIO) -> None:
        self._opened = opened
        self.n_read = 0

    def read(self, n: int) -> bytes:
        data = self._opened.read(n)
        self.n_read += len(data)
        return data
