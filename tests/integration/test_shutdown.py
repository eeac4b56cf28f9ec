"""How services start and end: told to, without NATS, with streams, with wrong settings."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
import websockets

from speechbus_cli.embedded_nats import choose_port
from tests.support.bus_log import wait_until
from tests.support.command_line import run_speechbus, start_speechbus
from tests.support.frame_numbers import Tiling, build_frames, check_tiling
from tests.support.native_client import NativeClient, connect_native, watch_bus
from tests.support.simulator import simulator
from tests.support.system import Service, ServiceKind, System

pytestmark = pytest.mark.nats

EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
KINDS: Final[tuple[ServiceKind, ...]] = ("correlator", "translator", "transcriber", "ingest")
CUT_SHORT: Final = "stop took too long"


def end_of(service: Service) -> tuple[int, bool]:
    """Return the exit code of a service that was told to stop, and whether it kept its time."""
    code = service.wait_for_exit()
    return code, CUT_SHORT not in service.log_path.read_text()


@pytest.fixture
def unused_port() -> int:
    """Nobody listens there."""
    return choose_port("127.0.0.1", 0)


# --- told to stop ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_nats_up", [True, False], ids=["with NATS", "NATS gone"])
def test_services_without_streams_end_at_once_and_cleanly(
    tmp_path: Path, *, is_nats_up: bool
) -> None:
    """A deployment ends pods in any order; one that hangs or fails holds up all others."""
    with System(tmp_path, correlators=1, translators=1) as system:
        if not is_nats_up:
            system.nats.kill()
        for service in system.services:
            service.request_stop()
        ends = {service.name: end_of(service) for service in system.services}

    assert ends == {service.name: (0, True) for service in system.services}


def test_clients_of_an_ingest_that_stops_get_their_last_finals(tmp_path: Path) -> None:
    """A deployment in the middle of a sentence: what was said until then is not lost.

    They go on sending meanwhile, as live clients do; 1012 tells them to come again.
    """
    with System(tmp_path) as system:
        clients = asyncio.run(_stop_ingest_under_streams(system))

        assert end_of(system.ingest) == (0, True)

    for client in clients:
        closed = client.closed
        assert client.connection.close_code == 1012
        assert (closed.reason, closed.gap_ms) == ("shutdown", 0)
        assert closed.audio_ms >= 2_000
        assert check_tiling(client.finals, closed.audio_ms // 20) == EXACT
        assert [m for m in client.messages if m["type"] == "error"] == []


async def _stop_ingest_under_streams(system: System) -> list[NativeClient]:
    spoken = dict.fromkeys(range(3), 0)

    async def live(number: int) -> NativeClient:
        async with connect_native(system.ingest, system.key) as client:
            await client.open()
            await client.send(build_frames(1, 100))
            await client.hear_until("segment.partial")
            async with asyncio.TaskGroup() as tasks:
                speaking = tasks.create_task(speak_on(client, number))
                await client.hear_rest()
                speaking.cancel()
            return client

    async def speak_on(client: NativeClient, number: int) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                spoken[number] += 1
                await client.send(build_frames(100 + spoken[number], 1))
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(live(number)) for number in spoken]
        await wait_until(lambda: all(spoken.values()))
        worker, ingest = system.transcribers[0], system.ingest
        worker.freeze()  # so that clients do send between the end of their stream and its close
        ingest.request_stop()
        await wait_until(lambda: "stop requested" in ingest.log_path.read_text())
        before = dict(spoken)
        await wait_until(lambda: all(spoken[n] > before[n] + 2 for n in spoken))
        worker.thaw()
    return [client.result() for client in clients]


def test_a_worker_that_waits_for_its_provider_hands_over_at_once(tmp_path: Path) -> None:
    """A deployment during a rate limit: the wait that the provider asked for is not waited out."""
    script = 'faults = [{kind = "refuse", status = 429, retry_after_s = 60}]'
    with ExitStack() as stack:
        variables = stack.enter_context(simulator(tmp_path, script))
        system = stack.enter_context(
            System(
                tmp_path / "system",
                transcriber_settings={"PROVIDERS": "palabra"},
                environment=variables,
            )
        )
        (worker,) = system.transcribers

        async def hand_over() -> tuple[int, bool]:
            async with connect_native(system.ingest, system.key) as client:
                await client.open(providers=["palabra"])
                await wait_until(lambda: "http_429" in worker.log_path.read_text())
                await asyncio.to_thread(system.add_service, "transcriber")
                worker.request_stop()
                return await asyncio.to_thread(end_of, worker)

        assert asyncio.run(hand_over()) == (0, True)


def test_a_worker_that_stops_alone_leaves_its_streams_to_the_next(tmp_path: Path) -> None:
    """The last worker of a pool is replaced: its stream waits for the new one, whole."""
    with System(tmp_path, transcriber_settings={"DRAIN_S": "0.5"}) as system:
        former = system.transcribers[0]

        async def run() -> NativeClient:
            async with connect_native(system.ingest, system.key) as client:
                await client.open()
                await client.send(build_frames(1, 100))
                await client.hear_until("segment.partial")
                former.request_stop()
                await client.send(build_frames(101, 100))
                ends.append(await asyncio.to_thread(end_of, former))
                await client.send(build_frames(201, 100))
                await asyncio.to_thread(system.add_service, "transcriber")
                await client.end()
                return client

        ends: list[tuple[int, bool]] = []
        client = asyncio.run(run())

    assert ends == [(0, True)]
    assert check_tiling(client.finals, 300) == EXACT
    assert (client.closed.audio_ms, client.closed.gap_ms) == (6_000, 0)


def test_services_with_streams_end_in_time_when_nats_is_gone(tmp_path: Path) -> None:
    """Nothing can be handed over then: they end all the same, and the client is told.

    Ingest says by its exit code that audio it had accepted is lost with it.
    """
    settings = {"DRAIN_S": "1"}
    with System(
        tmp_path, correlators=1, ingest_settings=settings, transcriber_settings=settings
    ) as system:

        async def run() -> int | None:
            async with (
                watch_bus(system) as log,
                connect_native(system.ingest, system.key) as client,
            ):
                await client.open()
                await client.send(build_frames(1, 100))
                await client.hear_until("segment.partial")
                await wait_until(lambda: client.stream_id in log.events)
                system.nats.kill()
                await client.send(build_frames(101, 100))
                for service in system.services:
                    service.request_stop()
                await client.hear_rest()
                return client.connection.close_code

        code = asyncio.run(run())
        ends = {service.name: end_of(service) for service in system.services}

    assert code == 1012
    assert ends == {"correlator-1": (0, True), "transcriber-1": (0, True), "ingest-1": (1, True)}
    log = (tmp_path / "ingest-1.log").read_text()
    assert "accepted audio of 1 stream(s) is lost with this process" in log
    assert "Traceback" not in log
    assert "never awaited" not in log


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_that_waits_for_nats_can_be_stopped(
    tmp_path: Path, unused_port: int, kind: ServiceKind
) -> None:
    """The start may wait for ever; the end may not."""
    service = _service(tmp_path, kind, nats_port=unused_port)
    service.spawn()
    asyncio.run(wait_until(lambda: "waiting for NATS" in service.log_path.read_text()))
    service.request_stop()

    assert end_of(service) == (0, True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_that_was_started_first_begins_when_nats_comes(
    tmp_path: Path, kind: ServiceKind
) -> None:
    """Nobody has to start things in an order."""
    system = System(tmp_path, ingests=0, transcribers=0)
    with system:
        system.nats.stop()
        service = _service(tmp_path, kind, nats_port=int(system.nats.url.rpartition(":")[2]))
        service.spawn()
        try:
            asyncio.run(wait_until(lambda: "waiting for NATS" in service.log_path.read_text()))
            system.nats.start()
            system.bootstrap()
            service.wait_until_ready()
            service.request_stop()

            assert end_of(service) == (0, True)
        finally:
            if service.is_running:
                service.kill()


def test_a_bootstrap_that_waits_for_nats_can_be_stopped_and_says_that_it_is_not_done() -> None:
    """0 would let everything start that waits for its objects."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # accepts, and says nothing
        port = frozen.getsockname()[1]
        process = start_speechbus("bootstrap", "--nats-url", f"nats://127.0.0.1:{port}")
        with process, frozen.accept()[0]:
            process.terminate()
            output, errors = process.communicate(timeout=40)

    assert (process.returncode, output, errors) == (130, b"", b"")


