"""Connections to providers: what `ConnectRequest` names, opened."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import httpx

from speechbus_transcriber.driver import Connection, ConnectionEvents
from speechbus_transcriber.providers.interface import (
    EngineConnect,
    HttpExchange,
    HttpResponse,
    WebSocketConnect,
)
from speechbus_transcriber.providers.local_wire import FrameError, FrameReader, encode_frame
from speechbus_transcriber.tls import tls_context
from speechbus_transcriber.websocket_connection import (
    BODY_BYTES_MAX,
    SEND_BUFFER_BYTES_MAX,
    connect_websocket,
)

__all__ = ["EngineConnection", "ProviderConnections"]

HTTP_TIMEOUT_S: Final = 5.0
"""Half of what a session's opening may take: one answer can be slow."""
FAREWELL_TIMEOUT_S: Final = 2.0
"""What a stop may wait for parting words."""
PARTING_MAX: Final = 256
"""Parting requests on their way: more would be a burst of ended sessions that nobody needs told
one by one; providers forget silent sessions by themselves."""

# It logs each request's URL, which names sessions.
logging.getLogger("httpx").setLevel(logging.WARNING)


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
            self._events.receive_close(None)
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
            self._events.receive_close(None)
        self._events.receive_end()


class ProviderConnections:
    """Opens connections for all streams of a worker; a context manager, left when all have ended.

    Args:
        engine_sockets: path of each engine's Unix socket, by engine name.
    """

    def __init__(self, engine_sockets: Mapping[str, Path]) -> None:
        self._engine_sockets = engine_sockets
        self._http: httpx.AsyncClient | None = None
        self._parting = asyncio.TaskGroup()
        self._n_parting = 0

    async def __aenter__(self) -> Self:
        await self._parting.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._parting.__aexit__(kind, error, traceback)
        if self._http is not None:
            await self._http.aclose()

    async def connect(
        self, request: EngineConnect | WebSocketConnect, events: ConnectionEvents
    ) -> Connection:
        """Connect as the provider asks.

        Raises:
            OSError: nobody there.
            UpgradeRefusedError: the upgrade was answered with another status.
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
            case WebSocketConnect():
                return await connect_websocket(request, events)

    async def exchange(self, request: HttpExchange) -> HttpResponse:
        """Ask over HTTP.

        Raises:
            OSError: nobody there, or no whole answer in time.
        """
        if self._http is None:
            self._http = httpx.AsyncClient(
                timeout=HTTP_TIMEOUT_S,
                follow_redirects=False,
                trust_env=False,
                verify=tls_context(),
            )
        try:
            async with self._http.stream(
                request.method, request.url, headers=request.headers, content=request.body
            ) as response:
                body = b""
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > BODY_BYTES_MAX:
                        break
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            # Without its text, which may quote the request.
            raise ConnectionError("no answer over HTTP") from None
        retry_after = response.headers.get("retry-after", "")
        return HttpResponse(
            status=response.status_code,
            body=body[:BODY_BYTES_MAX],
            retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
        )

    def part(self, requests: Sequence[HttpExchange]) -> None:
        """Ask over HTTP in the background, for a limited time; nobody wants the answers."""
        if self._n_parting < PARTING_MAX:
            self._n_parting += 1
            self._parting.create_task(self._bid_farewell(requests), name="farewell")

    async def _bid_farewell(self, requests: Sequence[HttpExchange]) -> None:
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                    for request in requests:
                        await self.exchange(request)
        finally:
            self._n_parting -= 1
