"""The simulators' connections: beginnings, ends, and clients that misbehave."""

import asyncio
import contextlib
import json

import pytest
from websockets.frames import Frame, Opcode

from speechbus_simulator.script import Provider
from speechbus_wire.palabra import Finalize, encode_message
from tests.support.frame_numbers import build_frames
from tests.support.raw_websocket import RawWebSocket, close_frame, text_frame
from tests.support.simulator_server import Address, run_with_simulator

STREAM = "/asr/v1/speech-to-text/stream?format=pcm_s16le&token=key"
FINALIZE = text_frame(encode_message(Finalize()))
PING = Frame(Opcode.PING, b"are you there")
SECOND = Frame(Opcode.BINARY, build_frames(1, 50))
NOW = "is_real_time = false"


async def stream(address: Address, *first: Frame) -> RawWebSocket:
    """Open a stream at Palabra's."""
    return await RawWebSocket.connect(address.ws + STREAM, {}, first)


async def status_of(address: Address, request: str) -> int:
    """Send something; return the status that it is answered with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    writer.write(request.encode())
    line = await reader.readline()
    writer.close()
    return int(line.split(b" ")[1])


async def upgrade_status(address: Address, path: str = STREAM) -> int:
    """The status of an upgrade."""
    return await status_of(
        address,
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    )


def test_a_goodbye_in_one_piece_with_the_last_message_ends_the_connection() -> None:
    """Otherwise each side waits for the other to hang up, ten seconds long."""

    async def client(address: Address) -> None:
        for first in ((), (FINALIZE,)):
            socket = await stream(address, *first)
            socket.send(FINALIZE, close_frame(1000))
            frames = [frame for frame in await read_all(socket) if frame.opcode is Opcode.CLOSE]
            assert len(frames) == 1

    run_with_simulator("palabra", "", client)


async def read_all(socket: RawWebSocket) -> list[Frame]:
    """All frames until the server hangs up."""
    frames: list[Frame] = []
    while events := await socket.read_frames():
        frames += events
    socket.writer.close()
    return frames


async def read_to(socket: RawWebSocket, part: bytes) -> list[Frame]:
    """All frames to one that holds this."""
    frames: list[Frame] = []
    while not frames or part not in frames[-1].data:
        events = await socket.read_frames()
        assert events
        frames += events
    return frames


def test_frames_in_one_piece_with_the_upgrade_are_heard() -> None:
    """Fast clients send them."""

    async def client(address: Address) -> None:
        socket = await stream(address, SECOND, FINALIZE)
        frames = await read_to(socket, b"<fin>")
        assert json.loads(bytes(frames[-1].data))["segment"]["text"] == "1-50<fin>"
        socket.writer.close()

    run_with_simulator("palabra", NOW, client)


def test_case_13_a_close_waits_for_the_clients_goodbye() -> None:
    """Who is just sending audio would be reset, and never read the code."""

    async def client(address: Address) -> None:
        socket = await stream(address, SECOND)
        frames = await read_to(socket, (1013).to_bytes(2, "big"))
        assert frames[-1].opcode is Opcode.CLOSE
        for _ in range(20):
            socket.send(SECOND)
            await socket.writer.drain()
        socket.send(close_frame(1013))
        assert await socket.reader.read() == b""
        socket.writer.close()

    script = f'{NOW}\nfaults = [{{kind = "close", after_ms = 1000, code = 1013}}]'
    run_with_simulator("palabra", script, client)


def test_a_reset_is_one() -> None:
    """No close frame, no end of the stream: RST."""

    async def client(address: Address) -> None:
        socket = await stream(address)
        with pytest.raises(ConnectionResetError):
            await socket.reader.read()

    run_with_simulator("palabra", 'faults = [{kind = "reset"}]', client)


@pytest.mark.parametrize("provider", ["kotoba", "palabra"])
def test_a_half_open_connection_answers_nothing(provider: Provider) -> None:
    """Not even pings; it takes all audio, and goes when the client has had enough."""
    path = STREAM if provider == "palabra" else "/v1/realtime"

    async def client(address: Address) -> None:
        socket = await RawWebSocket.connect(address.ws + path, {"Authorization": "Bearer key"})
        socket.send(PING, *[SECOND] * 100, FINALIZE, close_frame(1000))
        socket.writer.write_eof()
        opcodes = [frame.opcode for frame in await read_all(socket)]
        assert opcodes in ([], [Opcode.TEXT])  # Kotoba has said `created`

    run_with_simulator(provider, 'faults = [{kind = "half_open"}]', client)


def test_an_upgrade_may_never_be_answered() -> None:
    """Nor is it refused."""

    async def client(address: Address) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        writer.write(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert await upgrade_status(address) == 101

    run_with_simulator("palabra", 'faults = [{kind = "unanswered", session = 1}]', client)


@pytest.mark.parametrize("fault", ["", 'faults = [{kind = "mute"}]'])
def test_the_end_of_the_simulator_is_said_to_its_clients(fault: str) -> None:
    """With 1001, also where a script made it mute."""

    async def client(address: Address) -> None:
        socket = await stream(address)
        address.end.set()
        (frame,) = await socket.read_frames()
        assert (frame.opcode, frame.data) == (Opcode.CLOSE, (1001).to_bytes(2, "big"))
        socket.send(close_frame(1001))
        assert await socket.reader.read() == b""
        socket.writer.close()

    run_with_simulator("palabra", fault, client)


def test_the_end_of_the_simulator_waits_for_nobody_for_long() -> None:
    """Neither for a half-open connection, nor for a request that never comes."""

    async def client(address: Address) -> None:
        socket = await stream(address)
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        socket.send(PING)
        await socket.writer.drain()
        address.end.set()
        with contextlib.suppress(ConnectionResetError):
            assert await socket.reader.read() == b""
        assert await reader.read() == b""
        for open_writer in (socket.writer, writer):
            open_writer.close()

    run_with_simulator("palabra", 'faults = [{kind = "half_open"}]', client)


def test_the_end_of_the_simulator_does_not_wait_for_a_client_that_reads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From Python 3.12.1 on a server waits for its connections, which wait for their readers."""
    monkeypatch.setattr("speechbus_simulator.peer.CLOSE_TIMEOUT_S", 0.05)

    async def client(address: Address) -> None:
        socket = await RawWebSocket.connect(address.ws + STREAM, {}, kernel_bytes=4_096)
        socket.send(Frame(Opcode.BINARY, build_frames(1, 1_399)))
        await socket.read_frames()
        address.end.set()
        await address.ended.wait()
        socket.writer.transport.abort()

    text = " ".join(["word"] * 2_000)
    script = f'mode = "text"\ntexts = [{{text = "{text}", ms = 28000}}]\npartial_ms = 20\n{NOW}'
    run_with_simulator("palabra", script, client)


