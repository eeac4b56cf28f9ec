"""Connections to providers, over real sockets, with servers that misbehave."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from speechbus_transcriber.connections import ProviderConnections
from speechbus_transcriber.driver import UpgradeRefusedError
from speechbus_transcriber.providers.interface import HttpExchange, WebSocketConnect
from speechbus_transcriber.websocket_connection import WebSocketConnection, connect_websocket

HOST: Final = "127.0.0.1"
PATIENCE_S: Final = 30.0
"""Only a hang reaches it."""

Handler = Callable[[ServerConnection], Awaitable[None]]
END = "end"


class Events:
    """What a connection reported, in order."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str | bytes | tuple[str, int | None]] = asyncio.Queue()
        self.congestions: list[bool] = []
        self.room = asyncio.Event()
        self.ended = asyncio.Event()

    def receive_message(self, message: str | bytes) -> None:
        """Keep it."""
        self.queue.put_nowait(message)

    def receive_close(self, code: int | None) -> None:
        """Keep it."""
        self.queue.put_nowait((END, code))

    def set_congested(self, *, is_congested: bool) -> None:
        """Keep it."""
        self.congestions.append(is_congested)
        if not is_congested:
            self.room.set()

    def receive_end(self) -> None:
        """Keep it."""
        assert not self.ended.is_set()
        self.ended.set()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test that ends even if it hangs."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main

    asyncio.run(bounded())


@asynccontextmanager
async def provider(handler: Handler, **options: Any) -> AsyncGenerator[str, None]:  # noqa: ANN401
    """A WebSocket server; yields its URL."""
    async with serve(handler, HOST, 0, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://{HOST}:{port}/stream?token=secret-token"


async def echo(peer: ServerConnection) -> None:
    """Send back what comes."""
    async for message in peer:
        await peer.send(message)


def test_messages_go_both_ways_whole_and_in_order() -> None:
    """Text and binary, also in fragments, and large ones."""

    async def talk(peer: ServerConnection) -> None:
        await peer.send("first")
        await peer.send(["fra", "gments"])
        await echo(peer)

    async def main() -> None:
        events = Events()
        async with provider(talk) as url:
            connection = await connect_websocket(WebSocketConnect(url=url), events)
            sent: list[str | bytes] = ["ä", b"\x00\x01", "x" * 300_000]
            connection.send(sent)
            received = [await events.queue.get() for _ in range(5)]
            connection.close()
            await events.ended.wait()
        assert received == ["first", "fragments", *sent]

    run(main())


def test_headers_and_subprotocols_are_sent() -> None:
    """Keys travel in headers; browsers' servers choose a subprotocol."""
    seen: list[tuple[str | None, str | None]] = []

    async def note(peer: ServerConnection) -> None:
        assert peer.request is not None
        seen.append((peer.request.headers["Authorization"], peer.subprotocol))
        await peer.wait_closed()

    async def main() -> None:
        async with provider(note, subprotocols=["realtime"]) as url:
            request = WebSocketConnect(
                url=url, headers=(("Authorization", "Bearer key"),), subprotocols=("realtime",)
            )
            events = Events()
            connection = await connect_websocket(request, events)
            connection.close()
            await events.ended.wait()

    run(main())
    assert seen == [("Bearer key", "realtime")]


@pytest.mark.parametrize("status", [401, 409, 429, 503])
def test_case_12_a_refused_upgrade_tells_status_body_and_when_to_return(status: int) -> None:
    """The adapter decides by them."""

    def refuse(peer: ServerConnection, _request: Request) -> Response:
        response = peer.respond(status, "no")
        headers = Headers(response.headers)
        headers["Retry-After"] = "7"
        return Response(response.status_code, response.reason_phrase, headers, response.body)

    async def main() -> None:
        async with provider(echo, process_request=refuse) as url:
            with pytest.raises(UpgradeRefusedError) as caught:
                await connect_websocket(WebSocketConnect(url=url), Events())
        response = caught.value.response
        assert (response.status, response.body, response.retry_after_s) == (status, b"no", 7.0)

    run(main())


async def reset(peer: ServerConnection) -> None:
    """Cut the connection as a crash does: RST."""
    await peer.recv()
    raw: socket.socket = peer.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.transport.abort()


async def close_away(peer: ServerConnection) -> None:
    """Go away politely."""
    await peer.recv()
    await peer.close(1001)


@pytest.mark.parametrize(("handler", "code"), [(reset, None), (close_away, 1001)])
def test_case_13_the_end_of_a_connection_is_told_once_with_its_code(
    handler: Handler, code: int | None
) -> None:
    """Palabra says no more than that."""

    async def main() -> None:
        events = Events()
        async with provider(handler) as url:
            connection = await connect_websocket(WebSocketConnect(url=url), events)
            connection.send(["go"])
            assert await events.queue.get() == (END, code)
            connection.send(["into the void"])
            connection.close()
            await events.ended.wait()
        assert events.queue.empty()

    run(main())


async def accept_upgrade(reader: asyncio.StreamReader) -> bytes:
    """Read an upgrade; return the answer that accepts it."""
    head = await reader.readuntil(b"\r\n\r\n")
    (key,) = (
        line.partition(b": ")[2]
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    )
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(key.decode()).encode() + b"\r\n\r\n"
    )


