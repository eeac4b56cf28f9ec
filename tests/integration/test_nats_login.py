"""Users, passwords and TLS at NATS, between real services and servers of the production files."""

import asyncio
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
import pytest

from speechbus_runtime.bus import connect_bus
from speechbus_runtime.bus_login import BusLogin, BusRefusedError
from speechbus_runtime.secret import Secret
from tests.support.bus_log import BusLog, wait_until
from tests.support.certificates import make_authority, make_certificate
from tests.support.command_line import COMMAND, build_environment, run_speechbus
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling
from tests.support.nats_server import NatsServer
from tests.support.secured_nats import (
    USERS,
    build_secured_nats,
    connect_as,
    password_of,
    write_passwords,
)
from tests.support.system import Service, System

pytestmark = pytest.mark.nats

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_FRAMES: Final = 200
"""Four seconds: one final, and what is left."""


def get(service: Service, path: str) -> bytes:
    """Return the body of an answer."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65_536), b"")).partition(b"\r\n\r\n")[2]


def read_reasons(service: Service) -> str:
    """Return what `/readyz` says is wrong; empty: nothing."""
    failing = msgspec.json.decode(get(service, "/readyz"))["failing"]
    return "; ".join(f"{each['name']}: {each['reason']}" for each in failing)


# --- users -----------------------------------------------------------------------------------


def test_a_refused_user_ends_a_start_with_what_to_do(tmp_path: Path) -> None:
    """Trying for ever would look like a NATS that is away."""
    with build_secured_nats(tmp_path) as server:
        done = run_speechbus(
            "correlator",
            SPEECHBUS_CORRELATOR_NATS_URL=server.url,
            SPEECHBUS_CORRELATOR_NATS_USER="correlator",
            SPEECHBUS_CORRELATOR_NATS_PASSWORD="a-wrong-password",
            SPEECHBUS_CORRELATOR_HEALTH_PORT="0",
        )

    said = done.stderr.decode()
    assert (done.returncode, "a-wrong-password" in said) == (2, False)
    assert "refuses the user correlator" in said
    assert "correct SPEECHBUS_CORRELATOR_NATS_USER and SPEECHBUS_CORRELATOR_NATS_PASSWORD" in said


def test_commands_show_the_users_of_their_variables(tmp_path: Path) -> None:
    """Bootstrap has one that may create, people have one that may look."""
    with build_secured_nats(tmp_path) as server:
        bootstrap = {
            "SPEECHBUS_BOOTSTRAP_NATS_URL": server.url,
            "SPEECHBUS_BOOTSTRAP_NATS_USER": "bootstrap",
            "SPEECHBUS_BOOTSTRAP_NATS_PASSWORD": password_of("bootstrap"),
        }
        operator = {
            "SPEECHBUS_NATS_URL": server.url,
            "SPEECHBUS_NATS_USER": "operator",
            "SPEECHBUS_NATS_PASSWORD_FILE": str(tmp_path / "secrets" / "operator"),
        }
        wrong = {**operator, "SPEECHBUS_NATS_USER": "translator"}
        wrong["SPEECHBUS_NATS_PASSWORD_FILE"] = str(tmp_path / "secrets" / "translator")
        nobody = run("bootstrap", {"SPEECHBUS_BOOTSTRAP_NATS_URL": server.url})
        made = run("bootstrap", bootstrap)
        looked = run("doctor", operator).stdout.decode()
        denied = run("doctor", wrong).stdout.decode()
        watched = run("watch", wrong)

    assert nobody.returncode == 4
    assert (made.returncode, made.stdout.count(b"created")) == (0, 12), made.stderr
    assert looked.count("present") == 12
    assert "denies Publish to" in denied
    assert "NATS does not let this user hear heartbeats" in denied
    assert (watched.returncode, b"does not let this user watch" in watched.stderr) == (4, True)


def run(command: str, variables: Mapping[str, str]) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*COMMAND, command],
        capture_output=True,
        env=build_environment(**variables),
        timeout=60,
        check=False,
    )


def test_a_denied_right_is_told_by_readiness_log_and_metric(tmp_path: Path) -> None:
    """To the service it is a time-out like any other."""
    system = System(tmp_path)
    with ExitStack() as stack:
        system.start()
        stack.callback(system.end)  # the block of a system fails when anything was denied
        take_right(tmp_path / "nats" / "conf" / "users.conf", '"speech.v1.provider.>"')
        system.nats.reload()
        worker = system.transcribers[0]
        worker.stop()
        worker.spawn()
        asyncio.run(wait_until(lambda: worker.probe("/readyz") == 503 and is_denied(worker)))
        reasons, metrics = read_reasons(worker), get(worker, "/metrics").decode()
        log = worker.log_path.read_text()

    assert 'NATS denies Subscription to "speech.v1.provider.>"' in reasons
    assert "give this service's user the right (users.conf)" in reasons
    assert reasons.count("Subscription to") == 1  # of the connection that wanted it
    assert "speechbus_bus_denials_total 1.0" in metrics
    line = next(line for line in log.splitlines() if "NATS denied a subject" in line)
    assert ('"error"' in line.lower(), "speech.v1.provider.>" in line) == (True, True)


def take_right(path: Path, right: str) -> None:
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, ""))


def is_denied(service: Service) -> bool:
    return "permissions" in read_reasons(service)


def test_passwords_change_by_reload_under_a_live_stream(tmp_path: Path) -> None:
    """The server knows the new ones first, the worst order: services are out until theirs come."""
    with System(tmp_path, correlators=1) as system:
        received, reasons = asyncio.run(stream_through_a_rotation(system, tmp_path / "nats"))
        logs = "".join(service.log_path.read_text() for service in system.services)
        old = BusLogin(user="ingest", password=Secret(password_of("ingest")))
        with pytest.raises(BusRefusedError):
            asyncio.run(connect_bus(system.nats.url, name="test", login=old))

    assert received.check_tiling(N_FRAMES) == EXACT
    assert (received.gaps, received.closed is not None) == ([], True)
    assert "refuses the user ingest" in reasons
    assert ("NATS lets us in no more" in logs, "password-of" in logs) == (True, False)


async def stream_through_a_rotation(system: System, folder: Path) -> tuple[Received, str]:
    """Return what a client got, and what ingest's readiness said meanwhile."""
    bus = await connect_bus(system.nats.url, name="test-log")
    log = BusLog(bus)
    async with asyncio.TaskGroup() as tasks:
        client = tasks.create_task(stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES))
        await wait_until(lambda: log.n_with_final == 1)
        files = {user: (folder / "secrets" / user).read_text() for user in USERS}
        write_passwords(folder, suffix="-new")
        for user, text in files.items():
            (folder / "secrets" / user).write_text(text)  # not there yet
        await asyncio.to_thread(system.nats.reload)
        await wait_until(lambda: "login" in read_reasons(system.ingest))
        reasons = read_reasons(system.ingest)
        write_passwords(folder, suffix="-new")
        for service in system.services:
            await asyncio.to_thread(service.wait_until_ready)
    await bus.shut_down()
    return client.result(), reasons