def _service(folder: Path, kind: ServiceKind, *, nats_port: int) -> Service:
    settings: dict[ServiceKind, dict[str, str]] = {
        "ingest": {"API_KEYS": "acme:key"},
        "transcriber": {"PROVIDERS": "echo"},
        "correlator": {},
        "translator": {},
    }
    return Service(
        kind,
        name=kind,
        folder=folder,
        port=choose_port("127.0.0.1", 0),
        settings={"NATS_URL": f"nats://127.0.0.1:{nats_port}", **settings[kind]},
        environment={},
    )


# --- what cannot start -------------------------------------------------------------------------


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Somebody else listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("kind", "setting"),
    [("ingest", "LISTEN_PORT"), ("transcriber", "HEALTH_PORT"), ("correlator", "HEALTH_PORT")],
)
def test_a_port_that_is_taken_is_named_in_one_line(
    taken_port: int, kind: str, setting: str
) -> None:
    """The most usual mistake of a first start; a traceback would hide it."""
    done = run_speechbus(
        kind,
        input_bytes=b"",
        SPEECHBUS_INGEST_API_KEYS="acme:key",
        SPEECHBUS_TRANSCRIBER_PROVIDERS="echo",
        **{f"SPEECHBUS_{kind.upper()}_{setting}": str(taken_port)},
    )

    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"cannot listen on 127.0.0.1:{taken_port} (Address already in use): ")
    assert line.endswith(setting)


