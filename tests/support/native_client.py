"""A client of the native door that says what it is told, whether the door likes it or not."""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection, connect

from speechbus_contracts import (
    AnyEvent,
    ContractError,
    SegmentFinal,
    StreamClosed,
    decode_event,
)
from speechbus_runtime.bus import connect_bus
from tests.support.bus_log import BusLog, wait_until
from tests.support.system import Service, System

__all__ = ["PATIENCE_S", "NativeClient", "closed_of", "connect_native", "finals_of", "watch_bus"]

PATIENCE_S: Final = 60.0
"""Only a hang reaches it."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing a reset."""


class NativeClient:
    """One connection; attributes fill as messages are read."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.stream_id = ""
        self.messages: list[dict[str, Any]] = []
        """Everything read so far, of the bus and of the door."""
        self.events: list[AnyEvent] = []
        """Those of them that are events of the bus."""

    @property
    def finals(self) -> list[SegmentFinal]:
        """Finals read so far."""
        return [event for event in self.events if isinstance(event, SegmentFinal)]

    @property
    def closed(self) -> StreamClosed:
        """The stream's last event, which must have come."""
        last = self.events[-1]
        assert isinstance(last, StreamClosed), type(last).__name__
        return last

    async def open(self, **hello: object) -> dict[str, Any]:
        """Say hello and return the answer, which must be `ready`."""
        await self.say({"type": "hello", "format": "pcm_s16le", "sample_rate_hz": 16_000, **hello})
        ready = await self.hear()
        assert ready["type"] == "ready", ready
        self.stream_id = ready["stream_id"]
        return ready

    async def send(self, pcm: bytes) -> None:
        """Send one binary message."""
        await self.connection.send(pcm)

    async def say(self, message: object) -> None:
        """Send a text message, as JSON unless it is a text."""
        text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
        await self.connection.send(text)

    async def end(self) -> None:
        """Say that this was all, and read until the server closes."""
        await self.say({"type": "end"})
        await self.hear_rest()

    async def hear(self) -> dict[str, Any]:
        """Return the next message."""
        async with asyncio.timeout(PATIENCE_S):
            data = await self.connection.recv()
        assert isinstance(data, str)
        with suppress(ContractError):
            self.events.append(decode_event(data.encode()))
        message = msgspec.json.decode(data, type=dict[str, Any])
        self.messages.append(message)
        return message

    async def hear_until(self, kind: str) -> dict[str, Any]:
        """Return the next message of a type."""
        while (message := await self.hear())["type"] != kind:
            pass
        return message

    async def hear_rest(self) -> None:
        """Read until the server closes."""
        with suppress(websockets.ConnectionClosed):
            while True:
                await self.hear()

    async def answer(self) -> tuple[str, int | None]:
        """Read until the server closes; return the code of its error, and of its close."""
        await self.hear_rest()
        codes = [str(m["code"]) for m in self.messages if m["type"] == "error"]
        return codes[0] if codes else "", self.connection.close_code

    def cut(self, *, is_reset: bool) -> None:
        """Let the TCP connection end without a goodbye: with a FIN, or with a reset."""
        raw: socket.socket = self.connection.transport.get_extra_info("socket")
        if is_reset:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.connection.transport.abort()


@asynccontextmanager
async def connect_native(
    ingest: Service,
    key: str,
    *,
    token: str | None = None,
    traceparent: str = "",
    sock: socket.socket | None = None,
    is_reading: bool = True,
) -> AsyncGenerator[NativeClient]:
    """Connect without a hello; leaving the block closes the connection.

    Args:
        ingest: whose door.
        key: sent as `Authorization: Bearer`, unless empty.
        token: sent as `?token=`.
        traceparent: sent as the header of that name, unless empty.
        sock: a connected socket to use.
        is_reading: take what comes, also before it is asked for; else the server feels that nobody
            reads.
    """
    options: dict[str, Any] = {} if sock is None else {"sock": sock}
    async with connect(
        f"ws://127.0.0.1:{ingest.port}/v1/streams" + (f"?token={token}" if token else ""),
        additional_headers=[
            *([("Authorization", f"Bearer {key}")] if key else []),
            *([("traceparent", traceparent)] if traceparent else []),
        ],
        compression=None,
        proxy=None,
        max_size=None,
        max_queue=None if is_reading else 1,
        open_timeout=PATIENCE_S,
        **options,
    ) as connection:
        yield NativeClient(connection)


@asynccontextmanager
async def watch_bus(system: System) -> AsyncGenerator[BusLog]:
    """Keep every event of the transcript tree while the block runs."""
    bus = await connect_bus(system.nats.url, name="test-log")
    try:
        log = BusLog(bus)
        await bus.flush()
        yield log
    finally:
        await bus.shut_down()


async def closed_of(log: BusLog, stream_id: str) -> StreamClosed:
    """Wait until a stream has closed; return how."""

    def find() -> StreamClosed | None:
        return next((e for e in log.events[stream_id] if isinstance(e, StreamClosed)), None)

    await wait_until(lambda: find() is not None, within_s=PATIENCE_S)
    closed = find()
    assert closed is not None
    return closed


def finals_of(events: Sequence[AnyEvent]) -> list[SegmentFinal]:
    """Return the finals among events."""
    return [event for event in events if isinstance(event, SegmentFinal)]
