"""The one port against clients that are slow, endless or strange: a real server, real sockets."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.frames import Frame, Opcode

from speechbus_ingest import server as server_module
from speechbus_ingest.gate import protocols
from speechbus_ingest.gate.addresses import Proxies
from speechbus_ingest.gate.failures import AuthenticationFailures
from speechbus_ingest.gate.gatekeeper import Gatekeeper
from speechbus_ingest.gate.origins import Origins
from speechbus_ingest.gate.tls import Certificate, CertificateError
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.server import Server, build_server, listen
from speechbus_ingest.token_secrets import TokenSecrets
from tests.support.bus_log import wait_until
from tests.support.raw_websocket import RawWebSocket, text_frame

CERTIFICATES: Final = Path(__file__).parents[1] / "support" / "certificates"
UPGRADE: Final = (
    b"GET /socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
PLAIN: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
WITHIN_S: Final = 30.0


async def answer(request: Request) -> Response:
    return Response(str(len(await request.body())))


async def read_on(socket: WebSocket) -> None:
    await socket.accept()
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def refuse(socket: WebSocket) -> None:
    await socket.send_denial_response(Response("no", 401))


@asynccontextmanager
async def serve(
    *, tls: ssl.SSLContext | None = None, failures_max: int = 100, origins: tuple[str, ...] = ("*",)
) -> AsyncGenerator[tuple[Server, int]]:
    """A server with the gate before two doors."""
    loop = asyncio.get_running_loop()
    gatekeeper = Gatekeeper(
        KeyRing([("acme", "good")]),
        TokenSecrets(b"secret"),
        failures=AuthenticationFailures(failures_max),
        proxies=Proxies([]),
        origins=Origins(origins),
        is_rebindable=False,
        now_s=loop.time,
        count_refusal=lambda _status: None,
    )
    app = Starlette(
        routes=[
            Route("/", answer, methods=["GET", "POST"]),
            WebSocketRoute("/socket", read_on),
            WebSocketRoute("/closed", refuse),
        ]
    )
    listener = listen("127.0.0.1", 0)
    server = build_server(app, gatekeeper, connections_max=100, tls=tls)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[listener]))
        await wait_until(lambda: server.started)
        yield server, listener.getsockname()[1]
        server.should_exit = True
        await serving


async def ask(port: int, request: bytes, *, tls: ssl.SSLContext | None = None) -> bytes:
    """Send bytes and return the answer up to the end of the connection, or of its first read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    writer.write(request)
    async with asyncio.timeout(WITHIN_S):
        received = await reader.read(65_536)
    writer.close()
    return received


async def trickle(port: int, start: bytes) -> bytes:
    """Send the start of a request, then a byte again and again; return what comes until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(start)
    received = b""
    try:
        async with asyncio.timeout(WITHIN_S):
            while True:
                writer.write(b"x")
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        piece = await reader.read(65_536)
                        received += piece
                        if not piece:
                            return received
    except ConnectionError:
        return received
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test to its end."""

    async def bounded() -> None:
        async with asyncio.timeout(2 * WITHIN_S):
            await test()

    asyncio.run(bounded())


@pytest.mark.parametrize(
    ("start", "answered"),
    [
        (b"", False),  # says nothing of its own
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ", False),
        (UPGRADE + b"X-A: ", False),
        (POST, False),  # a body that does not come to its end
        (PLAIN + b"GET / HTTP/1.1\r\nX-A: ", True),  # the second one of a connection
    ],
)
def test_a_request_that_does_not_arrive_is_given_up(
    start: bytes,
    answered: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many bytes it sends: uvicorn alone would wait for ever."""
    monkeypatch.setattr(protocols, "REQUEST_WITHIN_S", 0.3)
    if start == POST:
        start = POST.replace(b"10", b"100000")

    async def test() -> None:
        async with serve() as (server, port):
            received = await trickle(port, start)
            assert (b"200 OK" in received) is answered
            await wait_until(lambda: not server.server_state.connections)

    run(test)


def test_slow_connections_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest ones go, so that 200 of them hold 20 places and keep nobody out."""
    monkeypatch.setattr(protocols, "ARRIVING_MAX", 20)

    async def test() -> None:
        async with serve() as (server, port):
            writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(200)]
            for writer in writers:
                writer.write(b"GET / HT")
            for _ in range(5):
                assert b"200 OK" in await ask(port, PLAIN)
                assert b"101 Switching" in await ask(port, UPGRADE + b"\r\n")
            assert len(server.server_state.connections) <= 30
            for writer in writers:
                writer.close()

    run(test)


