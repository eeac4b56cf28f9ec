"""A WebSocket client that sends frames exactly when and as the test says."""

import asyncio
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
        cls, url: str, headers: Mapping[str, str], first: tuple[Frame, ...] = ()
    ) -> "RawWebSocket":
        """Upgrade; `first` is sent in one piece with the request."""
        uri = parse_uri(url)
        socket = cls(*await asyncio.open_connection(uri.host, uri.port))
        socket._protocol = ClientProtocol(uri)
        request = socket._protocol.connect()
        request.headers.update(headers)
        socket._protocol.send_request(request)
        head = b"".join(socket._protocol.data_to_send())
        socket.writer.write(head + b"".join(map(cls._spell, first)))
        response = None
        while response is None:
            response = await socket._read()
        assert response.status_code == 101
        return socket

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
