"""Every file in deploy/nats is what nats-server takes, also with what is commented out in it."""

import asyncio
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from speechbus_cli.settings import read_environment
from speechbus_runtime.bus import connect_bus
from speechbus_runtime.bus_login import BusLogin
from speechbus_runtime.jetstream import (
    JetStreamError,
    JetStreamUnavailableError,
    StreamSpec,
    ensure,
    request_api,
)
from speechbus_runtime.secret import Secret
from tests.support.certificates import make_authority, make_certificate
from tests.support.nats_server import NatsServer, choose_free_port
from tests.support.secured_nats import (
    CONFIG_FOLDER,
    USERS,
    build_environment,
    password_of,
    write_tenants,
)

pytestmark = pytest.mark.nats

WHOLE: Final = ("dev.conf", "speechbus.conf", "cluster.conf")
"""Those that a server is started with; they include all others."""


def check(config: Path, **changes: str | None) -> "subprocess.CompletedProcess[str]":
    """Run `nats-server -t`; None takes a variable away."""
    variables = {**read_environment(), **build_environment(config.parent), **changes}
    return subprocess.run(
        [str(Path(sysconfig.get_path("scripts")) / "nats-server"), "-t", "-c", str(config)],
        capture_output=True,
        text=True,
        env={name: value for name, value in variables.items() if value is not None},
        timeout=60,
        check=False,
    )


def test_the_files_include_each_other() -> None:
    """A file that nothing includes would be checked by nothing."""
    included = {
        name
        for path in CONFIG_FOLDER.glob("*.conf")
        for name in re.findall(r"^\s*include \./(\S+)$", path.read_text(), re.MULTILINE)
    }

    assert {path.name for path in CONFIG_FOLDER.glob("*.conf")} == included | set(WHOLE)


@pytest.mark.parametrize("name", WHOLE)
def test_a_server_takes_the_file(name: str) -> None:
    """As it stands, with the variables that it names."""
    done = check(CONFIG_FOLDER / name)

    assert done.returncode == 0, done.stderr


def test_a_password_that_is_not_set_is_an_error() -> None:
    """An empty one would let everybody in."""
    done = check(CONFIG_FOLDER / "speechbus.conf", SPEECHBUS_NATS_INGEST_PASSWORD=None)

    assert done.returncode == 1
    assert "SPEECHBUS_NATS_INGEST_PASSWORD" in done.stderr


_BLOCK: Final = re.compile(r"^( *)# \w+ \{\n(?:\1#.*\n)+?\1# \}\n", re.MULTILINE)


def uncomment(block: re.Match[str]) -> str:
    return re.sub(r"^( *)# ?", r"\1", block[0], flags=re.MULTILINE)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_what_is_commented_is_right_once_it_is_wanted(tmp_path: Path) -> None:
    """TLS for clients and between servers, WebSocket, tenants: nobody shall meet a typing error."""
    shutil.copytree(CONFIG_FOLDER, tmp_path, dirs_exist_ok=True)
    authority = make_authority(tmp_path / "tls", "ca")
    cert, key = make_certificate(authority, "server")
    for path in tmp_path.glob("*.conf"):
        text = _BLOCK.sub(uncomment, path.read_text())
        text = text.replace("/etc/nats/tls/server.pem", str(cert))
        text = text.replace("/etc/nats/tls/server-key.pem", str(key))
        path.write_text(text.replace("/etc/nats/tls/ca.pem", str(authority)))
    write_tenants(tmp_path / "tenants.conf", ("acme", "globex"))

    done = check(tmp_path / "cluster.conf")

    assert done.returncode == 0, done.stderr
    text = (tmp_path / "speechbus.conf").read_text() + (tmp_path / "cluster.conf").read_text()
    assert re.findall(r"^ *(tls|websocket) \{$", text, re.MULTILINE) == ["tls", "websocket", "tls"]


def test_three_servers_are_a_cluster_with_jetstream(tmp_path: Path) -> None:
    """By cluster.conf, each with its own variables."""
    ports = [choose_free_port() for _ in range(3)]
    servers = [build_node(tmp_path / str(number), number, ports) for number in range(3)]
    try:
        for server in servers:
            server.start()

        assert asyncio.run(count_replicas(servers[0].url)) == 3
    finally:
        for server in servers:
            server.stop()


def build_node(folder: Path, number: int, ports: list[int]) -> NatsServer:
    conf = folder / "conf"
    shutil.copytree(CONFIG_FOLDER, conf)
    config = conf / "cluster.conf"
    config.write_text(config.read_text().replace("0.0.0.0:6222", f"127.0.0.1:{ports[number]}"))
    routes = ", ".join(
        f'"nats-route://speechbus:{password_of("cluster")}@127.0.0.1:{p}"' for p in ports
    )
    return NatsServer(
        folder,
        config=config,
        name=f"nats-{number}",
        arguments=("--http_port", str(choose_free_port())),
        environment={
            **build_environment(folder),
            "SPEECHBUS_NATS_NAME": f"nats-{number}",
            "SPEECHBUS_NATS_ROUTES": f"[{routes}]",
        },
    )


async def count_replicas(url: str) -> int:
    """Make a store that wants all three; return how many hold it."""
    login = BusLogin(user="bootstrap", password=Secret(password_of("bootstrap")))
    bus = await connect_bus(url, name="test", login=login)
    spec = StreamSpec(name="PROBE", config={"subjects": ["probe"], "num_replicas": 3})
    async with asyncio.timeout(60):
        while True:
            try:
                await ensure(bus, [spec])
                info = await request_api(bus, "STREAM.INFO.PROBE", {})
                break
            except (JetStreamError, JetStreamUnavailableError):
                await asyncio.sleep(0.05)
    await bus.shut_down()
    return 1 + len(info["cluster"]["replicas"])


def test_passwords_are_made_once_and_taken_by_the_server(tmp_path: Path) -> None:
    """By make-secrets.sh: nobody else may read them, and a second run locks nobody out."""
    secrets, config = tmp_path / "secrets", tmp_path / "conf"
    shutil.copytree(CONFIG_FOLDER, config)

    made = [make_secrets(secrets) for _ in range(2)]

    assert made[0] == made[1]
    assert len(set(made[0].values())) == len(made[0]) == 9
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o600}
    shutil.copy(secrets / "passwords.conf", config)
    names = [f"SPEECHBUS_NATS_{user.upper()}_PASSWORD" for user in (*USERS, "sys")]
    done = check(config / "speechbus.conf", **dict.fromkeys(names))
    assert done.returncode == 0, done.stderr
    for user in (*USERS, "sys"):
        line = f'{user.upper()}_PASSWORD: "{made[0][f"nats_{user}_password"].strip()}"'
        assert line in made[0]["passwords.conf"].splitlines()


def make_secrets(folder: Path) -> dict[str, str]:
    """Return the files' contents by their names."""
    command = ["sh", str(CONFIG_FOLDER / "make-secrets.sh"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return {path.name: path.read_text() for path in folder.iterdir()}
