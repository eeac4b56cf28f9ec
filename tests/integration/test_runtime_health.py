"""The health server over real sockets."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import uvloop

from speechbus_runtime import health as health_module
from speechbus_runtime import health_server
from speechbus_runtime.health import Health
from speechbus_runtime.health_server import serve_health
from speechbus_runtime.telemetry import Telemetry


@pytest.fixture(autouse=True)
def patient_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no pause of the machine that runs the tests count as a blocked loop."""
    monkeypatch.setattr(health_module, "LAG_MAX_S", 60.0)


def serving(health: Health, check: Callable[[int], Awaitable[None]]) -> None:
    """Run `check` with the port of a health server, on the loop that services use."""

    async def run() -> None:
        async with (
            serve_health(health, Telemetry("pool"), host="127.0.0.1", port=0) as port,
            asyncio.timeout(20),
        ):
            await check(port)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def exchange(port: int, request: bytes) -> tuple[str, str]:
    """Send a request; return the status line and the body, once the server has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return head.partition("\r\n")[0], body


def test_probes_are_answered() -> None:
    """The status code is what an orchestrator acts on; the body is for people."""
    health = Health("pool")

    async def check(port: int) -> None:
        live = await exchange(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        ready = await exchange(port, b"GET /readyz?verbose HTTP/1.0\r\n\r\n")
        health.mark_serving()
        ready_later = await exchange(port, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")

        assert live == (
            "HTTP/1.1 200 OK",
            '{"service":"pool","phase":"starting","failing":[]}',
        )
        assert ready == (
            "HTTP/1.1 503 Service Unavailable",
            '{"service":"pool","phase":"starting",'
            '"failing":[{"name":"phase","reason":"starting"}]}',
        )
        assert ready_later[0] == "HTTP/1.1 200 OK"

    serving(health, check)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        (b"GET /healthz HTTP/9\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"\xff\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"GET /healthz HTTP/1.1\r\nX: %b" % (b"x" * 500_000), "HTTP/1.1 431 Request Header"),
        (b"GET /healthz HTTP/1.1\r\n\r\n%b" % (b"x" * 500_000), "HTTP/1.1 200 OK"),
    ],
    ids=["path", "method", "version", "noise", "long head", "body"],
)
def test_other_requests_get_an_answer_too(request_bytes: bytes, status: str) -> None:
    """The port may be reachable by others; nothing they send stops the probes."""

    async def check(port: int) -> None:
        assert (await exchange(port, request_bytes))[0].startswith(status)
        assert (await exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK"

    serving(Health("pool"), check)


def test_a_request_in_pieces_is_answered() -> None:
    """TCP keeps bytes in order, not together."""

    async def check(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (b"GET /hea", b"lthz HTTP/1.1\r", b"\n\r", b"\n"):
            writer.write(piece)
            await writer.drain()

        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"

        writer.close()

    serving(Health("pool"), check)


def test_a_silent_client_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that ask nothing must not add up."""
    monkeypatch.setattr(health_server, "CONNECTION_S_MAX", 0.05)

    async def check(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        answer = b""
        with suppress(ConnectionError):  # As good as a plain end of the connection.
            answer = await reader.read()

        assert answer == b""

        writer.close()

    serving(Health("pool"), check)


def test_connections_beyond_the_limit_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of connections costs a bounded amount of memory."""
    monkeypatch.setattr(health_server, "CONNECTIONS_MAX", 1)

    async def check(port: int) -> None:
        _, first = await asyncio.open_connection("127.0.0.1", port)
        first.write(b"GET")
        await first.drain()
        answer = ("", "")
        with suppress(ConnectionError):
            answer = await exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n")

        assert answer == ("", "")

        first.close()
        await first.wait_closed()

    serving(Health("pool"), check)


def test_a_blocked_event_loop_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that hangs for seconds delays all its streams; somebody must see it."""
    monkeypatch.setattr(health_module, "LAG_MAX_S", 0.05)
    health = Health("pool")

    async def check(port: int) -> None:
        time.sleep(2 * health_module.LAG_SAMPLE_S)  # noqa: ASYNC251 - this is the fault under test
        status, body = await exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n")

        assert status == "HTTP/1.1 503 Service Unavailable"
        assert '"name":"event_loop"' in body

    serving(health, check)


def test_the_port_is_free_after_the_block() -> None:
    """A restart binds the same port."""
    clients: list[socket.socket] = []

    async def check(port: int) -> None:
        clients.append(socket.create_connection(("127.0.0.1", port)))
        # Answered after the connection above was accepted.
        await exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n")

    serving(Health("pool"), check)
    port = clients[0].getpeername()[1]

    async def bind_again() -> int:
        async with serve_health(
            Health("pool"), Telemetry("pool"), host="127.0.0.1", port=port
        ) as bound:
            return bound

    with clients[0]:
        assert asyncio.run(bind_again()) == port