def test_connections_have_a_number() -> None:
    """WebSockets, too, which uvicorn does not count; who comes later is told when to try again."""

    async def test() -> None:
        async with serve() as (server, port):
            assert server.config.limit_concurrency is not None
            server.config.limit_concurrency = 3
            clients = [
                await RawWebSocket.connect(f"ws://127.0.0.1:{port}/socket", {}) for _ in range(3)
            ]
            refused = await ask(port, UPGRADE + b"\r\n")
            assert b" 503 " in refused
            assert b"\r\nretry-after: 5\r\n" in refused
            clients[0].writer.transport.abort()
            await wait_until(lambda: len(server.server_state.connections) < 3)
            assert b" 101 " in await ask(port, UPGRADE + b"\r\n")
            for client in clients:
                client.writer.transport.abort()

    run(test)


def test_a_head_has_a_size() -> None:
    """16 KiB, as one header, as many, and as a long path."""

    async def test() -> None:
        async with serve() as (_, port):
            for request in (
                b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 100_000,
                b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 50_000,
                b"GET /" + b"a" * 100_000,
            ):
                assert b"400 Bad Request" in await ask(port, request)
            assert b"200 OK" in await ask(port, PLAIN)

    run(test)


def test_nothing_is_decompressed() -> None:
    """A bomb of a thousand times its size would need permessage-deflate."""

    async def test() -> None:
        async with serve() as (_, port):
            offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
            received = await ask(port, UPGRADE + offer)
            assert b"101 Switching" in received
            assert b"extensions" not in received.lower()

    run(test)


def test_a_message_of_endless_parts_is_closed() -> None:
    """Empty ones count for nothing in its size, and each would be kept."""

    async def test() -> None:
        async with serve() as (server, port):
            client = await RawWebSocket.connect(f"ws://127.0.0.1:{port}/socket", {})
            client.send(Frame(Opcode.BINARY, b"", fin=False))
            for _ in range(protocols.FRAGMENTS_MAX + 1):
                client.send(Frame(Opcode.CONT, b"", fin=False))
            await client.writer.drain()
            await wait_until(lambda: not server.server_state.connections)
            client.writer.close()

    run(test)


def test_a_text_that_is_none_is_closed_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1007, as the protocol wants; it is the client's mistake, and may be speech."""

    async def test() -> None:
        async with serve() as (server, port):
            for frames in (
                [Frame(Opcode.TEXT, b"caf\xe9")],
                [Frame(Opcode.TEXT, b"\xff"), Frame(Opcode.TEXT, b"\xff")],
                [Frame(Opcode.TEXT, b"\xc3", fin=False), Frame(Opcode.CONT, b"x")],
            ):
                client = await RawWebSocket.connect(f"ws://127.0.0.1:{port}/socket", {})
                client.send(*frames)
                async with asyncio.timeout(WITHIN_S):
                    (closing,) = await client.read_frames()
                assert closing.data[:2] == (1007).to_bytes(2, "big")
                await wait_until(lambda: not server.server_state.connections)
                client.writer.close()

    run(test)
    assert not caplog.records


def test_who_goes_amid_its_request_is_no_mistake_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is logged: anybody could fill the disk that way."""

    async def test() -> None:
        async with serve() as (server, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(POST)
            await wait_until(lambda: bool(server.server_state.tasks))
            writer.transport.abort()
            await wait_until(lambda: not server.server_state.tasks)

    run(test)
    assert not caplog.records


def test_pings_that_nobody_reads_the_answers_of_end_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answers would pile up as fast as the network brings pings."""
    monkeypatch.setattr(protocols, "UNREAD_BYTES_MAX", 65_536)

    async def test() -> None:
        async with serve() as (server, port):
            client = await RawWebSocket.connect(
                f"ws://127.0.0.1:{port}/socket", {}, kernel_bytes=4_096
            )
            client.send(text_frame("hello"))
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(WITHIN_S):
                while server.server_state.connections:
                    for _ in range(500):
                        client.send(Frame(Opcode.PING, b"p" * 125))
                    await asyncio.sleep(0)
            client.writer.transport.abort()

    run(test)


