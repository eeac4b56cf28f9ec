"""Audio files and standard input as PCM chunks, at the pace of speech or faster."""

import asyncio
import os
import stat
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from speechbus_cli.errors import FailedError

__all__ = [
    "CHUNK_MS",
    "STDIN_RATE_HZ",
    "AudioFile",
    "open_wav",
    "pace_chunks",
    "read_stdin",
    "read_wav",
]

CHUNK_MS: Final = 100
"""What the bus carries in one message by default; smaller ones would only be joined again."""
STDIN_RATE_HZ: Final = 16_000
RATE_MIN_HZ: Final = 8_000
RATE_MAX_HZ: Final = 48_000
"""Rates of the native door."""
CHANNELS_MAX: Final = 8
"""7.1 surround; a header that tells more is damaged."""
BYTES_PER_SAMPLE: Final = 2
_WORKS: Final = (
    "what works today is WAV with PCM of 16 bit"
    " (`ffmpeg -i FILE -ar 16000 -ac 1 OUT.wav` makes one), or `-` for raw"
    " pcm_s16le mono of 16 kHz on standard input"
)


class AudioFile(msgspec.Struct, frozen=True, kw_only=True):
    """A WAV file that can be streamed."""

    path: Path
    sample_rate_hz: int
    channels: int
    frames: int
    """What the file holds, not what a truncated file's header claims."""

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return self.frames / self.sample_rate_hz


def open_wav(path: Path) -> AudioFile:
    """Look at a file's header.

    Raises:
        FailedError: not there, not WAV PCM 16 bit, or a rate the door does not take.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as opened, closing(_open_wave(path, opened)) as reader:
            width, channels = reader.getsampwidth(), reader.getnchannels()
            rate, frames = reader.getframerate(), reader.getnframes()
    except OSError as error:
        raise FailedError(f"{path}: {error.strerror or 'cannot be read'}.") from None
    if width != BYTES_PER_SAMPLE:
        raise FailedError(f"{path} holds PCM of {8 * width} bit: {_WORKS}.")
    if not 1 <= channels <= CHANNELS_MAX:
        raise FailedError(f"{path} tells of {channels} channels: {_WORKS}.")
    if not RATE_MIN_HZ <= rate <= RATE_MAX_HZ:
        raise FailedError(
            f"{path} has {rate} Hz: resample it to {RATE_MIN_HZ} to {RATE_MAX_HZ} Hz"
            " (`ffmpeg -i FILE -ar 16000 OUT.wav`)."
        )
    held = size // (width * channels)
    return AudioFile(path=path, sample_rate_hz=rate, channels=channels, frames=min(frames, held))


async def read_wav(audio: AudioFile) -> AsyncIterator[bytes]:
    """Yield the file as PCM s16le mono, `CHUNK_MS` at a time; channels are averaged.

    Reads block, for microseconds: a chunk is a few kilobytes.

    Raises:
        FailedError: the file cannot be read any more.
    """
    try:
        with audio.path.open("rb") as opened, closing(_open_wave(audio.path, opened)) as reader:
            frames = audio.sample_rate_hz * CHUNK_MS // 1_000
            while chunk := reader.readframes(frames):
                yield chunk if audio.channels == 1 else _average_channels(chunk, audio.channels)
    except OSError as error:
        raise FailedError(f"{audio.path}: {error.strerror or 'cannot be read'}.") from None


def _open_wave(path: Path, opened: BinaryIO) -> wave.Wave_read:
    try:
        return wave.open(opened, "rb")
    except (wave.Error, EOFError):
        raise FailedError(f"{path} is no WAV file with PCM of 16 bit: {_WORKS}.") from None


def _average_channels(chunk: bytes, channels: int) -> bytes:
    import numpy as np  # 0.1 s to load, and most files are mono

    whole = len(chunk) - len(chunk) % (BYTES_PER_SAMPLE * channels)  # a truncated file's last frame
    frames = np.frombuffer(chunk[:whole], dtype="<i2").reshape(-1, channels)
    mono: bytes = frames.mean(axis=1).astype("<i2").tobytes()
    return mono


async def read_stdin(stream: BinaryIO) -> AsyncIterator[bytes]:
    """Yield raw PCM from a pipe, a socket or a redirected file until it ends.

    A thread that waits in `read` would keep the process from ending after Ctrl-C, hence the
    event loop's own pipe.

    Raises:
        FailedError: it is a terminal, where nobody can type audio.
    """
    if stream.isatty():
        raise FailedError(
            "`-` reads audio from standard input: pipe some in, for example"
            " `arecord -f S16_LE -r 16000 | speechbus transcribe -`."
        )
    chunk_bytes = STDIN_RATE_HZ * CHUNK_MS // 1_000 * BYTES_PER_SAMPLE
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        while chunk := stream.read(chunk_bytes):
            yield chunk
        return
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=10 * chunk_bytes)  # 1 s; beyond it the pipe waits
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), stream
    )
    try:
        while chunk := await reader.read(chunk_bytes):
            yield chunk
    finally:
        transport.close()


async def pace_chunks(
    chunks: AsyncIterator[bytes], *, sample_rate_hz: int, on_start: Callable[[float], None] | None
) -> AsyncIterator[bytes]:
    """Hand each chunk on when its last sample would have been spoken.

    The schedule counts from the start, so delays do not add up.

    Args:
        chunks: PCM s16le mono.
        sample_rate_hz: samples per second.
        on_start: told the instant of the first sample, on the event loop's clock.
    """
    clock = asyncio.get_running_loop().time
    start_s = clock()
    if on_start is not None:
        on_start(start_s)
    bytes_before = 0
    async for chunk in chunks:
        bytes_before += len(chunk)
        wait_s = start_s + bytes_before / (BYTES_PER_SAMPLE * sample_rate_hz) - clock()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        yield chunk
