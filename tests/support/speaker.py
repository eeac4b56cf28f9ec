"""A client of the native door that speaks frame-numbered audio, step by step."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from websockets.sync.client import ClientConnection, connect

from tests.support.frame_numbers import build_frames

__all__ = ["Speaker", "speaking"]

PATIENCE_S: Final = 30.0
"""Only a hang reaches it."""
FRAMES_PER_MESSAGE: Final = 50


class Speaker:
    """One open stream.

    The echo provider answers a partial every 25 frames, a final every 150 and at the end.
    """

    def __init__(self, connection: ClientConnection, stream_id: str) -> None:
        self.stream_id = stream_id
        self.frames = 0
        """Spoken so far."""
        self._connection = connection

    def speak(self, n_frames: int) -> None:
        """Send the next frames (20 ms each), as fast as the door takes them."""
        end = self.frames + n_frames
        while self.frames < end:
            count = min(FRAMES_PER_MESSAGE, end - self.frames)
            self._connection.send(build_frames(self.frames + 1, count))
            self.frames += count

    def wait_for(self, kind: str) -> dict[str, Any]:
        """Return the next event of a type, from here on."""
        while True:
            event: dict[str, Any] = msgspec.json.decode(self._connection.recv(PATIENCE_S))
            if event["type"] == kind:
                return event

    def end(self) -> None:
        """End the stream and wait until it is closed."""
        self._connection.send('{"type":"end"}')
        self.wait_for("stream.closed")


@contextmanager
def speaking(port: int, key: str, **hello: object) -> Generator[Speaker]:
    """Open a stream; leaving the block without `Speaker.end` is going away without a goodbye.

    Args:
        port: of ingest.
        key: API key.
        hello: further fields of the hello, for example `language`.
    """
    url = f"ws://127.0.0.1:{port}/v1/streams"
    headers = {"authorization": f"Bearer {key}"}
    with connect(url, additional_headers=headers, compression=None, proxy=None) as connection:
        message = {"type": "hello", "format": "pcm_s16le", "sample_rate_hz": 16_000, **hello}
        connection.send(msgspec.json.encode(message).decode())
        ready = msgspec.json.decode(connection.recv(PATIENCE_S))
        assert ready["type"] == "ready", ready
        yield Speaker(connection, ready["stream_id"])
