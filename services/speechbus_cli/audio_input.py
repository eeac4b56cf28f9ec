"""Audio from standard input, and the pace of speech."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO, Final

from speechbus_cli.errors import FailedError

__all__ = ["CHUNK_MS", "STDIN_RATE_HZ", "pace_chunks", "read_stdin"]

CHUNK_MS: Final = 100
"""What the bus carries in one message by default; smaller ones would only be joined again."""
STDIN_RATE_HZ: Final = 16_000
BYTES_PER_SAMPLE: Final = 2


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
