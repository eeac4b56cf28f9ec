"""A process that has loaded what is costly once, and forks a child for each connection.

A child shares the loaded memory, works for one connection, and can crash alone. The process itself
has a single thread: a fork copies only the calling one, and with it whatever locks others held.
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

from speechbus_runtime.process_limits import die_with_parent

__all__ = ["DRAIN_TIMEOUT_S", "ForkServer"]

DRAIN_TIMEOUT_S: Final = 30.0
"""How long children may go on after SIGTERM; the service has ended their work by then."""

_BACKLOG: Final = 64
"""Connections waiting for `accept` during one fork, which takes milliseconds; a worker that takes
over a dead one's streams opens dozens at once."""

_REFUSED_MAX: Final = 64
"""Refused connections kept open until their clients have read why; beyond it the oldest is closed,
since a client that reads at all has done so by then."""


class ForkServer:
    """Listens on a Unix socket and forks a child per accepted connection."""

    def __init__(
        self,
        socket_path: Path,
        *,
        serve: Callable[[socket.socket], None],
        limit_child: Callable[[], None],
        refusal: bytes,
        children_max: int,
    ) -> None:
        """Prepare; nothing listens before `run`.

        Args:
            socket_path: Where to listen; a socket left there by a dead process is replaced.
            serve: Works for one connection, in its child; closes the connection.
            limit_child: Sets the limits of a child, in it, before `serve`.
            refusal: What a connection gets for which there is no room.
            children_max: Children at a time.
        """
        self._socket_path = socket_path
        self._serve = serve
        self._limit_child = limit_child
        self._refusal = refusal
        self._children_max = children_max
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
        # Ctrl-C reaches the whole process group; the service decides when this ends.
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
            print("ready", flush=True)  # noqa: T201 - the service waits for this line
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
        if len(self._children) >= self._children_max:
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
        self, server_pid: int, listener: socket.socket, connection: socket.socket
    ) -> None:
        _become_child(server_pid)
        self._selector.close()
        listener.close()
        connection.setblocking(True)  # noqa: FBT003 - the name says it
        self._limit_child()
        self._serve(connection)

    def _refuse(self, connection: socket.socket) -> None:
        """Say so, and keep the connection until the client hangs up.

        Closing at once, with the client's first message unread, would reset the connection, and
        the client might not see why.
        """
        connection.setblocking(False)  # noqa: FBT003 - the name says it
        try:
            connection.sendall(self._refusal)
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


def _become_child(server_pid: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A child ends with its connection, or by the server's hand when the drain takes too long.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(server_pid)
    # The service reads the server's output to its end and must not wait for the children's.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _end_child(serve: Callable[[], None]) -> Never:
    """Serve one connection and leave, without the exit handlers, which are the server's."""
    status = 1
    try:
        serve()
        status = 0
    except Exception:  # noqa: BLE001 - a bug ends this child only; its traceback must be seen
        traceback.print_exc()
    finally:
        os._exit(status)
