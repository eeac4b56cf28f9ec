"""What befalls a NATS server from outside: full stores, and subscribers that do not read."""

import socket
from pathlib import Path
from typing import Final

from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.jetstream import StreamSpec, ensure, request_api
from tests.support.nats_server import DEV_CONFIG

__all__ = ["build_small_store", "empty_store", "fill_store", "subscribe_and_sleep"]

FILLER: Final = StreamSpec(name="FILLER", config={"subjects": ["filler"], "storage": "file"})
FILE_STORE: Final = "max_file_store: 20GB"


def build_small_store(folder: Path) -> Path:
    """Return a configuration like that of `speechbus dev`, with 4 MB for all files."""
    config = folder / "small-store.conf"
    text = DEV_CONFIG.read_text()
    if FILE_STORE not in text:
        raise ValueError(f"{DEV_CONFIG} has no `{FILE_STORE}` any more")
    config.write_text(text.replace(FILE_STORE, "max_file_store: 4MB"))
    return config


async def fill_store(url: str) -> None:
    """Store as much as the server takes; what it holds by then stays."""
    bus = await connect_bus(url, name="test-filler")
    await ensure(bus, [FILLER])
    for size in (200_000, 1_000, 10):
        await _publish_until_full(bus, size)
    await bus.shut_down()


async def empty_store(url: str) -> None:
    """Make room again."""
    bus = await connect_bus(url, name="test-filler")
    await request_api(bus, f"STREAM.PURGE.{FILLER.name}", {})
    await bus.shut_down()


async def _publish_until_full(bus: BusConnection, size: int) -> None:
    while b"error" not in (await bus.request("filler", bytes(size), timeout=10)).data:
        pass


def subscribe_and_sleep(url: str) -> socket.socket:
    """Subscribe to everything that Speechbus publishes, 50 times, and never read; close it later.

    As many copies, so that a few streams are much to read.
    """
    sleeper = socket.socket()
    sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sleeper.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    sleeper.sendall(b'CONNECT {"verbose":false}\r\n')
    for sid in range(50):
        sleeper.sendall(b"SUB speech.v1.> %d\r\n" % sid)
    return sleeper
