"""A real nats-server with JetStream, for tests and benchmarks to start, kill and restart."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from speechbus_cli.settings import read_environment

__all__ = ["DEV_CONFIG", "NatsServer", "NatsServerError", "choose_free_port"]

DEV_CONFIG = Path(__file__).parents[2] / "deploy" / "nats" / "dev.conf"
"""The configuration that `speechbus dev` uses; the default here, so that tests meet its limits."""

READY_TIMEOUT_S = 30.0
"""Usually 12 ms; recovering a large store on a busy machine takes longer."""

STOP_TIMEOUT_S = 10.0
"""Closing takes milliseconds; past this the server hangs, and the test should say so."""

POLL_INTERVAL_S = 0.005
"""A third of the usual start, so that polling adds little to it."""

RELOADED = "Reloaded server configuration"

PORT_ATTEMPTS_MAX = 20
"""Each attempt fails only when another process takes the same random port in the same moment."""

_XDIST_WORKER = int(read_environment().get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = range(15_000, 30_000)[_XDIST_WORKER % 5 :: 5]
"""Below those that the kernel gives to outgoing connections; others for each worker of pytest's."""

_PR_SET_PDEATHSIG = 1
_LIBC: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class NatsServerError(Exception):
    """The server did not start or stop as asked; the text ends with the last lines of its log."""


class _Info(msgspec.Struct, frozen=True):
    server_name: str
    jetstream: bool = False


class NatsServer:
    """One nats-server process of this environment, on loopback, with JetStream.

    The port is chosen at the first start and kept, so clients reconnect after a restart. The store
    lies in `folder` and outlives the process. All calls block; a start takes about 20 ms. The
    process dies with the thread that started it, even when that thread is killed (Linux only).
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Path | None = DEV_CONFIG,
        name: str | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a server; nothing runs before `start`.

        Args:
            folder: Where the store and the log go; created when missing.
            config: Configuration file, or None for the server's defaults. Address, port and store
                folder of the file are overridden.
            name: Of the server, the same at each start, as clusters need it; None: a fresh one
                each time, which tells our process from a stranger on the same port.
            arguments: More of the command line.
            environment: Variables for a configuration that takes its store folder from there, and
                has the server's name; None: both are told on the command line. (A server whose name
                came from there refuses every reload.)
        """
        self._environment = environment
        self.log_path = folder / "nats-server.log"
        self._config = config
        self._name = name
        self._arguments = arguments
        self._folder = folder
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect; known after the first start."""
        if self._port is None:
            raise RuntimeError("the server was never started: it has no port yet")
        return f"nats://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The running server's process id."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and return when it accepts connections.

        Raises:
            NatsServerError: It exited or did not answer within `READY_TIMEOUT_S`.
        """
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError("the server is running already")
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._port is not None:
            self._start_on(self._port)
            return
        for attempt in range(PORT_ATTEMPTS_MAX):
            port = choose_free_port()
            try:
                self._start_on(port)
            except NatsServerError:
                if attempt + 1 < PORT_ATTEMPTS_MAX and _is_taken(port):
                    continue
                raise
            self._port = port
            return

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would; the store keeps what it acknowledged."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def stop(self) -> None:
        """End the server with SIGTERM and wait for it.

        Raises:
            NatsServerError: It did not end within `STOP_TIMEOUT_S`; it was killed then.
        """
        process = self._running()
        # A server that a test froze with SIGSTOP would not see SIGTERM otherwise.
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NatsServerError(self._with_log("nats-server ignored SIGTERM")) from None
        self._process = None

    def reload(self) -> None:
        """What `nats-server --signal reload` does; returns when the server has done it.

        Raises:
            NatsServerError: It refused the configuration, or did not answer in time.
        """
        n_before = self.log_path.read_text().count(RELOADED)
        self._running().send_signal(signal.SIGHUP)
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while (log := self.log_path.read_text()).count(RELOADED) == n_before:
            if "Failed to reload" in log or time.monotonic() > deadline_s:
                raise NatsServerError(self._with_log("nats-server did not reload"))
            time.sleep(POLL_INTERVAL_S)

    def restart(self) -> None:
        """Stop the server if it runs, then start it on the same port and store."""
        if self._process is not None:
            self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process

    def _start_on(self, port: int) -> None:
        name = self._name or f"test-{uuid.uuid4().hex}"
        command = [
            str(Path(sysconfig.get_path("scripts")) / "nats-server"),
            *(["--config", str(self._config)] if self._config else []),
            *["--addr", "127.0.0.1", "--port", str(port)],
            *(
                ["--name", name, "--jetstream", "--store_dir", str(self._folder / "store")]
                if self._environment is None
                else []
            ),
            *self._arguments,
        ]
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**read_environment(), **(self._environment or {})},
                preexec_fn=partial(_die_with_parent, os.getpid()),
            )
        try:
            self._wait_until_ready(process, port, name)
        except BaseException:
            process.kill()
            process.wait()
            raise
        self._process = process

    def _wait_until_ready(self, process: subprocess.Popen[bytes], port: int, name: str) -> None:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                raise NatsServerError(
                    self._with_log(f"nats-server exited with {process.returncode}")
                )
            info = _read_info(port)
            if info is not None and info.server_name == name and info.jetstream:
                return
            time.sleep(POLL_INTERVAL_S)
        raise NatsServerError(self._with_log(f"nats-server not ready after {READY_TIMEOUT_S} s"))

    def _with_log(self, text: str) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join([text, *lines[-10:]])


def _read_info(port: int) -> _Info | None:
    """Return what the server on this port says of itself, or None when there is no answer yet."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            greeting = connection.makefile("rb").readline()
    except OSError:
        return None
    if not greeting.startswith(b"INFO "):
        return None
    return msgspec.json.decode(greeting.removeprefix(b"INFO "), type=_Info)


def choose_free_port() -> int:
    """Return a port that is free now and that the kernel gives to no outgoing connection.

    A port of the ephemeral range would be at risk while the server is down: a client that keeps
    reconnecting to it can be given that very port, and then is connected to itself. So would one
    that a test beside this one may choose: each of pytest's workers has ports of its own.
    """
    for _ in range(PORT_ATTEMPTS_MAX):
        port = random.choice(PORTS)
        if not _is_taken(port):
            return port
    raise NatsServerError(f"found no free port among {PORTS}")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _die_with_parent(parent_pid: int) -> None:
    """Ask the kernel, between fork and exec, to kill this process when its parent dies."""
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the request reached the kernel.
    if os.getppid() != parent_pid:
        os._exit(1)
