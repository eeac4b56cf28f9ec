"""uvicorn as a guest of the service: its socket, its settings, none of its signal handlers."""

import asyncio
import resource
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp

from speechbus_ingest.gate.gatekeeper import Gatekeeper
from speechbus_ingest.gate.protocols import ARRIVING_MAX, Arrivals, GuardedHttp, GuardedWebSocket
from speechbus_runtime.lifecycle import ListenError

__all__ = ["Server", "build_server", "listen"]

MESSAGE_BYTES_MAX: Final = 2 << 20
"""Kotoba's largest append, 1 MiB of audio as base64 in JSON, and room to refuse what is a little
larger by an error; still larger ones are closed with 1009."""
HEAD_BYTES_MAX: Final = 16 << 10
"""Of a request line and its headers; the largest of ours is a client secret with settings."""
PING_INTERVAL_S: Final = 5.0
PEER_LOST_MS: Final = 15_000
"""A client whose machine acknowledges nothing for this long is gone.

Left to TCP instead of waiting for pongs: while a stream waits for room its socket is not read, and
a pong would go unseen though the client is well.
"""
TLS_WITHIN_S: Final = 10
"""For a handshake; it costs a client two round trips."""
BACKLOG: Final = 1_024
SHUTDOWN_S: Final = 2
FILES_MAX: Final = 65_536
"""Connections, decoders' pipes; systems begin at 1,024, which fewer than 1,000 streams use up."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service's lifecycle owns signals.

    Args:
        config: uvicorn's.
        tls: of the one port; None: plain HTTP.
    """

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._tls = tls

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve; as uvicorn's, which has no limit on the time of a TLS handshake."""
        if self._tls is None:
            await super().startup(sockets)
            return
        loop = asyncio.get_running_loop()
        build = partial(
            cast("Any", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        self.servers = [
            await loop.create_server(
                build,
                sock=listener,
                ssl=self._tls,
                ssl_handshake_timeout=TLS_WITHIN_S,
                backlog=BACKLOG,
            )
            for listener in sockets or ()
        ]
        self.started = True


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


def build_server(
    app: ASGIApp,
    gatekeeper: Gatekeeper,
    *,
    connections_max: int,
    tls: ssl.SSLContext | None = None,
) -> Server:
    """Return a server for `app`; run it with `serve(sockets=[listen(…)])`."""
    _allow_files()
    config = uvicorn.Config(
        gatekeeper.guard(app),
        loop="none",
        http=cast("Any", partial(GuardedHttp, gatekeeper=gatekeeper, arrivals=Arrivals())),
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        ws=cast("Any", partial(GuardedWebSocket, gatekeeper=gatekeeper)),
        ws_max_size=MESSAGE_BYTES_MAX,
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=None,
        # Audio does not compress, it costs 300 kB a connection, and bombs come this way.
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,  # paths may hold a token
        proxy_headers=False,  # the gatekeeper reads them; uvicorn would trust this machine
        server_header=False,
        limit_concurrency=connections_max + ARRIVING_MAX,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    return Server(config, tls)


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
