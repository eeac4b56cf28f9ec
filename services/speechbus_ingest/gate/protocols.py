"""uvicorn's protocols, held to limits that it does not have: on time, on what clients may pile up.

Found with uvicorn 0.54: no limit on the time that a request may take to arrive, none on WebSocket
connections (`limit_concurrency` looks at plain requests only), none on the parts of a message, none
on pongs that nobody reads; and tracebacks in the log over a text message that is no UTF-8.
"""

import asyncio
import logging
from collections import OrderedDict
from http import HTTPStatus
from typing import Any, Final, cast

import h11
from starlette.types import Scope
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame

from speechbus_ingest.gate.gatekeeper import Gatekeeper, Refusal

__all__ = ["Arrivals", "GuardedHttp", "GuardedWebSocket"]

REQUEST_WITHIN_S: Final = 10.0
"""From the first byte (or the connection) to the end of a request's body. Ours have 128 KiB at
most."""
ARRIVING_MAX: Final = 500
"""Connections at once whose request is not whole yet. A good one's is within a round trip."""
FRAGMENTS_MAX: Final = 4_096
"""Parts of one message. They may be empty, so that its size says nothing of them."""
UNREAD_BYTES_MAX: Final = 4 << 20
"""What may wait for a client that sends pings and reads nothing; events wait elsewhere."""

_quiet: Final = logging.getLogger("speechbus_ingest.http")
"""Errors only: whoever sends garbage must not be able to fill the log with warnings."""
_quiet.setLevel(logging.ERROR)


class Arrivals:
    """Connections whose request has not come yet; the oldest makes room for a newcomer.

    So nobody who opens connections and says nothing keeps the others out.
    """

    def __init__(self) -> None:
        self._arriving: OrderedDict[GuardedHttp, None] = OrderedDict()

    def add(self, connection: "GuardedHttp") -> None:
        """Take note of a connection; the one that waits for the longest may be closed."""
        self._arriving[connection] = None
        self._arriving.move_to_end(connection)
        if len(self._arriving) > ARRIVING_MAX:
            oldest, _ = self._arriving.popitem(last=False)
            oldest.give_up()

    def discard(self, connection: "GuardedHttp") -> None:
        """Forget a connection: its request is here, or it is gone."""
        self._arriving.pop(connection, None)


class GuardedHttp(H11Protocol):
    """One connection until its upgrade.

    Args:
        gatekeeper: sees each upgrade first.
        arrivals: of this server.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        gatekeeper: Gatekeeper,
        arrivals: Arrivals,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _quiet
        self._gatekeeper = gatekeeper
        self._arrivals = arrivals
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; from here on a request is due."""
        super().connection_made(transport)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request, or of the next one on the same connection."""
        super().data_received(data)
        if self._is_request_arriving():
            self._start_deadline()
        else:
            self._stop_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has gone, or this one has given up."""
        self._stop_deadline()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Close the connection of a request that does not come."""
        self._stop_deadline()
        if not self.transport.is_closing():
            self.transport.abort()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Let a client in, or send it away before anything is made for it."""
        self._stop_deadline()
        scope = cast("Scope", self.scope)
        scope["subprotocols"] = [
            part.strip()
            for name, value in self.headers
            if name == b"sec-websocket-protocol"
            for part in value.decode("latin-1").split(",")
        ]
        refusal = self._gatekeeper.check(scope, is_upgrade=True)
        if refusal is None and len(self.connections) > (self.limit_concurrency or 0):
            refusal = self._gatekeeper.refuse_for_want_of_room(scope)
        if refusal is not None:
            self._refuse(refusal)
            return
        super().handle_websocket_upgrade(event)
        protocol = self.transport.get_protocol()
        assert isinstance(protocol, GuardedWebSocket)
        protocol.enter(scope)

    def _refuse(self, refusal: Refusal) -> None:
        phrase = HTTPStatus(refusal.status).phrase.encode()
        lines = [b"HTTP/1.1 %d %s\r\n" % (refusal.status, phrase)]
        lines += [b"%s: %s\r\n" % header for header in refusal.headers]
        self.transport.write(b"".join([*lines, b"\r\n", refusal.body]))
        self.transport.close()

    def _is_request_arriving(self) -> bool:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return False
        state = self.conn.their_state
        if state is h11.IDLE:
            return bool(self.conn.trailing_data[0])
        return state is h11.SEND_BODY

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_WITHIN_S, self.give_up)
            self._arrivals.add(self)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self._arrivals.discard(self)


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """One connection from its upgrade on.

    Args:
        gatekeeper: is told who was refused.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        gatekeeper: Gatekeeper,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._gatekeeper = gatekeeper

    def enter(self, scope: Scope) -> None:
        """Take over what the gate has found out; the door's task has not run yet."""
        if self.handshake_initiated and not self.close_sent:
            self.scope["client"] = scope["client"]

    async def send(self, message: ASGISendEvent) -> None:
        """Send what a door says."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            # uvicorn takes an upgrade refused with a response of ours for a bug of ours: it would
            # log an error for each client with a wrong key.
            self.handshake_complete = True
            self._gatekeeper.note_refusal(cast("Scope", self.scope), self.initial_response[0])

    def handle_cont(self, event: Frame) -> None:
        """Take another part of a message."""
        if len(self.frames) >= FRAGMENTS_MAX:
            self._fail(CloseCode.MESSAGE_TOO_BIG)
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Hand a message on; as uvicorn's, which logs a traceback over bytes that are no text."""
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        else:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA)
                return
            self.queue.put_nowait({"type": "websocket.receive", "text": text})
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _fail(self, code: CloseCode) -> None:
        self.conn.fail(code)
        if self.conn.close_sent is None:  # nothing can be said any more
            self.transport.abort()
        else:
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        """Answer a ping, unless its sender reads nothing."""
        if self.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.transport.abort()
            return
        super().handle_ping()