def test_an_address_that_is_none_is_named_in_one_line() -> None:
    """Not only taken ports: the reason is the system's own."""
    done = run_speechbus("correlator", SPEECHBUS_CORRELATOR_HEALTH_HOST="192.0.2.1")

    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line == (
        "cannot listen on 192.0.2.1:8082 (Cannot assign requested address):"
        " no address of this machine, set another HEALTH_HOST"
    )


def test_a_host_that_nobody_knows_is_not_blamed_on_the_port() -> None:
    """Another port would not help."""
    done = run_speechbus(
        "ingest",
        SPEECHBUS_INGEST_API_KEYS="acme:key",
        SPEECHBUS_INGEST_LISTEN_HOST="300.1.1.1",
    )

    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line == (
        "cannot listen on 300.1.1.1:8080 (Name or service not known):"
        " no address of this machine, set SPEECHBUS_INGEST_LISTEN_HOST"
    )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ingest", {"LISTEN_PORT": "99999", "CHUNK_MS": "1", "LOG_LEVEL": "LOUD"}),
        ("transcriber", {"HEALTH_PORT": "x", "SESSIONS_MAX": "0", "LOG_LEVEL": "LOUD"}),
        ("correlator", {"HEALTH_PORT": "x", "LOG_FORMAT": "xml", "LOG_LEVEL": "LOUD"}),
    ],
)
def test_all_wrong_settings_are_told_at_once(kind: str, settings: dict[str, str]) -> None:
    """Found one at a time, they cost a deployment each; 2 says that a restart does not help."""
    prefix = f"SPEECHBUS_{kind.upper()}_"
    variables = {f"{prefix}{name}": value for name, value in settings.items()}
    done = run_speechbus(kind, input_bytes=b"", **variables, **{f"{prefix}COLOUR": "red"})

    assert done.returncode == 2
    named = {line.split(" ")[0] for line in done.stderr.decode().splitlines()}
    assert {*variables, f"{prefix}COLOUR"} <= named
    assert (f"{prefix}API_KEYS" in named) == (kind == "ingest")
