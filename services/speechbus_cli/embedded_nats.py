"""The nats-server that `speechbus dev` brings along: where it is, its few settings, its port."""

import asyncio
import random
import socket
import sysconfig
import uuid
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import msgspec

from speechbus_cli.errors import FailedError
from speechbus_cli.supervisor import ChildSpec

__all__ = ["HOST", "NATS_CONFIG", "PREFERRED_PORT", "EmbeddedNats", "choose_port", "is_port_free"]

HOST: Final = "127.0.0.1"
PREFERRED_PORT: Final = 4222
READY_TIMEOUT_S: Final = 30.0
"""Usually 20 ms; recovering a large store on a busy machine takes longer."""
POLL_INTERVAL_S: Final = 0.02
PORT_ATTEMPTS_MAX: Final = 20
"""A free port is found at the first attempt unless thousands are taken."""
NATS_CONFIG: Final = """\
listen: "127.0.0.1:4222"
max_payload: 256KB
write_deadline: "2s"
max_pending: 8MB
no_fast_producer_stall: true
jetstream {
  max_memory_store: 4GB
  max_file_store: 20GB
  limits {
    default_max_consumers: 4096
  }
}
"""
"""The settings of `deploy/nats/dev.conf`, which gives the reasons and is not part of the wheel."""


class _Info(msgspec.Struct, frozen=True):
    server_name: str
    jetstream: bool = False


class EmbeddedNats:
    """One nats-server with JetStream on loopback, its store in the data folder."""

    def __init__(self, folder: Path) -> None:
        """Choose a port; nothing runs yet.

        Args:
            folder: exists; gets the configuration, the store and the log.

        Raises:
            FailedError: the program is not there, or no port is free.
        """
        self.port = choose_port(HOST, PREFERRED_PORT)
        self._folder = folder
        # Fresh each time, to tell our server from a stranger on the same port.
        self._name = f"speechbus-dev-{uuid.uuid4().hex[:12]}"
        self._program = Path(sysconfig.get_path("scripts")) / "nats-server"
        if not self._program.is_file():
            raise FailedError(
                f"{self._program} is missing: install Speechbus again (`make setup` in a checkout),"
                " or use a server of yours by --nats-url."
            )

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{HOST}:{self.port}"

    def build_spec(self, environment: Mapping[str, str], *, stop_order: int) -> ChildSpec:
        """Write the configuration; return how to run the server."""
        config = self._folder / "nats.conf"
        config.write_text(NATS_CONFIG, encoding="utf-8")
        return ChildSpec(
            name="nats",
            command=(
                *[str(self._program), "--config", str(config)],
                *["--addr", HOST, "--port", str(self.port), "--name", self._name],
                *["--jetstream", "--store_dir", str(self._folder / "nats")],
            ),
            environment=environment,
            log_path=self._folder / "nats.log",
            stop_order=stop_order,
        )

    async def wait_until_ready(self) -> None:
        """Return once our server takes connections and its JetStream is on.

        Raises:
            FailedError: not within `READY_TIMEOUT_S`.
        """
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not await self._is_ready():  # noqa: ASYNC110  (another process)
                    await asyncio.sleep(POLL_INTERVAL_S)
        except TimeoutError:
            raise FailedError(
                f"nats-server did not start within {READY_TIMEOUT_S:.0f} s: read its log,"
                f" {self._folder / 'nats.log'}."
            ) from None

    async def _is_ready(self) -> bool:
        with suppress(OSError, ValueError):  # not there yet, or no NATS server
            reader, writer = await asyncio.open_connection(HOST, self.port)
            with closing(writer):
                greeting = await reader.readline()
            if greeting.startswith(b"INFO "):
                info = msgspec.json.decode(greeting.removeprefix(b"INFO "), type=_Info)
                return info.server_name == self._name and info.jetstream
        return False


def choose_port(host: str, preferred: int) -> int:
    """Return the preferred port, or another one that is free now.

    Raises:
        FailedError: none is free.
    """
    if preferred and is_port_free(host, preferred):
        return preferred
    for _ in range(PORT_ATTEMPTS_MAX):
        # Below the range from which the kernel gives ports to outgoing connections: a client that
        # reconnects to a server that is down could otherwise be given that very port.
        port = random.randrange(15_000, 30_000)  # noqa: S311  (no secret)
        if is_port_free(host, port):
            return port
    raise FailedError(f"No port of {host} is free: end programs that listen on many.")


def is_port_free(host: str, port: int) -> bool:
    """Tell whether a server could listen there now.

    Raises:
        FailedError: the host is none of this machine, or this user may not listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise FailedError(f"{host} is no address of this machine: use 127.0.0.1.") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            raise FailedError(
                f"{host}:{port}: this user may not listen there; use a port from 1024 on."
            ) from None
        except OSError:
            return False
    return True
