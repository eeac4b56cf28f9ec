"""A real local engine process and blocking clients of it."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from socket import AF_UNIX, SHUT_WR, socket
from types import TracebackType
from typing import Self

import psutil

from speechbus_transcriber.providers import local_wire as wire

__all__ = ["EngineClient", "EngineProcess", "chunks_of", "finals_of"]

ANSWER_TIMEOUT_S = 60.0
"""The longest test audio decodes in 5 s alone on a core; past this the engine hangs."""


class EngineClient:
    """One session, spoken to in whole messages."""

    def __init__(self, path: Path) -> None:
        """Connect; raises `OSError` when nobody listens."""
        self._socket = socket(AF_UNIX)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._frames = wire.FrameReader()
        self._received: list[wire.EngineMessage] = []

    def send(self, *messages: wire.ClientMessage | bytes) -> None:
        """Send messages; bytes are audio."""
        for message in messages:
            content = message if isinstance(message, bytes) else wire.encode_message(message)
            self.send_raw(wire.encode_frame(content))

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, frames or not."""
        self._socket.sendall(data)

    def hang_up(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(SHUT_WR)

    def receive(self) -> wire.EngineMessage | None:
        """Return the next message, or None when the engine has closed."""
        while not self._received:
            try:
                data = self._socket.recv(65_536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            for content in self._frames.feed(data):
                assert isinstance(content, str)
                self._received.append(wire.decode_engine_message(content))
        return self._received.pop(0)

    def receive_until(self, kind: type[wire.EngineMessage]) -> list[wire.EngineMessage]:
        """Return messages up to and with the first of this kind."""
        messages: list[wire.EngineMessage] = []
        while not messages or not isinstance(messages[-1], kind):
            message = self.receive()
            assert message is not None, f"closed before {kind.__name__}, after {messages}"
            messages.append(message)
        return messages

    def receive_all(self) -> list[wire.EngineMessage]:
        """Return messages until the engine closes."""
        messages: list[wire.EngineMessage] = []
        while (message := self.receive()) is not None:
            messages.append(message)
        return messages

    def recognize(
        self, chunks: Iterable[bytes], *, sample_rate_hz: int = 16_000, turn_stop_ms: int = 600
    ) -> list[wire.EngineMessage]:
        """Open a session, send all audio, finish; return everything the engine said."""
        self.send(wire.Open(sample_rate_hz=sample_rate_hz, turn_stop_ms=turn_stop_ms))
        self.send(*chunks, wire.Finish())
        return self.receive_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()


class EngineProcess:
    """The engine as a worker starts it; ready when the constructor returns."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """Start `python -m speechbus_transcriber.local_engine` with a socket in `folder`."""
        self.socket_path = folder / "engine.sock"
        self.process = subprocess.Popen(
            [
                *[sys.executable, "-m", "speechbus_transcriber.local_engine"],
                *["--socket", str(self.socket_path), *arguments],
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        greeting = self.process.stdout.readline()
        assert greeting == "ready\n", greeting

    def connect(self) -> EngineClient:
        """Return a new connection."""
        return EngineClient(self.socket_path)

    def children(self) -> list[psutil.Process]:
        """Return the processes of the sessions, oldest first."""
        children = psutil.Process(self.process.pid).children()
        return sorted(children, key=lambda child: (child.create_time(), child.pid))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()


def chunks_of(pcm: bytes, chunk_bytes: int = 3_200) -> list[bytes]:
    """Cut audio into chunks, by default of 100 ms at 16 kHz."""
    return [pcm[at : at + chunk_bytes] for at in range(0, len(pcm), chunk_bytes)]


def finals_of(messages: Iterable[wire.EngineMessage]) -> list[wire.Final]:
    """Return the finals among the messages."""
    return [message for message in messages if isinstance(message, wire.Final)]
