"""The server's end of one WebSocket, which can also do what servers should not."""

import asyncio
import logging
import socket
import struct
from typing import Final

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

__all__ = ["Peer", "PeerGoneError"]

MESSAGE_BYTES_MAX: Final = 4 << 20
"""Clients send some 10 kB at a time; 1 MiB of audio as base64 is 1.4 MB."""
READ_BYTES: Final = 64 << 10
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
    """

    def __init__(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = ServerProtocol(max_size=MESSAGE_BYTES_MAX, logger=_silent)
        self._parts: list[bytes] = []
        self._is_text = False
        self._protocol.receive_data(head)
        (request,) = self._protocol.events_received()
        assert isinstance(request, Request)
        self._protocol.send_response(self._protocol.accept(request))
        self._write()

    @property
    def is_open(self) -> bool:
        """Whether the upgrade went through and nobody has closed."""
        return self._protocol.state is State.OPEN

    async def receive(self) -> list[str | bytes]:
        """Wait for bytes; return the messages that they complete.

        Raises:
            PeerGoneError: there will be no more.
        """
        try:
            data = await self._reader.read(READ_BYTES)
        except ConnectionError:
            raise PeerGoneError from None
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        messages = [
            message
            for event in self._protocol.events_received()
            if isinstance(event, Frame)
            for message in self._take(event)
        ]
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
        """Say goodbye and close."""
        if self.is_open:
            self._protocol.send_close(code)
            self._write()
        self._writer.close()

    def reset(self) -> None:
        """Cut the connection with RST, as a crash does."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def fall_silent(self) -> None:
        """Read on and answer nothing, not even pings, until the client has had enough."""
        try:
            while await self._reader.read(READ_BYTES):
                pass
        except ConnectionError:
            return

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
