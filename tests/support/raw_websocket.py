"""A WebSocket client that sends frames exactly when and as the test says."""

import asyncio
import socket
from collections.abc import Mapping

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

__all__ = ["RawWebSocket", "close_frame", "text_frame"]


def text_frame(text: str) -> Frame:
    """A text message."""
    return Frame(Opcode.TEXT, text.encode())


def close_frame(code: int) -> Frame:
    """A goodbye."""
    return Frame(Opcode.CLOSE, code.to_bytes(2, "big"))


class RawWebSocket:
    """One connection; nothing is answered by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._protocol = ClientProtocol(parse_uri("ws://localhost/"))
        self._frames: list[Frame] = []

    @classmethod
    async def connect(
        cls,
        url: str,
        headers: Mapping[str, str],
        first: tuple[Frame, ...] = (),
        *,
        kernel_bytes: int | None = None,
    ) -> "RawWebSocket":
        """Upgrade.

        Args:
            url: of the server.
            headers: beside the usual ones.
            first: frames that are sent in one piece with the request.
            kernel_bytes: about what the kernel keeps for this client; None: as it likes.
        """
        uri = parse_uri(url)
        plain = socket.socket()
        if kernel_bytes is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_bytes)
        plain.settimeout(0)  # asyncio wants it so
        await asyncio.get_running_loop().sock_connect(plain, (uri.host, uri.port))
        client = cls(*await asyncio.open_connection(sock=plain))
        client._protocol = ClientProtocol(uri)
        request = client._protocol.connect()
        request.headers.update(headers)
        client._protocol.send_request(request)
        head = b"".join(client._protocol.data_to_send())
        client.writer.write(head + b"".join(map(cls._spell, first)))
        response = None
        while response is None:
            response = await client._read()
        assert response.status_code == 101
        return client

    def send(self, *frames: Frame) -> None:
        """Send frames in one piece."""
        self.writer.write(b"".join(map(self._spell, frames)))

    async def read_frames(self) -> list[Frame]:
        """Wait for frames; none: the end."""
        while not self._frames and not self.reader.at_eof():
            await self._read()
        frames, self._frames = self._frames, []
        return frames

    async def _read(self) -> Response | None:
        self._protocol.receive_data(await self.reader.read(65_536))
        events = self._protocol.events_received()
        self._frames += [event for event in events if isinstance(event, Frame)]
        return next((event for event in events if isinstance(event, Response)), None)

    @staticmethod
    def _spell(frame: Frame) -> bytes:
        return frame.serialize(mask=True)
