import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.errors import MaxPayloadError
from nats.js.api import StorageType, StreamConfig

from tests.support.nats_server import NatsServer, NatsServerError

pytestmark = pytest.mark.nats


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


def run_in_child(script: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a Python process that can import the tests' support modules."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


async def store(url: str, payload: bytes) -> int:
    """Store one message in a file stream; return its sequence."""
    async with await nats.connect(url) as connection:  # pyright: ignore[reportUnknownMemberType]
        jetstream = connection.jetstream()  # pyright: ignore[reportUnknownMemberType]
        await jetstream.add_stream(  # pyright: ignore[reportUnknownMemberType]
            StreamConfig(name="KEPT", subjects=["kept"], storage=StorageType.FILE)
        )
        return (await jetstream.publish("kept", payload)).seq


async def load(url: str, sequence: int) -> bytes | None:
    """Return the payload of one stored message."""
    async with await nats.connect(url) as connection:  # pyright: ignore[reportUnknownMemberType]
        return (await connection.jetstream().get_msg("KEPT", sequence)).data  # pyright: ignore[reportUnknownMemberType]


def test_a_killed_server_comes_back_on_its_port_with_what_it_acknowledged(
    server: NatsServer,
) -> None:
    """Chaos tests kill the server and expect clients to reconnect and to lose nothing."""
    url, pid = server.url, server.pid
    sequence = asyncio.run(store(url, b"acknowledged"))

    server.kill()
    server.start()

    assert asyncio.run(load(url, sequence)) == b"acknowledged"
    assert (server.url, server.pid != pid) == (url, True)


def test_a_restart_keeps_port_and_store(server: NatsServer) -> None:
    """A planned restart must look to clients like a short break of the same server."""
    url = server.url
    sequence = asyncio.run(store(url, b"kept"))

    server.restart()

    assert asyncio.run(load(url, sequence)) == b"kept"
    assert server.url == url


def test_the_development_limits_leave_jetstream_working(server: NatsServer) -> None:
    """A payload near the limit is stored and read back; one above it is refused by the client."""
    near_limit = bytes(255 * 1024)

    sequence = asyncio.run(store(server.url, near_limit))

    assert asyncio.run(load(server.url, sequence)) == near_limit
    with pytest.raises(MaxPayloadError):
        asyncio.run(store(server.url, bytes(257 * 1024)))


def test_leaving_the_context_ends_the_server(tmp_path: Path) -> None:
    """A test that fails must not leave a server behind."""
    with NatsServer(tmp_path / "nats") as running:
        pid = running.pid

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="not running"):
        running.pid  # noqa: B018  (reading it is the claim)


def test_a_frozen_server_can_be_stopped(server: NatsServer) -> None:
    """Freezing is a scripted fault; the clean-up after it must not hang."""
    os.kill(server.pid, signal.SIGSTOP)

    server.stop()
    server.start()

    assert asyncio.run(store(server.url, b"thawed")) == 1


def test_a_broken_configuration_is_reported_with_the_servers_own_words(tmp_path: Path) -> None:
    """The person who edits the configuration sees the reason, not a timeout."""
    config = tmp_path / "broken.conf"
    config.write_text("no_such_setting: 1\n")

    with pytest.raises(NatsServerError, match="no_such_setting"):
        NatsServer(tmp_path / "nats", config=config).start()


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals exist on Linux only")
def test_the_server_dies_with_a_killed_parent(tmp_path: Path) -> None:
    """A test run that is killed outright must not leave servers that hold ports and memory."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.support.nats_server import NatsServer\n"
        "server = NatsServer(Path(sys.argv[1]))\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with run_in_child(script, str(tmp_path)) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        parent.kill()

    assert _ends_within(watch, timeout_s=10.0)


def _ends_within(pidfd: int, *, timeout_s: float) -> bool:
    """Say whether the process behind a descriptor ended; close the descriptor."""
    try:
        readable, _, _ = select.select([pidfd], [], [], timeout_s)
        return bool(readable)
    finally:
        os.close(pidfd)
