"""A nats-server with the production configuration, and the users that it knows."""

import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.bus_login import BusLogin
from speechbus_runtime.secret import Secret
from tests.support.nats_server import NatsServer, choose_free_port

__all__ = [
    "CONFIG_FOLDER",
    "USERS",
    "build_environment",
    "build_secured_nats",
    "connect_as",
    "find_violations",
    "login_settings",
    "password_of",
    "write_passwords",
    "write_tenants",
]

CONFIG_FOLDER: Final = Path(__file__).parents[2] / "deploy" / "nats"
USERS: Final = ("ingest", "transcriber", "correlator", "translator", "bootstrap", "operator")
"""Of Speechbus' account."""
ONE_MORE: Final = ("sys", "cluster", "reader_acme")


def password_of(user: str) -> str:
    """Return the password that `build_environment` gives a user."""
    return f"password-of-{user}"


def build_environment(folder: Path) -> Mapping[str, str]:
    """Return the variables that the configuration reads."""
    return {
        "SPEECHBUS_NATS_STORE_DIR": str(folder / "store"),
        "SPEECHBUS_NATS_MEMORY_MAX": "4GB",
        "SPEECHBUS_NATS_FILES_MAX": "20GB",
        "SPEECHBUS_NATS_NAME": "nats-0",
        "SPEECHBUS_NATS_ROUTES": '["nats-route://speechbus:password-of-cluster@127.0.0.1:6222"]',
        **{
            f"SPEECHBUS_NATS_{user.upper()}_PASSWORD": password_of(user)
            for user in (*USERS, *ONE_MORE)
        },
    }


def build_secured_nats(
    folder: Path,
    *,
    tenants: Sequence[str] = (),
    has_guest: bool = False,
    more: str = "",
    name: str | None = None,
    arguments: Sequence[str] = (),
) -> NatsServer:
    """Prepare a server with the files of `deploy/nats`.

    Args:
        folder: gets a copy of the configuration, the store, the log, and services' passwords.
        tenants: that read the bus; their passwords are those of `reader-TENANT`.
        has_guest: who shows no user may do anything: a test that looks on.
        more: appended to speechbus.conf, for example a block of TLS.
        name: of the server; None: a fresh one.
        arguments: of its command line; None of them: any free port for the monitoring.
    """
    copy = folder / "conf"
    shutil.copytree(CONFIG_FOLDER, copy, dirs_exist_ok=True)
    write_tenants(copy / "tenants.conf", tenants)
    write_passwords(folder)
    if has_guest:
        users = copy / "users.conf"
        first = '{ user: "ingest",'
        guest = '{ user: "guest", password: "guest" }'
        users.write_text(users.read_text().replace(first, f"{guest}\n{first}"))
        more = f"\nno_auth_user: guest\n{more}"
    name = name or f"test-{uuid.uuid4().hex}"
    config = copy / "speechbus.conf"
    config.write_text(f'{config.read_text()}\nserver_name: "{name}"\n{more}')
    return NatsServer(
        folder,
        config=config,
        name=name,
        arguments=arguments or ("--http_port", str(choose_free_port())),
        environment=build_environment(folder),
    )


def write_tenants(path: Path, tenants: Sequence[str]) -> None:
    """Fill in the example of tenants.conf, as its first lines say."""
    text = (CONFIG_FOLDER / "tenants.conf").read_text()
    lines = text[text.index("# READER_acme") :].splitlines()
    block = "".join(f"{line.removeprefix('# ')}\n" for line in lines)
    block = re.sub(r"\$SPEECHBUS_NATS_READER_\w+", f'"{password_of("reader-acme")}"', block)
    path.write_text("\n".join(block.replace("acme", tenant) for tenant in tenants) + "\n")


def write_passwords(folder: Path, *, suffix: str = "", services: Sequence[str] = USERS) -> None:
    """Write the passwords of some users, for the server and in a file for each service."""
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    for user in services:
        (secrets / user).write_text(f"{password_of(user)}{suffix}\n")
    (folder / "conf" / "passwords.conf").write_text(
        "".join(
            f'{user.upper()}_PASSWORD: "{password_of(user)}{suffix if user in services else ""}"\n'
            for user in (*USERS, "sys")
        )
    )


def login_settings(folder: Path, user: str) -> Mapping[str, str]:
    """Return a service's settings for a user, without their prefix.

    Args:
        folder: of the server.
        user: the service's.
    """
    return {"NATS_USER": user, "NATS_PASSWORD_FILE": str(folder / "secrets" / user)}


def find_violations(log: Path) -> list[str]:
    """Return what a server has denied, as its log has it."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line for line in lines if "Violation" in line]


async def connect_as(server: NatsServer, user: str) -> BusConnection:
    """Return a connection of a user."""
    login = BusLogin(user=user, password=Secret(password_of(user)))
    return await connect_bus(server.url, name="test", login=login)
