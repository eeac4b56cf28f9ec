"""The server's end of one WebSocket, which can also do what servers should not."""

import asyncio
import logging
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

__all__ = ["Peer", "PeerGoneError"]

MESSAGE_BYTES_MAX: Final = 4 << 20
"""Clients send some 10 kB at a time; 1 MiB of audio as base64 is 1.4 MB."""
READ_BYTES: Final = 64 << 10
UNREAD_BYTES_MAX: Final = 8 << 20
"""Of what a client does not read; hours of texts."""
CLOSE_TIMEOUT_S: Final = 2.0
"""For a client's half of the close handshake."""
_silent = logging.getLogger(f"{__name__}.library")
_silent.disabled = True


class PeerGoneError(Exception):
    """The client's side of the connection has ended."""


class Peer:
    """One accepted WebSocket.

    Args:
        head: the upgrade request, to its empty line.
        reader: of the connection.
        writer: of the connection.
        subprotocol: the answer to a client that offers it; None: to none.

    Raises:
        ValueError: the head is no upgrade.
    """

    def __init__(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        subprotocol: str | None,
    ) -> None:
        def choose(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
            return next((name for name in offered if name == subprotocol), None)

        self._reader = reader
        self._writer = writer
        self._protocol = ServerProtocol(
            max_size=MESSAGE_BYTES_MAX, logger=_silent, select_subprotocol=choose
        )
        self._parts: list[bytes] = []
        self._is_text = False
        self._is_silent = False
        self._protocol.receive_data(head)
        (request,) = self._protocol.events_received()
        assert isinstance(request, Request)
        self._protocol.send_response(self._protocol.accept(request))
        self._write()

    @property
    def is_open(self) -> bool:
        """Whether the upgrade went through and nobody has closed."""
        return self._protocol.state is State.OPEN

    @property
    def has_said_goodbye(self) -> bool:
        """Whether the client has sent a close frame."""
        return self._protocol.close_rcvd is not None

    async def receive(self) -> list[str | bytes]:
        """Wait for bytes; return the messages that they complete.

        Raises:
            PeerGoneError: there will be no more.
        """
        # Also after a goodbye that came in one piece with the last messages: its sender waits for
        # this side to end the connection.
        if not self.is_open:
            raise PeerGoneError
        messages = [message for frame in await self._read() for message in self._take(frame)]
        self._write()
        if not self.is_open and not messages:
            raise PeerGoneError
        return messages

    def send(self, text: str) -> None:
        """Send a text message."""
        if self.is_open:
            self._protocol.send_text(text.encode())
            self._write()

    async def close(self, code: int) -> None:
        """Say goodbye, and wait a moment for the client's.

        A connection that is closed with unread audio in it is reset, and takes the code with it.
        """
        if self._is_silent:
            self._writer.transport.abort()
            return
        if self.is_open:
            self._protocol.send_close(code)
            self._write()
        with suppress(PeerGoneError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while not self.has_said_goodbye:
                    await self._read()

    def reset(self) -> None:
        """Cut the connection with RST, as a crash does."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        with suppress(OSError):  # the client may have gone already
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def fall_silent(self) -> None:
        """Read on and answer nothing, not even pings, until the client has had enough."""
        self._is_silent = True
        with suppress(OSError):
            while await self._reader.read(READ_BYTES):
                pass

    async def _read(self) -> list[Frame]:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError:
            raise PeerGoneError from None
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        if not data and not frames:
            raise PeerGoneError
        return frames

    def _take(self, frame: Frame) -> list[str | bytes]:
        if frame.opcode not in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            return []
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return []
        message, self._parts = b"".join(self._parts), []
        return [message.decode(errors="replace") if self._is_text else message]

    def _write(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data and not self._writer.is_closing():
            self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self._writer.transport.abort()
