"""The answers to health probes and to Prometheus over HTTP/1.1, without a web framework.

→ GET /healthz HTTP/1.1
← 200 or 503, JSON, connection closed
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, cast

from speechbus_runtime.health import Health, watch_event_loop
from speechbus_runtime.lifecycle import ListenError
from speechbus_runtime.telemetry import METRICS_TYPE, Telemetry

__all__ = ["serve_health"]

JSON: Final = "application/json"
HEAD_BYTES_MAX: Final = 8_192
"""Probes send some 150 bytes; a service mesh adds headers of its own."""
CONNECTION_S_MAX: Final = 2.0
"""From accept to close; the kubelet itself gives up after 1 s by default."""
CONNECTIONS_MAX: Final = 16
"""Two probes and a person's browser need three; whoever comes beyond is cut off."""


@asynccontextmanager
async def serve_health(
    health: Health, telemetry: Telemetry, *, host: str, port: int
) -> AsyncGenerator[int]:
    """Answer `GET` of `/healthz`, `/readyz` and `/metrics`, and watch the event loop, meanwhile.

    Args:
        health: what to answer probes from.
        telemetry: what to answer Prometheus from.
        host: address to bind.
        port: 0 chooses a free one.

    Yields:
        The bound port.

    Raises:
        ListenError: the address cannot be bound.
    """
    telemetry.observe_ready(lambda: not health.ready_report().failing)
    loop = asyncio.get_running_loop()
    connections: set[_Connection] = set()
    try:
        server = await loop.create_server(
            lambda: _Connection(health, telemetry, connections), host, port
        )
    except OSError as error:
        raise ListenError(host, port, error, setting="another HEALTH_PORT") from None
    try:
        with watch_event_loop(health):
            yield cast("int", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for connection in list(connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    """One request, one answer. A protocol, not streams: those would start a task each."""

    def __init__(
        self, health: Health, telemetry: Telemetry, connections: "set[_Connection]"
    ) -> None:
        self._health = health
        self._telemetry = telemetry
        self._connections = connections
        self._head = bytearray()
        self._has_answered = False
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._connections) >= CONNECTIONS_MAX:
            self._transport.abort()
            return
        self._connections.add(self)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(CONNECTION_S_MAX, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._has_answered:
            # Read and dropped: closing with unread bytes would reset the connection, and the
            # client would lose the answer.
            return
        self._head += data
        if b"\r\n\r\n" in self._head[:HEAD_BYTES_MAX]:
            request_line = bytes(self._head).partition(b"\r\n")[0]
            self._answer(*_answer(self._health, self._telemetry, request_line))
        elif len(self._head) >= HEAD_BYTES_MAX:
            self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"{}", JSON)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        assert self._transport is not None
        self._has_answered = True
        self._head.clear()
        allow = "Allow: GET\r\n" if status == HTTPStatus.METHOD_NOT_ALLOWED else ""
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n{allow}"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        self._transport.write_eof()


def _answer(
    health: Health, telemetry: Telemetry, request_line: bytes
) -> tuple[HTTPStatus, bytes, str]:
    match request_line.split(b" "):
        case [method, target, b"HTTP/1.1" | b"HTTP/1.0"]:
            path = target.partition(b"?")[0]
        case _:
            return HTTPStatus.BAD_REQUEST, b"{}", JSON
    if path not in {b"/healthz", b"/readyz", b"/metrics"}:
        return HTTPStatus.NOT_FOUND, b"{}", JSON
    if method != b"GET":
        return HTTPStatus.METHOD_NOT_ALLOWED, b"{}", JSON
    if path == b"/metrics":
        return HTTPStatus.OK, telemetry.render(), METRICS_TYPE
    report = health.live_report() if path == b"/healthz" else health.ready_report()
    return HTTPStatus(report.status_code), report.encode(), JSON
