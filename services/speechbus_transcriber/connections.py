"""Connections to providers: what `ConnectRequest` names, opened."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from speechbus_transcriber.driver import Connection, ConnectionEvents
from speechbus_transcriber.providers.interface import ConnectRequest, EngineConnect, InProcess
from speechbus_transcriber.providers.local_wire import FrameError, FrameReader, encode_frame

__all__ = ["EngineConnection", "ProviderConnections"]

SEND_BUFFER_BYTES_MAX: Final = 64 << 10
"""2 s of audio at 16 kHz: an engine that is further behind gets no more until it has caught up;
meanwhile the audio waits in AUDIO."""


class EngineConnection(asyncio.Protocol):
    """A session with an engine process over its Unix socket."""

    def __init__(self, events: ConnectionEvents) -> None:
        self._events = events
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def send(self, messages: Sequence[str | bytes]) -> None:
        """Queue messages in order; never blocks."""
        if self._transport is not None:
            self._transport.writelines([encode_frame(message) for message in messages])

    def close(self) -> None:
        """Close at once; what was not sent is dropped."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES_MAX)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            messages = self._reader.feed(data)
        except FrameError:
            self.close()
            self._events.receive_close()
            return
        for message in messages:
            self._events.receive_message(message)

    def pause_writing(self) -> None:
        """Called by asyncio."""
        self._events.set_congested(is_congested=True)

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._events.set_congested(is_congested=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        del exc
        if self._transport is not None:
            self._transport = None
            self._events.receive_close()


class ProviderConnections:
    """Opens connections for all streams of a worker.

    Args:
        engine_sockets: path of each engine's Unix socket, by engine name.
    """

    def __init__(self, engine_sockets: Mapping[str, Path]) -> None:
        self._engine_sockets = engine_sockets

    async def connect(self, request: ConnectRequest, events: ConnectionEvents) -> Connection:
        """Connect as the provider asks.

        Raises:
            OSError: nobody there.
        """
        match request:
            case EngineConnect(engine=engine):
                path = self._engine_sockets.get(engine)
                if path is None:
                    raise ConnectionError("this worker runs no such engine")
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_unix_connection(
                    lambda: EngineConnection(events), str(path)
                )
                return connection
            case InProcess():
                raise ConnectionError("this provider has nothing to connect to")