# --- TLS -------------------------------------------------------------------------------------


def tls_block(authority: Path, *, verify: bool) -> str:
    """Return the block that speechbus.conf has commented out, for real files."""
    cert, key = make_certificate(authority, "server")
    text = (Path(__file__).parents[2] / "deploy" / "nats" / "speechbus.conf").read_text()
    found = re.search(r"^# tls \{\n(?:#.*\n)+?# \}\n", text, re.MULTILINE)
    assert found is not None
    block = found[0].replace("# ", "", 1).replace("\n# ", "\n")
    for name, path in (("server.pem", cert), ("server-key.pem", key), ("ca.pem", authority)):
        block = block.replace(f"/etc/nats/tls/{name}", str(path))
    return f"\n{block.replace('verify:    false', f'verify: {str(verify).lower()}')}"


@needs_openssl
def test_services_take_the_next_server_over_tls(tmp_path: Path) -> None:
    """Several URLs, one authority; the one they have is killed."""
    authority = make_authority(tmp_path / "tls", "authority")
    more = tls_block(authority, verify=False)
    with (
        build_secured_nats(tmp_path / "a", more=more) as first,
        build_secured_nats(tmp_path / "b", more=more) as second,
    ):
        login = BusLogin(user="ingest", password=Secret(password_of("ingest")), ca=str(authority))

        async def change() -> tuple[str, str]:
            urls = f"{first.url},{second.url}".replace("nats://", "tls://")
            bus = await connect_bus(urls, name="test", login=login)
            before = bus.connected_url
            assert before is not None
            (first if before.port == int(first.url.rpartition(":")[2]) else second).kill()
            await wait_until(lambda: bus.is_connected and bus.connected_url != before)
            after = bus.connected_url
            assert after is not None
            await bus.shut_down()
            return f"nats://127.0.0.1:{before.port}", f"nats://127.0.0.1:{after.port}"

        assert set(asyncio.run(change())) == {first.url, second.url}


