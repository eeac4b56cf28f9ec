"""One stream in its decoder process: bytes in from ingest, PCM out."""

import resource
import signal
import socket
import time
from contextlib import suppress
from typing import Final

import av.logging
import msgspec

from speechbus_ingest.formats.containers import Block, decode
from speechbus_ingest.formats.decoder_wire import HEAD, Job, Kind, encode_frame, encode_position
from speechbus_ingest.formats.names import CONTAINERS
from speechbus_ingest.formats.undecodable import UndecodableError
from speechbus_runtime.process_limits import limit_memory

__all__ = ["limit_process", "prepare", "serve_stream"]

DATA_BYTES_MAX: Final = 256 << 20
"""Private writable memory of one stream's decoder. The kernel counts 60 MB after loading; an open
decoder has 1 to 5 MB, and the longest block of FLAC some more."""
STEP_S_MAX: Final = 10.0
"""Longest time between two reads or writes, which takes microseconds: beyond it the decoder hangs,
and the kernel ends it."""
CPU_START_S: Final = 2.0
CPU_PER_AUDIO_S: Final = 0.2
"""CPU that a second of audio may cost; it costs 0.001 to 0.003."""
BARREN_BYTES_MAX: Final = 16 << 20
"""Bytes without any audio in them; cover pictures have some megabytes."""
RECEIVE_BYTES: Final = 65_536
SEND_BYTES: Final = 65_536
"""PCM that is gathered while the client's bytes come faster than they are spoken."""
_BYTES_PER_SAMPLE: Final = 2


def prepare() -> None:
    """Load, in the process that forks, what is loaded at first use: children cannot open files."""
    av.logging.set_level(None)
    for container in CONTAINERS:
        with suppress(UndecodableError):
            list(decode(_Silence(), Job(container)))


def limit_process() -> None:
    """Take from this process what a decoder does not need."""
    limit_memory(DATA_BYTES_MAX)
    for what in (
        resource.RLIMIT_NOFILE,  # those that are open stay open
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_NPROC,
        resource.RLIMIT_CORE,
    ):
        resource.setrlimit(what, (0, 0))


def serve_stream(connection: socket.socket) -> None:
    """Decode what comes over a connection until its end; close it.

    Args:
        connection: to ingest, connected and blocking.
    """
    # What goes wrong with the connection itself needs no answer: ingest is not there any more.
    with connection, suppress(OSError):
        signal.setitimer(signal.ITIMER_REAL, STEP_S_MAX)  # its default action ends the process
        job = _receive_job(connection)
        stream = _Stream(connection)
        try:
            for block in decode(stream, job):
                stream.add(block)
        except UndecodableError as error:
            stream.send(encode_frame(Kind.FAILED, error.problem.encode()))
        else:
            stream.send(encode_frame(Kind.END))
        # Closing with unread bytes would reset the connection, and ingest might not see why.
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(RECEIVE_BYTES):
            continue


def _receive_job(connection: socket.socket) -> Job:
    head = connection.recv(HEAD.size, socket.MSG_WAITALL)
    if len(head) < HEAD.size:
        raise ConnectionResetError  # ingest has changed its mind, or is dead
    size, _ = HEAD.unpack(head)
    return msgspec.json.decode(connection.recv(size, socket.MSG_WAITALL), type=Job)


class _Silence:
    """A source of nothing in particular."""

    def __init__(self) -> None:
        self.n_read = 0

    def read(self, n: int) -> bytes:
        n = min(n, 8_192 - self.n_read)
        self.n_read += n
        return bytes(n)


class _Stream:
    """Bytes from ingest, as `containers.Source`, and PCM to it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = memoryview(b"")
        self._pieces: list[list[bytes]] = []
        self._n_gathered = 0
        self._has_started = False
        self._audio_s = 0.0
        self._barren_from = 0
        self.n_read = 0

    def read(self, n: int) -> bytes:
        """Return what there is; before waiting for more, send what was decoded."""
        if not self._received:
            self._received = memoryview(self._receive())
        data = bytes(self._received[:n])
        self._received = self._received[n:]
        self.n_read += len(data)
        if self.n_read - self._barren_from > BARREN_BYTES_MAX:
            raise UndecodableError("damaged")
        return data

    def add(self, block: Block) -> None:
        """Take decoded samples; send them when there are many."""
        if not self._has_started:
            self._has_started = True
            self._pieces = [[] for _ in block.channels]
            self.send(encode_position(Kind.STARTED, block.sample_rate_hz))
        for pieces, samples in zip(self._pieces, block.channels, strict=True):
            pieces.append(samples)
            self._n_gathered += len(samples)
        self._barren_from = self.n_read
        self._audio_s += len(block.channels[0]) / (_BYTES_PER_SAMPLE * block.sample_rate_hz)
        if time.process_time() > CPU_START_S + CPU_PER_AUDIO_S * self._audio_s:
            raise UndecodableError("costly")
        if self._n_gathered >= SEND_BYTES:
            self.send(b"")

    def send(self, frame: bytes) -> None:
        """Send what was decoded, and a frame behind it; blocks while ingest does not read."""
        frames = frame
        if self._n_gathered:
            pcm = b"".join(b"".join(pieces) for pieces in self._pieces)
            self._pieces = [[] for _ in self._pieces]
            self._n_gathered = 0
            frames = encode_frame(Kind.PCM, pcm) + frame
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._connection.sendall(frames)
        signal.setitimer(signal.ITIMER_REAL, STEP_S_MAX)

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self.send(encode_position(Kind.IDLE, self.n_read))
        signal.setitimer(signal.ITIMER_REAL, 0)
        data = self._connection.recv(RECEIVE_BYTES)
        signal.setitimer(signal.ITIMER_REAL, STEP_S_MAX)
        return data
