"""The engine's first process: loads the models once and forks a child for each session.

A child shares the models' memory, has a decoder of its own, and can crash alone. PocketSphinx holds
the interpreter lock throughout, so processes are also the only way to use more than one core. This
process has a single thread: a fork copies only the calling one, and with it whatever locks others
held.
"""

import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, Never, cast

from speechbus_transcriber.local_engine.decoder import Decoder
from speechbus_transcriber.local_engine.process_limits import die_with_parent, limit_memory
from speechbus_transcriber.local_engine.session import serve_session
from speechbus_transcriber.local_engine.voice_activity import VoiceActivity
from speechbus_transcriber.providers import local_wire as wire

__all__ = ["DRAIN_TIMEOUT_S", "Zygote"]

DRAIN_TIMEOUT_S: Final = 30.0
"""How long sessions may go on after SIGTERM; the worker has moved or ended its streams by then."""

_BACKLOG: Final = 64
"""Connections waiting for `accept` during one fork, which takes milliseconds; a worker that takes
over a dead one's streams opens dozens at once."""

_REFUSED_MAX: Final = 64
"""Refused connections kept open until their clients have read why; beyond it the oldest is closed,
since a client that reads at all has done so by then."""


class Zygote:
    """Listens on a Unix socket and forks a child per accepted connection."""

    def __init__(
        self,
        socket_path: Path,
        *,
        decoder: Decoder,
        open_voice: Callable[[], VoiceActivity],
        sessions_max: int,
    ) -> None:
        """Prepare; nothing listens before `run`.

        Args:
            socket_path: Where to listen; a socket left there by a dead engine is replaced.
            decoder: The loaded models, which this process itself never uses.
            open_voice: Makes a voice activity detector; called in each child.
            sessions_max: Children at a time.
        """
        self._socket_path = socket_path
        self._decoder = decoder
        self._open_voice = open_voice
        self._sessions_max = sessions_max
        self._children: set[int] = set()
        self._refused: deque[socket.socket] = deque()
        self._is_draining = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Print `ready` when connections are accepted; serve until SIGTERM, then drain.

        Raises:
            OSError: The socket cannot be made there.
        """
        signals, signals_writer = socket.socketpair()
        signals.setblocking(False)  # noqa: FBT003 - the name says it
        signals_writer.setblocking(False)  # noqa: FBT003
        # Signals only have to end the wait: what they mean is looked up afterwards.
        signal.set_wakeup_fd(signals_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _note)
        signal.signal(signal.SIGTERM, self._drain)
        # Ctrl-C reaches the whole process group; the worker decides when the engine ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._selector.register(signals, selectors.EVENT_READ, self._hear_signals)
        with signals, signals_writer, self._selector:
            self._serve_until_draining()
            self._wait_for_children()

    def _serve_until_draining(self) -> None:
        with _listen(self._socket_path) as listener:
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
            # Objects that live on anyway: a collection in a child would copy all their pages.
            gc.freeze()
            print("ready", flush=True)  # noqa: T201 - the worker waits for this line
            while not self._is_draining:
                self._serve_once(None)
            self._selector.unregister(listener)
            self._socket_path.unlink(missing_ok=True)

    def _wait_for_children(self) -> None:
        deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
        self._reap()
        while self._children and (left_s := deadline_s - time.monotonic()) > 0:
            self._serve_once(left_s)
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _drain(self, _signal: int, _frame: FrameType | None) -> None:
        self._is_draining = True

    def _serve_once(self, timeout_s: float | None) -> None:
        for key, _ in self._selector.select(timeout_s):
            answer: Callable[[socket.socket], None] = key.data
            answer(cast(socket.socket, key.fileobj))

    def _hear_signals(self, signals: socket.socket) -> None:
        _drop_received(signals)
        self._reap()

    def _reap(self) -> None:
        # By pid, and not whichever child: a library's helper process is not ours to collect.
        for pid in list(self._children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._children.remove(pid)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the client left between the wake-up and the call
        if len(self._children) >= self._sessions_max:
            self._refuse(connection)
            return
        own_pid = os.getpid()
        pid = os.fork()
        if pid:
            self._children.add(pid)
            connection.close()
            return
        _end_child(lambda: self._serve_as_child(own_pid, listener, connection))

    def _serve_as_child(
        self, zygote_pid: int, listener: socket.socket, connection: socket.socket
    ) -> None:
        _become_child(zygote_pid)
        self._selector.close()
        listener.close()
        connection.setblocking(True)  # noqa: FBT003 - the name says it
        serve_session(connection, self._decoder, self._open_voice())

    def _refuse(self, connection: socket.socket) -> None:
        """Say so, and keep the connection until the client hangs up.

        Closing at once, with the client's first message unread, would reset the connection, and
        the client might not see why.
        """
        connection.setblocking(False)  # noqa: FBT003 - the name says it
        try:
            connection.sendall(_ENGINE_FULL)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
            return
        self._selector.register(connection, selectors.EVENT_READ, self._hear_refused)
        self._refused.append(connection)
        if len(self._refused) > _REFUSED_MAX:
            self._forget(self._refused[0])

    def _hear_refused(self, connection: socket.socket) -> None:
        # An earlier event of the same wake-up may have closed it.
        if connection in self._refused and not _drop_received(connection):
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._refused.remove(connection)
        connection.close()


_ENGINE_FULL: Final = wire.encode_frame(wire.encode_message(wire.Error(code="engine_full")))


def _note(_signal: int, _frame: FrameType | None) -> None:
    """Do nothing: a handler must exist for the signal to reach the wake-up socket."""


def _listen(path: Path) -> socket.socket:
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode must be right from the start: between `bind` and `chmod` anybody could connect.
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    listener.listen(_BACKLOG)
    listener.setblocking(False)  # noqa: FBT003 - the name says it
    return listener


def _drop_received(connection: socket.socket) -> bool:
    """Discard what has arrived; return whether more may come."""
    try:
        return bool(connection.recv(65_536))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _become_child(zygote_pid: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A child ends with its session, or by the zygote's hand when the drain takes too long.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(zygote_pid)
    limit_memory()
    # The worker reads the zygote's output to its end and must not wait for the children's.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _end_child(serve: Callable[[], None]) -> Never:
    """Run one session and leave, without the exit handlers, which are the zygote's."""
    status = 1
    try:
        serve()
        status = 0
    except Exception:  # noqa: BLE001 - a bug ends this session only; its traceback must be seen
        traceback.print_exc()
    finally:
        os._exit(status)
