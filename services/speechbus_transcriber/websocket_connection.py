"""A WebSocket to a provider, below the library's tasks and queues: messages are plain calls."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from speechbus_transcriber.driver import ConnectionEvents, UpgradeRefusedError
from speechbus_transcriber.providers.interface import HttpResponse, WebSocketConnect
from speechbus_transcriber.tls import tls_context

__all__ = [
    "BODY_BYTES_MAX",
    "PING_INTERVAL_S",
    "PONG_TIMEOUT_S",
    "SEND_BUFFER_BYTES_MAX",
    "WebSocketConnection",
    "connect_websocket",
]

PING_INTERVAL_S: Final = 2.0
PONG_TIMEOUT_S: Final = 3.0
"""With the interval: a half-open connection is noticed within 5 s (design section 5)."""
SEND_BUFFER_BYTES_MAX: Final = 64 << 10
"""2 s of audio at 16 kHz: a peer that is further behind gets no more until it has caught up;
meanwhile the audio waits in AUDIO."""
MESSAGE_BYTES_MAX: Final = 1 << 20
"""A provider's message holds a segment's text: some kilobytes."""
BODY_BYTES_MAX: Final = 64 << 10
CLOSE_TIMEOUT_S: Final = 1.0
"""For the peer to say goodbye, too: until then it may count the session; a half-open one never
does."""
_NORMAL: Final = 1000

# The library logs headers and URLs, which hold keys, at level DEBUG.
_silent = logging.getLogger(f"{__name__}.library")
_silent.disabled = True


async def connect_websocket(
    request: WebSocketConnect,
    events: ConnectionEvents,
    *,
    ping_interval_s: float = PING_INTERVAL_S,
    pong_timeout_s: float = PONG_TIMEOUT_S,
) -> "WebSocketConnection":
    """Open a WebSocket; it reports to `events` once the caller has had its turn.

    Raises:
        OSError: nobody there, or somebody who speaks no WebSocket.
        UpgradeRefusedError: the upgrade was answered with another status.
    """
    try:
        uri = parse_uri(request.url)
    except InvalidURI:
        raise ConnectionError("the URL is no ws:// or wss:// address") from None
    loop = asyncio.get_running_loop()
    connection = WebSocketConnection(
        request, events, ping_interval_s=ping_interval_s, pong_timeout_s=pong_timeout_s
    )
    try:
        await loop.create_connection(
            lambda: connection, uri.host, uri.port, ssl=tls_context() if uri.secure else None
        )
        await connection.opened
    except BaseException:
        connection.abort()
        raise
    return connection


class WebSocketConnection(asyncio.Protocol):
    """An open WebSocket; see `connect_websocket`.

    Attributes:
        opened: done when the upgrade is through, or with why it is not.
    """

    def __init__(
        self,
        request: WebSocketConnect,
        events: ConnectionEvents,
        *,
        ping_interval_s: float,
        pong_timeout_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._request = request
        self._events = events
        self._ping_interval_s = ping_interval_s
        self._pong_timeout_s = pong_timeout_s
        self._protocol = ClientProtocol(
            parse_uri(request.url),
            subprotocols=[Subprotocol(name) for name in request.subprotocols] or None,
            max_size=MESSAGE_BYTES_MAX,
            logger=_silent,
        )
        self._transport: asyncio.Transport | None = None
        self._closing: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at_s = 0.0
        self._is_begun = False
        self._parts: list[bytes] = []
        self._is_text = False

    # --- what the driver calls -----------------------------------------------------------------

    def send(self, messages: Sequence[str | bytes]) -> None:
        """Queue messages in order; never blocks."""
        if self._transport is None or self._protocol.state is not State.OPEN:
            return
        for message in messages:
            if isinstance(message, str):
                self._protocol.send_text(message.encode())
            else:
                self._protocol.send_binary(message)
        self._write()

    def close(self) -> None:
        """Say goodbye and close; no event follows but the last."""
        transport = self._forget()
        if transport is None:
            return
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(_NORMAL)
            transport.write(b"".join(self._protocol.data_to_send()))
            self._loop.call_later(CLOSE_TIMEOUT_S, transport.abort)
            self._closing = transport
        else:
            transport.abort()

    def abort(self) -> None:
        """Close without a goodbye; no event follows but the last."""
        transport = self._forget()
        if transport is not None:
            transport.abort()
        if not self.opened.done():
            self.opened.cancel()

    # --- what asyncio calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES_MAX)
        request = self._protocol.connect()
        for name, value in self._request.headers:
            request.headers[name] = value
        self._protocol.send_request(request)
        self._write()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._heard_at_s = self._loop.time()
        self._protocol.receive_data(data)
        self._handle_events()
        if self._closing is not None and self._protocol.close_rcvd is not None:
            self._closing.close()

    def eof_received(self) -> None:
        """Called by asyncio."""
        self._protocol.receive_eof()
        self._handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        del exc
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed during the upgrade"))
            return
        if self._is_begun:
            self._end()
        # Else `_begin` finds the transport closing and ends it.
        self._events.receive_end()

    def pause_writing(self) -> None:
        """Called by asyncio."""
        if self._transport is not None:
            self._events.set_congested(is_congested=True)

    def resume_writing(self) -> None:
        """Called by asyncio."""
        if self._transport is not None:
            self._events.set_congested(is_congested=False)

    # --- inside --------------------------------------------------------------------------------

    def _handle_events(self) -> None:
        self._write()
        if not self.opened.done():
            self._finish_upgrade()
        elif self._is_begun:
            self._deliver()

    def _finish_upgrade(self) -> None:
        error = self._protocol.handshake_exc
        if error is not None:
            self.opened.set_exception(_explain(error))
        elif self._protocol.state is not State.CONNECTING:
            # It may be closed again already: the word before that is still to be delivered.
            self.opened.set_result(None)
            # Behind the turn of whoever awaits `opened`, who has to send the opening first.
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._is_begun = True
        transport = self._transport
        if transport is None:
            return
        self._timer = self._loop.call_later(self._ping_interval_s, self._ping)
        self._deliver()
        if transport.is_closing():
            self._end()  # no effect when the last message has ended it

    def _deliver(self) -> None:
        for event in self._protocol.events_received():
            if self._transport is None:
                return  # the message before has ended the session
            if isinstance(event, Frame):
                self._take(event)

    def _take(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY | Opcode.CONT:
                if frame.opcode is not Opcode.CONT:
                    self._is_text = frame.opcode is Opcode.TEXT
                self._parts.append(bytes(frame.data))
                if frame.fin:
                    message = b"".join(self._parts)
                    self._parts = []
                    self._events.receive_message(
                        message.decode(errors="replace") if self._is_text else message
                    )
            case Opcode.CLOSE:
                self._end()
            case _:
                pass  # pings are answered by the library, pongs are signs of life like all bytes

    def _end(self) -> None:
        transport = self._forget()
        if transport is None:
            return
        transport.close()
        self._loop.call_later(CLOSE_TIMEOUT_S, transport.abort)
        code = self._protocol.close_rcvd.code if self._protocol.close_rcvd is not None else None
        self._events.receive_close(code)

    def _forget(self) -> asyncio.Transport | None:
        transport, self._transport = self._transport, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return transport

    def _ping(self) -> None:
        if self._protocol.state is not State.OPEN:
            self._end()
            return
        self._protocol.send_ping(b"")
        self._write()
        self._timer = self._loop.call_later(self._pong_timeout_s, self._check, self._loop.time())

    def _check(self, asked_at_s: float) -> None:
        if self._heard_at_s >= asked_at_s:
            self._timer = self._loop.call_later(self._ping_interval_s, self._ping)
        elif self._transport is not None:
            self._transport.abort()
            self._end()

    def _write(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data and self._transport is not None:
            self._transport.write(data)


def _explain(error: Exception) -> Exception:
    if isinstance(error, InvalidStatus):
        response: Response = error.response
        retry_after = response.headers.get("Retry-After", "")
        return UpgradeRefusedError(
            HttpResponse(
                status=response.status_code,
                body=bytes(response.body[:BODY_BYTES_MAX]),
                retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
            )
        )
    kind = "handshake" if isinstance(error, InvalidHandshake) else "answer"
    return ConnectionError(f"no valid WebSocket {kind}")