def test_a_peer_that_answers_no_ping_is_left() -> None:
    """A half-open connection takes audio for minutes and gives nothing back."""

    async def half_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await accept_upgrade(reader))
        with suppress(ConnectionError):
            await reader.read()  # whatever comes, nothing is answered
        writer.transport.abort()
        left.set()

    left = asyncio.Event()

    async def main() -> None:
        events = Events()
        server = await asyncio.start_server(half_open, HOST, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            await connect_websocket(
                WebSocketConnect(url=f"ws://{HOST}:{port}/"),
                events,
                ping_interval_s=0.05,
                pong_timeout_s=0.2,
            )
            assert await events.queue.get() == (END, None)
            await left.wait()

    run(main())


def test_a_peer_that_answers_pings_is_kept() -> None:
    """However many of them lie between the messages."""

    async def main() -> None:
        events = Events()
        async with provider(echo, ping_interval=None) as url:
            connection = await connect_websocket(
                WebSocketConnect(url=url), events, ping_interval_s=0.01, pong_timeout_s=PATIENCE_S
            )
            for _ in range(20):
                connection.send(["still"])
                assert await events.queue.get() == "still"
            connection.close()
            await events.ended.wait()

    run(main())


def test_case_12_a_refusal_in_words_right_behind_the_upgrade_is_heard() -> None:
    """Kotoba accepts, says `rate_limit_error` and closes: all of it may come in one piece."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        error, close_1008 = b"\x81\x05error", b"\x88\x02\x03\xf0"
        writer.write(await accept_upgrade(reader) + error + close_1008)
        writer.close()

    async def main() -> None:
        events = Events()
        server = await asyncio.start_server(refuse, HOST, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            await connect_websocket(WebSocketConnect(url=f"ws://{HOST}:{port}/"), events)
            assert [await events.queue.get(), await events.queue.get()] == ["error", (END, 1008)]

    run(main())


def test_a_peer_that_reads_nothing_congests_the_connection() -> None:
    """Audio waits on the bus then, not in this process."""

    async def main() -> None:
        read = asyncio.Event()

        async def stall(peer: ServerConnection) -> None:
            peer.transport.pause_reading()
            await read.wait()
            peer.transport.resume_reading()
            await peer.wait_closed()

        events = Events()
        async with provider(stall, max_size=None, close_timeout=0.1) as url:
            connection = await connect_websocket(WebSocketConnect(url=url), events)
            while not events.congestions:
                connection.send([bytes(100_000)])
                await asyncio.sleep(0)
            read.set()
            await events.room.wait()
            connection.close()
            await events.ended.wait()
        assert events.congestions[:2] == [True, False]

    run(main())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Fine\r\n\r\n", b"SSH-2.0-x\r\n\r\n"])
def test_who_speaks_no_websocket_is_not_there(answer: bytes) -> None:
    """Another service on that port is worth another try, and no crash."""

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(other, HOST, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectionError):
                await connect_websocket(WebSocketConnect(url=f"ws://{HOST}:{port}/"), Events())

    run(main())


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "ws:///nowhere", "nonsense"])
def test_a_url_that_is_none_is_an_error_without_the_url(url: str) -> None:
    """It may hold a token."""

    async def main() -> None:
        with pytest.raises(ConnectionError) as caught:
            await connect_websocket(WebSocketConnect(url=url), Events())
        assert url not in str(caught.value)

    run(main())


@asynccontextmanager
async def http_server(answer: bytes, seen: asyncio.Queue[bytes]) -> AsyncGenerator[str, None]:
    """A server that answers every request with the same bytes."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve_one, HOST, 0)
    async with server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/path?token=secret-token"


def test_http_is_asked_and_its_answer_bounded() -> None:
    """A provider's session is minted by it; an endless answer must not fill the memory."""
    body = b"x" * 200_000

    async def main() -> None:
        seen: asyncio.Queue[bytes] = asyncio.Queue()
        head = b"HTTP/1.1 429 No\r\nretry-after: 12\r\ncontent-length: %d\r\n\r\n" % len(body)
        async with http_server(head + body, seen) as url, ProviderConnections({}) as connections:
            response = await connections.exchange(
                HttpExchange(method="POST", url=url, headers=(("ClientId", "me"),), body=b"{}")
            )
        assert (response.status, response.retry_after_s) == (429, 12.0)
        assert response.body == body[: 64 << 10]
        assert b"ClientId: me" in await seen.get()

    run(main())


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n"])
def test_no_http_answer_is_nobody_there(answer: bytes) -> None:
    """The next try may find somebody."""

    async def main() -> None:
        seen: asyncio.Queue[bytes] = asyncio.Queue()
        async with http_server(answer, seen) as url, ProviderConnections({}) as connections:
            with pytest.raises(ConnectionError):
                await connections.exchange(HttpExchange(method="GET", url=url))

    run(main())


def test_farewells_are_carried_out_before_the_worker_ends() -> None:
    """A session that is not deleted would refuse the next worker."""

    async def main() -> None:
        seen: asyncio.Queue[bytes] = asyncio.Queue()
        async with http_server(b"HTTP/1.1 204 Done\r\n\r\n", seen) as url:
            async with ProviderConnections({}) as connections:
                connections.part([HttpExchange(method="DELETE", url=url)] * 2)
            assert seen.qsize() == 2
            assert (await seen.get()).startswith(b"DELETE /path")

    run(main())


def test_no_token_is_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """Libraries log URLs and headers when they are asked to be talkative."""
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        seen: asyncio.Queue[bytes] = asyncio.Queue()
        async with ProviderConnections({}) as connections:
            async with http_server(b"HTTP/1.1 204 Done\r\n\r\n", seen) as url:
                await connections.exchange(HttpExchange(method="GET", url=url))
            async with provider(echo, logger=logging.getLogger("test.server")) as url:
                logging.getLogger("test.server").setLevel(logging.CRITICAL)
                request = WebSocketConnect(url=url, headers=(("Authorization", "secret-key"),))
                events = Events()
                connection = await connections.connect(request, events)
                assert isinstance(connection, WebSocketConnection)
                connection.close()
                await events.ended.wait()

    run(main())
    assert "secret" not in caplog.text
