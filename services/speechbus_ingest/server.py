"""uvicorn as a guest of the service: its socket, its settings, none of its signal handlers."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from speechbus_runtime.lifecycle import ListenError

__all__ = ["Server", "build_server", "listen"]

MESSAGE_BYTES_MAX: Final = 2 << 20
"""Kotoba's largest append, 1 MiB of audio as base64 in JSON, and room to refuse what is a little
larger by an error; still larger ones are closed with 1009."""
PING_INTERVAL_S: Final = 5.0
PEER_LOST_MS: Final = 15_000
"""A client whose machine acknowledges nothing for this long is gone.

Left to TCP instead of waiting for pongs: while a stream waits for room its socket is not read, and
a pong would go unseen though the client is well.
"""
BACKLOG: Final = 1_024
SHUTDOWN_S: Final = 2


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service's lifecycle owns signals."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, which takes an upgrade refused with a response of ours for a bug of ours.

    It would log an error for each client with a wrong key.
    """

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True


def listen(host: str, port: int) -> socket.socket:
    """Open the one port.

    Raises:
        ListenError: taken, or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ListenError(host, port, error, setting="SPEECHBUS_INGEST_LISTEN_PORT") from None
    # Accepted sockets inherit both.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_LOST_MS)
    return listener


def build_server(app: ASGIApp, *, connections_max: int) -> Server:
    """Return a server for `app`; run it with `serve(sockets=[listen(…)])`."""
    config = uvicorn.Config(
        app,
        loop="none",
        ws=_WebSocketProtocol,
        ws_max_size=MESSAGE_BYTES_MAX,
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,  # audio does not compress, and it costs 300 kB a connection
        lifespan="off",
        log_config=None,
        access_log=False,  # paths may hold a token
        server_header=False,
        limit_concurrency=connections_max,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    return Server(config)
