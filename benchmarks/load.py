"""Load: many live streams of frame-numbered audio over the native door, in one lean process.

Speaks just enough WebSocket by itself: masking with a zero key leaves the payload as it is, so a
chunk is framed once for all streams and the generator costs little beside what it measures. Prints
one JSON line: latencies in ms from sending the last sample of a final to receiving that final, and
how many streams tiled exactly.
"""

import argparse
import asyncio
import struct
import sys
import time
from typing import Final, cast

import msgspec
import uvloop

from speechbus_contracts import ContractError, SegmentFinal, StreamClosed, decode_event
from tests.support.frame_numbers import FRAME_MS, build_frames, check_tiling

__all__ = ["LoadReport", "main"]

FINAL_EVERY_MS: Final = 3_000
_BINARY: Final = 0x82
_TEXT: Final = 0x81
_CLOSE: Final = 0x88
_MASKED: Final = 0x80
_ZERO_MASK: Final = bytes(4)


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the load generator saw."""

    streams: int
    exact: int
    """Streams whose finals tile their audio exactly."""
    finals: int
    latency_ms: list[float]
    """One for each final after the warm-up, sorted."""
    late_ms_max: float
    """How far the generator itself fell behind its schedule."""


def frame_message(opcode: int, payload: bytes) -> bytes:
    """Return a masked client frame whose mask is zero."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", opcode, _MASKED | size)
    else:
        head = struct.pack("!BBH", opcode, _MASKED | 126, size)
    return head + _ZERO_MASK + payload


class _Client(asyncio.Protocol):
    """One stream."""

    def __init__(self, key: str, rate_hz: int) -> None:
        self._key = key
        self._rate_hz = rate_hz
        self._buffer = bytearray()
        self._is_upgraded = False
        self._transport: asyncio.WriteTransport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.finals: list[SegmentFinal] = []
        self.received_at_s: list[float] = []
        self.sent_at_s: dict[int, float] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports are none of asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.write(
            b"GET /v1/streams HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Authorization: Bearer " + self._key.encode() + b"\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_upgraded:
            head, separator, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionError("no upgrade")
            self._is_upgraded = True
            self._buffer = bytearray(rest)
            hello = {"type": "hello", "format": "pcm_s16le", "sample_rate_hz": self._rate_hz}
            self.write(frame_message(_TEXT, msgspec.json.encode({**hello, "providers": ["echo"]})))
        self._read_frames()

    def _read_frames(self) -> None:
        buffer = self._buffer
        while len(buffer) >= 2:
            size, start = buffer[1] & 0x7F, 2
            if size == 126:
                if len(buffer) < 4:
                    return
                size, start = int.from_bytes(buffer[2:4]), 4
            elif size == 127:
                if len(buffer) < 10:
                    return
                size, start = int.from_bytes(buffer[2:10]), 10
            if len(buffer) < start + size:
                return
            self._take(buffer[0], bytes(buffer[start : start + size]))
            del buffer[: start + size]

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == 0x89:  # ping
            self.write(frame_message(0x8A, payload))
        elif opcode == _TEXT:
            if payload.startswith(b'{"type":"ready"'):
                self.ready.set_result(None)
            elif payload.startswith((b'{"type":"segment.final"', b'{"type":"stream.closed"')):
                self._take_event(payload)
        elif opcode == _CLOSE and not self.closed.done():
            self.closed.set_result(None)

    def _take_event(self, payload: bytes) -> None:
        try:
            event = decode_event(payload)
        except ContractError:
            return
        if isinstance(event, SegmentFinal):
            self.finals.append(event)
            self.received_at_s.append(time.perf_counter())
        elif isinstance(event, StreamClosed) and not self.closed.done():
            self.closed.set_result(None)

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        for future in (self.ready, self.closed):
            if not future.done():
                future.set_exception(ConnectionError("the server closed the connection"))


async def _run(arguments: argparse.Namespace) -> LoadReport:
    loop = asyncio.get_running_loop()
    rate_hz, chunk_ms = arguments.rate, arguments.chunk_ms
    n_streams, seconds = arguments.streams, arguments.seconds
    n_chunks = seconds * 1000 // chunk_ms
    frames_per_chunk = chunk_ms // FRAME_MS
    messages = [
        frame_message(
            _BINARY,
            build_frames(1 + chunk * frames_per_chunk, frames_per_chunk, sample_rate_hz=rate_hz),
        )
        for chunk in range(n_chunks)
    ]
    clients: list[_Client] = []
    for _ in range(n_streams):
        _, client = await loop.create_connection(
            lambda: _Client(arguments.key, rate_hz), arguments.host, arguments.port
        )
        await client.ready
        clients.append(client)
    # Evenly spread over a chunk's length, as independent clients are.
    start_s = loop.time() + 0.2
    late_s = 0.0
    period_s = chunk_ms / 1000
    for chunk, message in enumerate(messages):
        for number, client in enumerate(clients):
            due_s = start_s + (chunk + number / n_streams) * period_s
            wait_s = due_s - loop.time()
            if wait_s > 0.002:
                await asyncio.sleep(wait_s)
            else:
                late_s = max(late_s, -wait_s)
            client.sent_at_s[(chunk + 1) * chunk_ms] = time.perf_counter()
            client.write(message)
    for client in clients:
        client.write(frame_message(_TEXT, b'{"type":"end"}'))
    async with asyncio.timeout(30):
        for client in clients:
            await client.closed
    n_frames = n_chunks * frames_per_chunk
    latencies: list[float] = []
    exact = 0
    for client in clients:
        tiling = check_tiling(client.finals, n_frames)
        exact += tiling.missing == 0 and tiling.doubled == 0 and tiling.time_error_ms_max == 0
        for final, received_at_s in zip(client.finals, client.received_at_s, strict=True):
            sent_at_s = client.sent_at_s.get(-(-final.end_ms // chunk_ms) * chunk_ms)
            if sent_at_s is not None and final.start_ms >= arguments.warm_s * 1000:
                latencies.append((received_at_s - sent_at_s) * 1000)
    return LoadReport(
        streams=n_streams,
        exact=exact,
        finals=sum(len(client.finals) for client in clients),
        latency_ms=sorted(latencies),
        late_ms_max=late_s * 1000,
    )


def main() -> None:
    """Run from the command line; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=24, help="audio of each stream")
    parser.add_argument("--warm-s", type=int, default=6)
    parser.add_argument("--chunk-ms", type=int, default=100)
    parser.add_argument("--rate", type=int, default=16_000)
    arguments = parser.parse_args()
    report = uvloop.run(_run(arguments))
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


if __name__ == "__main__":
    main()
