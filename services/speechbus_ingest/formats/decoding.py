"""Ingest's side of decoding: a client's bytes go in, PCM comes out, each at its own pace."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, cast, get_args

import msgspec

from speechbus_ingest.formats.decoder_wire import (
    BODY_BYTES_MAX,
    HEAD,
    Job,
    Kind,
)
from speechbus_ingest.formats.names import SAMPLE_RATE_HZ_MAX, SAMPLE_RATE_HZ_MIN
from speechbus_ingest.formats.undecodable import Problem, UndecodableError
from speechbus_ingest.formats.wav import WavReader

__all__ = ["Decoding", "ProcessDecoding", "WavDecoding"]

UNDECODED_BYTES_MAX: Final = 256 << 10
"""Bytes of a client that wait to be decoded before its socket is not read any further: 8 s of MP3
at 256 kbit/s. The slice that goes beyond it, 64 KiB at most, is still taken."""
UNREAD_PCM_BYTES_MAX: Final = 64 << 10
"""Decoded audio that waits for its way onto the bus; beyond it the decoder waits. (Its buffers in
the kernel hold some 200 KiB more.)"""


class Decoding(Protocol):
    """One stream's way from encoded bytes to PCM. One task reads; `write` never waits."""

    sample_rate_hz: int
    """Known when `read` has returned for the first time."""

    def write(self, data: bytes) -> None:
        """Take bytes, cut anywhere."""
        ...

    def finish(self) -> None:
        """No more bytes."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether `wait_for_room` would return at once."""
        ...

    async def wait_for_room(self) -> None:
        """Wait while too much waits to be decoded."""
        ...

    async def read(self) -> list[bytes]:
        """Wait for samples: PCM s16le, one piece, or one for each channel; empty at the end.

        Raises:
            UndecodableError: nothing more will come.
        """
        ...

    async def settle(self) -> None:
        """Wait until everything that was written has been decoded and read."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class WavDecoding:
    """WAV needs no process: its parser is ours, and it is cheap."""

    def __init__(self, *, channels: int | None = None) -> None:
        self.sample_rate_hz = 0
        self._channels = channels
        self._reader = WavReader(is_split=channels is not None)
        self._waiting: deque[bytes] = deque()
        self._n_waiting = 0
        self._is_finished = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._settled = asyncio.Event()

    def write(self, data: bytes) -> None:
        """See `Decoding`."""
        self._waiting.append(data)
        self._n_waiting += len(data)
        self._arrived.set()
        self._settled.clear()
        if not self.has_room:
            self._room.clear()

    def finish(self) -> None:
        """See `Decoding`."""
        self._is_finished = True
        self._arrived.set()

    @property
    def has_room(self) -> bool:
        """See `Decoding`."""
        return self._n_waiting < UNDECODED_BYTES_MAX

    async def wait_for_room(self) -> None:
        """See `Decoding`."""
        await self._room.wait()

    async def read(self) -> list[bytes]:
        """See `Decoding`."""
        while True:
            if not self._waiting:
                self._settled.set()
                if self._is_finished:
                    self._reader.finish()
                    return []
                self._arrived.clear()
                await self._arrived.wait()
                continue
            data = self._waiting.popleft()
            self._n_waiting -= len(data)
            if self.has_room:
                self._room.set()
            channels = self._reader.feed(data)
            if channels and channels[0]:
                self._check_header()
                return channels

    async def settle(self) -> None:
        """See `Decoding`."""
        await self._settled.wait()

    def close(self) -> None:
        """See `Decoding`."""
        self._waiting.clear()
        self._n_waiting = 0
        self._room.set()
        self._settled.set()

    def _check_header(self) -> None:
        header = self._reader.header
        assert header is not None
        if self._channels not in {None, header.channels}:
            raise UndecodableError("channels")
        self.sample_rate_hz = header.sample_rate_hz


class ProcessDecoding:
    """Decodes in a process of its own, see `decoder_session`; made by `Decoders.open`.

    Args:
        reader: from the process.
        writer: to it.
        job: what it shall do.
        on_close: called once, when this is closed.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        job: Job,
        on_close: Callable[[], None],
    ) -> None:
        self.sample_rate_hz = 0
        self._reader = reader
        self._writer = writer
        self._n_channels = job.channels or 1
        self._on_close: Callable[[], None] | None = on_close
        self._n_written = 0
        self._settled = asyncio.Event()
        self._settled.set()
        writer.transport.set_write_buffer_limits(high=UNDECODED_BYTES_MAX)
        body = msgspec.json.encode(job)
        writer.write(HEAD.pack(len(body), 0) + body)

    def write(self, data: bytes) -> None:
        """See `Decoding`."""
        if not self._writer.is_closing():
            self._n_written += len(data)
            self._settled.clear()
            self._writer.write(data)

    def finish(self) -> None:
        """See `Decoding`."""
        if not self._writer.is_closing():
            self._writer.write_eof()

    @property
    def has_room(self) -> bool:
        """See `Decoding`."""
        return self._writer.transport.get_write_buffer_size() < UNDECODED_BYTES_MAX

    async def wait_for_room(self) -> None:
        """See `Decoding`."""
        with suppress(OSError):  # who reads learns what has happened
            await self._writer.drain()

    async def read(self) -> list[bytes]:
        """See `Decoding`."""
        while True:
            kind, body = await self._read_frame()
            match kind:
                case Kind.STARTED:
                    self.sample_rate_hz = _read_number(body)
                    if not SAMPLE_RATE_HZ_MIN <= self.sample_rate_hz <= SAMPLE_RATE_HZ_MAX:
                        raise UndecodableError("crashed")
                case Kind.PCM:
                    return self._split(body)
                case Kind.IDLE:
                    if _read_number(body) >= self._n_written:
                        self._settled.set()
                case Kind.END:
                    return []
                case Kind.FAILED:
                    raise UndecodableError(_read_problem(body))

    async def settle(self) -> None:
        """See `Decoding`."""
        await self._settled.wait()

    def close(self) -> None:
        """See `Decoding`."""
        self._settled.set()
        self._writer.transport.abort()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    async def _read_frame(self) -> tuple[Kind, bytes]:
        """Read what the process says; it may have been taken over by what it decodes."""
        try:
            size, kind = HEAD.unpack(await self._reader.readexactly(HEAD.size))
            if size > BODY_BYTES_MAX:
                raise UndecodableError("crashed")
            return Kind(kind), await self._reader.readexactly(size)
        except (OSError, EOFError, ValueError):
            raise UndecodableError("crashed") from None

    def _split(self, pcm: bytes) -> list[bytes]:
        size, rest = divmod(len(pcm), self._n_channels)
        if rest or size % 2 or not size or not self.sample_rate_hz:
            raise UndecodableError("crashed")
        return [pcm[start : start + size] for start in range(0, len(pcm), size)]


def _read_number(body: bytes) -> int:
    return int.from_bytes(body, "little")


def _read_problem(body: bytes) -> Problem:
    text = body.decode(errors="replace")
    return cast(Problem, text) if text in get_args(Problem) else "crashed"