def test_case_11_a_place_is_free_when_its_client_is_gone() -> None:
    """However it went."""

    async def client(address: Address) -> None:
        for end in ("goodbye", "end", "reset"):
            socket = await stream(address)
            assert await upgrade_status(address) == 409
            match end:
                case "goodbye":
                    socket.send(close_frame(1000))
                case "end":
                    socket.writer.write_eof()
                case _:
                    socket.writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await read_all(socket)
            while await upgrade_status(address) != 101:
                pass

    run_with_simulator("palabra", "", client)


def test_case_11_a_place_lingers_after_an_end_without_a_goodbye() -> None:
    """As at a server that waits for a ping's answer; after a goodbye it is free at once."""

    async def client(address: Address) -> None:
        socket = await stream(address)
        socket.send(close_frame(1000))
        await read_all(socket)
        socket = await stream(address)
        socket.writer.write_eof()
        await read_all(socket)
        assert [await upgrade_status(address) for _ in range(3)] == [409] * 3
        assert await upgrade_status(address, STREAM.replace("key", "other")) == 101

    run_with_simulator("palabra", "linger_s = 600", client)


def test_case_12_a_limit_may_last() -> None:
    """Later sessions are refused, too, until it is over."""

    async def client(address: Address) -> None:
        statuses = [await upgrade_status(address) for _ in range(4)]
        assert statuses == [101, 429, 429, 429]

    script = 'faults = [{kind = "refuse", session = 2, status = 429, for_s = 600}]'
    run_with_simulator("palabra", script, client)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n" + "a: b\r\n" * 200 + "\r\n", 400),
        ("GET /" + "x" * 40_000 + " HTTP/1.1\r\n\r\n", 431),
        ("GET /[ HTTP/1.1\r\n\r\n", 401),
        ("GET //[ HTTP/1.1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: " + "9" * 5_000 + "\r\n\r\n", 413),
        (f"GET {STREAM} HTTP/1.1\r\nUpgrade: websocket\r\nno header\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n" + "x" * 99_999, 413),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        ("GET /nothing HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", 404),
        (f"GET {STREAM} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", 426),
        (f"POST {STREAM} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", 405),
    ],
)
def test_what_is_no_request_is_refused_and_harms_nobody(request_text: str, status: int) -> None:
    """The next client is served."""

    async def client(address: Address) -> None:
        assert await status_of(address, request_text) == status
        assert await upgrade_status(address) == 101

    run_with_simulator("palabra", "", client)