@needs_openssl
def test_a_stream_goes_on_over_tls_when_nats_restarts(tmp_path: Path) -> None:
    """Services run on uvloop, whose TLS is its own; a server that dies must not hold them."""
    authority = make_authority(tmp_path / "tls", "authority")
    cert, key = make_certificate(authority, "service")
    tls = {"NATS_CA": str(authority), "NATS_CERT": str(cert), "NATS_KEY": str(key)}
    system = System(tmp_path, ingest_settings=tls, transcriber_settings=tls, bootstrap_settings=tls)
    config = tmp_path / "nats" / "conf" / "speechbus.conf"
    config.write_text(config.read_text() + tls_block(authority, verify=True))
    files = BusLogin(ca=str(authority), cert=str(cert), key=str(key))
    with system:
        received = asyncio.run(stream_through_a_restart(system, files))

    assert (received.check_tiling(N_FRAMES), received.gaps) == (EXACT, [])


async def stream_through_a_restart(system: System, files: BusLogin) -> Received:
    bus = await connect_bus(system.nats.url, name="test-log", login=files)
    log = BusLog(bus)
    async with asyncio.TaskGroup() as tasks:
        client = tasks.create_task(stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES))
        await wait_until(lambda: log.n_with_final == 1)
        await asyncio.to_thread(system.nats.kill)
        await asyncio.to_thread(system.nats.start)
    await bus.shut_down()
    return client.result()


@needs_openssl
def test_a_server_of_another_authority_is_refused(tmp_path: Path) -> None:
    """Nobody who comes in between gets a password."""
    authority = make_authority(tmp_path / "tls", "authority")
    stranger = make_authority(tmp_path / "tls", "stranger")
    with build_secured_nats(tmp_path, more=tls_block(authority, verify=False)) as server:
        for ca in (str(stranger), ""):  # not ours, and not the system's
            with pytest.raises(BusRefusedError, match="expected authority"):
                asyncio.run(connect_over_tls(server, ca=ca))


@needs_openssl
def test_a_server_may_ask_for_a_certificate(tmp_path: Path) -> None:
    """`verify: true` in speechbus.conf."""
    authority = make_authority(tmp_path / "tls", "authority")
    cert, key = make_certificate(authority, "client")
    with build_secured_nats(tmp_path, more=tls_block(authority, verify=True)) as server:
        with pytest.raises(BusRefusedError, match="NATS_CERT"):
            asyncio.run(connect_over_tls(server, ca=str(authority)))

        asyncio.run(connect_over_tls(server, ca=str(authority), cert=str(cert), key=str(key)))


async def connect_over_tls(server: NatsServer, **files: str) -> None:
    login = BusLogin(user="ingest", password=Secret(password_of("ingest")), **files)
    url = server.url.replace("nats://", "tls://")
    await (await connect_bus(url, name="test", login=login)).shut_down()


def test_nothing_is_said_in_clear_where_tls_is_wanted() -> None:
    """The greeting comes in clear: whoever sits in between could take "TLS" out of it."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = threading.Thread(target=greet_without_tls, args=(listener, heard))
        server.start()
        login = BusLogin(user="ingest", password=Secret("secret"))
        with pytest.raises(BusRefusedError):
            asyncio.run(connect_bus(f"tls://127.0.0.1:{port}", name="test", login=login))
        server.join()

    assert bytes(heard) == b""


def greet_without_tls(listener: socket.socket, heard: bytearray) -> None:
    """Greet one client as a server without TLS; keep what it says until it goes."""
    connection, _ = listener.accept()
    with connection:
        connection.sendall(
            b'INFO {"server_id":"x","version":"2.15.1","max_payload":1,"auth_required":true}\r\n'
        )
        while data := connection.recv(4_096):
            heard += data


# --- connections that the server ends ----------------------------------------------------------


def test_a_connection_that_the_server_ends_is_made_again(tmp_path: Path) -> None:
    """nats-py takes an error of the server's for the end of all."""
    with build_secured_nats(tmp_path) as server:

        async def break_protocol() -> int:
            bus = await connect_as(server, "ingest")
            back = asyncio.Event()

            async def note() -> None:
                back.set()

            bus.on_reconnected(note)
            bus.publish_nowait(b"no subject but five words", b"")
            async with asyncio.timeout(30):
                await back.wait()
            await bus.flush()
            await bus.shut_down()
            return bus.stats["reconnects"]

        assert asyncio.run(break_protocol()) == 1