def test_failures_are_counted_and_good_keys_still_come_in() -> None:
    """At upgrades, where most guesses are made."""

    async def test() -> None:
        async with serve(failures_max=3) as (_, port):
            closed = UPGRADE.replace(b"/socket", b"/closed")
            for _ in range(3):
                assert b" 401 " in await ask(port, closed + b"Authorization: Bearer bad\r\n\r\n")
            refused = await ask(port, closed + b"Authorization: Bearer bad\r\n\r\n")
            assert b" 429 " in refused
            assert b"\r\nretry-after: " in refused
            assert b" 401 " in await ask(port, closed + b"Authorization: Bearer good\r\n\r\n")
            assert b"200 OK" in await ask(port, PLAIN)

    run(test)


def test_pages_of_other_origins_are_refused_at_their_upgrade() -> None:
    """And so are their forms."""

    async def test() -> None:
        async with serve(origins=("https://app.example",)) as (_, port):
            evil, own = (
                b"Origin: https://evil.example\r\n\r\n",
                b"Origin: https://app.example\r\n\r\n",
            )
            assert b" 403 " in await ask(port, UPGRADE + evil)
            assert b" 101 " in await ask(port, UPGRADE + own)
            post = POST.removesuffix(b"\r\n")
            assert b" 403 " in await ask(port, post + evil + b"0123456789")
            assert b" 200 " in await ask(port, post + own + b"0123456789")

    run(test)


# --- TLS ---------------------------------------------------------------------------------------


def place(name: str, folder: Path) -> None:
    """Put a certificate where the server looks."""
    shutil.copy(CERTIFICATES / f"{name}.pem", folder / "tls.pem")
    shutil.copy(CERTIFICATES / f"{name}.key.pem", folder / "tls.key.pem")


def trust(name: str) -> ssl.SSLContext:
    """A client that trusts one certificate and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(CERTIFICATES / f"{name}.pem")
    return context


def test_a_renewed_certificate_is_taken_without_a_restart(tmp_path: Path) -> None:
    """And half of a pair is not: whoever renews them writes two files."""
    place("first", tmp_path)
    certificate = Certificate(str(tmp_path / "tls.pem"), str(tmp_path / "tls.key.pem"))

    async def test() -> None:
        async with serve(tls=certificate.context) as (_, port):
            assert b"200 OK" in await ask(port, PLAIN, tls=trust("first"))
            assert not certificate.reload()
            shutil.copy(CERTIFICATES / "second.pem", tmp_path / "tls.pem")
            with pytest.raises(CertificateError):
                certificate.reload()
            assert b"200 OK" in await ask(port, PLAIN, tls=trust("first"))
            place("second", tmp_path)
            assert certificate.reload()
            assert b"200 OK" in await ask(port, PLAIN, tls=trust("second"))
            with pytest.raises(ssl.SSLCertVerificationError):
                await ask(port, PLAIN, tls=trust("first"))

    run(test)


def test_files_that_change_while_they_are_read_spoil_no_handshake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in use is a pair that was good together, whatever was written meanwhile."""
    place("first", tmp_path)
    certificate = Certificate(str(tmp_path / "tls.pem"), str(tmp_path / "tls.key.pem"))
    place("second", tmp_path)
    load = ssl.SSLContext.load_cert_chain

    def load_and_spoil(context: ssl.SSLContext, *args: Any, **more: Any) -> None:  # noqa: ANN401
        load(context, *args, **more)
        shutil.copy(CERTIFICATES / "first.pem", tmp_path / "tls.pem")

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_and_spoil)

    async def test() -> None:
        async with serve(tls=certificate.context) as (_, port):
            assert certificate.reload()
            assert b"200 OK" in await ask(port, PLAIN, tls=trust("second"))
            with pytest.raises(CertificateError):
                certificate.reload()
            assert b"200 OK" in await ask(port, PLAIN, tls=trust("second"))

    run(test)


def test_a_handshake_that_does_not_come_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes place before any of the limits above."""
    monkeypatch.setattr(server_module, "TLS_WITHIN_S", 0.3)
    place("first", tmp_path)
    certificate = Certificate(str(tmp_path / "tls.pem"), str(tmp_path / "tls.key.pem"))

    async def test() -> None:
        async with serve(tls=certificate.context) as (_, port):
            assert await ask(port, b"\x16\x03\x01") == b""

    run(test)
