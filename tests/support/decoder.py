"""A real decoder process, spoken to in frames."""

import subprocess
import sys
from pathlib import Path
from socket import AF_UNIX, SHUT_WR, socket
from types import TracebackType
from typing import Final, Self

import msgspec
import psutil

from speechbus_ingest.formats.decoder_wire import HEAD, Job, Kind

__all__ = ["DecoderClient", "DecoderProcess"]

ANSWER_TIMEOUT_S: Final = 60.0
"""Only a hang reaches it."""


class DecoderClient:
    """One stream's connection, blocking."""

    def __init__(self, path: Path, job: Job) -> None:
        self._socket = socket(AF_UNIX)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._socket.connect(str(path))
        self._frames = self._socket.makefile("rb")
        body = msgspec.json.encode(job)
        self.send(HEAD.pack(len(body), 0) + body)

    def send(self, data: bytes) -> None:
        """Send bytes of the client."""
        self._socket.sendall(data)

    def finish(self) -> None:
        """Say that nothing follows."""
        self._socket.shutdown(SHUT_WR)

    def receive(self) -> tuple[Kind, bytes] | None:
        """Return the next frame; None: the decoder has closed."""
        try:
            head = self._frames.read(HEAD.size)
        except ConnectionResetError:
            return None
        if not head:
            return None
        size, kind = HEAD.unpack(head)
        return Kind(kind), self._frames.read(size)

    def receive_all(self) -> list[tuple[Kind, bytes]]:
        """Return the frames until the decoder closes."""
        return list(iter(self.receive, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._frames.close()
        self._socket.close()


class DecoderProcess:
    """`decoder_process` on a socket in a folder, from enter to exit."""

    def __init__(self, folder: Path, *, streams_max: int = 8) -> None:
        self.path = folder / "decoders"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "speechbus_ingest.formats.decoder_process"),
                *("--socket", str(self.path), "--streams-max", str(streams_max)),
            ],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    @property
    def children(self) -> list[psutil.Process]:
        """The decoders of single streams."""
        return psutil.Process(self.process.pid).children()

    def connect(self, job: Job) -> DecoderClient:
        """Begin a stream."""
        return DecoderClient(self.path, job)

    def decode(self, job: Job, data: bytes) -> tuple[bytes, str | None]:
        """Return all samples and what is said at the end: None, a problem, or `died`."""
        with self.connect(job) as client:
            try:
                client.send(data)
                client.finish()
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has failed already, and says why
            frames = client.receive_all()
        pcm = b"".join(body for kind, body in frames if kind is Kind.PCM)
        kind, body = frames[-1] if frames else (Kind.IDLE, b"")
        if kind is Kind.FAILED:
            return pcm, body.decode()
        return pcm, None if kind is Kind.END else "died"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.terminate()
        self.process.wait(ANSWER_TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
