"""Three real nats-servers as one cluster, whose nodes can be killed, frozen, drained and cut off.

Routes run through small TCP relays, one for each pair of nodes, so that a cut needs no rights on
the machine's network.
"""

import asyncio
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, closing, suppress
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import msgspec

from speechbus_runtime.replication import has_quorum
from tests.support.nats_server import NatsServerError, choose_free_port
from tests.support.secured_nats import build_secured_nats

__all__ = ["NatsCluster"]

HOST: Final = "127.0.0.1"
N_NODES: Final = 3
READY_TIMEOUT_S: Final = 60.0
"""Usually half a second; with three servers that recover on a busy machine it takes more."""
POLL_INTERVAL_S: Final = 0.05
RELAY_BYTES: Final = 1 << 16


class NatsCluster:
    """For `System` what a single `NatsServer` is; all calls block."""

    def __init__(self, folder: Path) -> None:
        """Choose ports; nothing runs before `start`.

        Args:
            folder: Where stores and logs go; created when missing.
        """
        self._relays = _Relays()
        ports = [choose_free_port() for _ in range(N_NODES)]
        self._monitors = [choose_free_port() for _ in range(N_NODES)]
        routes: dict[int, list[str]] = {index: [] for index in range(N_NODES)}
        for start, target in permutations(range(N_NODES), 2):
            relay = self._relays.add((start, target), ports[target])
            routes[start].append(f"nats://{HOST}:{relay}")
        self.nodes = [
            build_secured_nats(
                folder / f"node-{index}",
                has_guest=True,
                name=f"node-{index}",
                arguments=(
                    *("--cluster_name", "test", "--cluster", f"nats://{HOST}:{port}"),
                    # Else nodes tell each other the way past the relays.
                    *("--cluster_advertise", f"{HOST}:1"),
                    *("--routes", ",".join(routes[index])),
                    *("--http_port", str(self._monitors[index])),
                ),
            )
            for index, port in enumerate(ports)
        ]

    @property
    def url(self) -> str:
        """Of all nodes, for clients."""
        return ",".join(node.url for node in self.nodes)

    def start(self) -> None:
        """Start all nodes and return when JetStream has found all of them.

        Raises:
            NatsServerError: A node did not start, or they did not find each other in time.
        """
        self._relays.start()
        for node in self.nodes:
            node.start()
        probe = {"name": "PROBE", "subjects": ["probe"], "num_replicas": N_NODES}
        self.wait_until(
            lambda: "error" not in self.ask("STREAM.CREATE.PROBE", body=probe),
            what="JetStream is not ready",
        )
        self.ask("STREAM.DELETE.PROBE")

    def kill(self) -> None:
        """End all nodes that run with SIGKILL."""
        for node in self.nodes:
            with suppress(RuntimeError):
                node.kill()
        self._relays.stop()

    def drain(self, index: int) -> None:
        """End a node by way of lame-duck mode: it hands over what it leads, and clients leave."""
        node = self.nodes[index]
        os.kill(node.pid, signal.SIGUSR2)
        self.wait_until(
            lambda: "JetStream Shutdown" in node.log_path.read_text().rpartition("lame duck")[2],
            what="no lame-duck mode",
        )
        node.kill()  # it would wait 10 s for clients who have gone

    def cut(self, index: int) -> None:
        """Let nothing pass between a node and the others; its clients keep it."""
        self._relays.hold(index)

    def heal(self, index: int) -> None:
        """Let pass what waits, and all that comes."""
        self._relays.release(index)

    def leader_of(self, store: str, *, asked: int | None = None) -> int:
        """Return the node that leads a JetStream stream; waits until there is one."""
        leader = ""

        def has_leader() -> bool:
            nonlocal leader
            info = self.ask(f"STREAM.INFO.{store}", asked=asked)
            leader = info.get("cluster", {}).get("leader", "")
            return bool(leader)

        self.wait_until(has_leader, what=f"{store} has no leader")
        return int(leader.removeprefix("node-"))

    def step_down(self, store: str, *, to: int) -> None:
        """Have another node lead a JetStream stream; returns when it does."""
        body = {"placement": {"preferred": f"node-{to}"}}
        if self.leader_of(store) != to:
            self.ask(f"STREAM.LEADER.STEPDOWN.{store}", body=body)
            self.wait_until(lambda: self.leader_of(store) == to, what=f"{store} stays")

    def wait_until_current(self, *stores: str) -> None:
        """Return when every node has all that these stores hold by now.

        What the leader says of its replicas is not enough: one whose memory is empty counts as
        current before it has copied anything.
        """

        def are_current() -> bool:
            infos = {store: self.ask(f"STREAM.INFO.{store}") for store in stores}
            if any("error" in info or not has_quorum(info) for info in infos.values()):
                return False
            held = [_read_last_sequences(port) for port in self._monitors]
            return all(
                node.get(store, -1) >= info["state"]["last_seq"]
                for node in held
                for store, info in infos.items()
            )

        self.wait_until(are_current, what=f"{', '.join(stores)}: replicas lag behind")

    def ask(
        self, call: str, *, asked: int | None = None, body: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        """Send `$JS.API.<call>` to a node; `{"error": …}` when there is no answer in a second."""
        nodes = self.nodes if asked is None else [self.nodes[asked]]
        for node in nodes:
            with suppress(OSError, RuntimeError, ValueError, msgspec.DecodeError):
                port = int(node.url.rpartition(":")[2])
                return _request(port, f"$JS.API.{call}", msgspec.json.encode(body or {}))
        return {"error": "no answer"}

    def wait_until(self, condition: Callable[[], bool], *, what: str) -> None:
        """Return as soon as a condition holds.

        Raises:
            NatsServerError: It does not in time.
        """
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise NatsServerError(f"{what} after {READY_TIMEOUT_S} s")
            time.sleep(POLL_INTERVAL_S)


def _read_last_sequences(monitor: int) -> Mapping[str, int]:
    """Return the last sequence of each JetStream stream that a node itself holds."""
    connection = http.client.HTTPConnection(HOST, monitor, timeout=1.0)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/jsz?streams=1")
        report = msgspec.json.decode(connection.getresponse().read())
        return {
            stream["name"]: stream["state"]["last_seq"]
            for account in report.get("account_details", ())
            for stream in account.get("stream_detail", ())
        }
    return {}


def _request(port: int, subject: str, body: bytes) -> Mapping[str, Any]:
    with socket.create_connection((HOST, port), timeout=1.0) as connection:
        connection.settimeout(1.0)
        lines = connection.makefile("rb")
        lines.readline()
        connection.sendall(
            b'CONNECT {"verbose":false,"no_responders":true,"headers":true}\r\n'
            b"SUB answer 1\r\nPUB %b answer %d\r\n%b\r\n" % (subject.encode(), len(body), body)
        )
        while line := lines.readline():
            if line.startswith(b"MSG "):
                answer: Mapping[str, Any] = msgspec.json.decode(lines.read(int(line.split()[-1])))
                return answer
            if not line.startswith((b"INFO", b"PING", b"+OK")):
                break
    raise ValueError("no answer")


class _Relays:
    """TCP relays between pairs of nodes, in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._ports: dict[tuple[int, int], tuple[int, int]] = {}
        self._open: dict[tuple[int, int], asyncio.Event] = {}
        self._stop = asyncio.Event()
        self._is_listening = threading.Event()

    def add(self, pair: tuple[int, int], target_port: int) -> int:
        """Return the port that leads to `target_port`."""
        port = choose_free_port()
        self._ports[pair] = (port, target_port)
        self._open[pair] = asyncio.Event()
        self._open[pair].set()
        return port

    def start(self) -> None:
        self._thread.start()
        self._is_listening.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def hold(self, index: int) -> None:
        for pair, is_open in self._open.items():
            if index in pair:
                self._loop.call_soon_threadsafe(is_open.clear)

    def release(self, index: int) -> None:
        for pair, is_open in self._open.items():
            if index in pair:
                self._loop.call_soon_threadsafe(is_open.set)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            for pair, (port, target_port) in self._ports.items():
                relay = partial(_relay, target_port, self._open[pair])
                server = await asyncio.start_server(relay, HOST, port)
                await stack.enter_async_context(server)
            self._is_listening.set()
            await self._stop.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()


async def _relay(
    target_port: int,
    is_open: asyncio.Event,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    # Aborted, not closed: what is held back would never be written.
    with ExitStack() as stack, suppress(OSError, asyncio.CancelledError):
        stack.callback(writer.transport.abort)
        await is_open.wait()
        far_reader, far_writer = await asyncio.open_connection(HOST, target_port)
        with ExitStack() as far:
            far.callback(far_writer.transport.abort)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_pass_on(reader, far_writer, is_open))
                ways.create_task(_pass_on(far_reader, writer, is_open))


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event
) -> None:
    with suppress(OSError):
        while data := await reader.read(RELAY_BYTES):
            await is_open.wait()
            writer.write(data)
            await writer.drain()
    writer.close()
