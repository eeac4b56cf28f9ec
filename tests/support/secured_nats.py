"""A nats-server with the production configuration, and the users that it knows."""

import re
import shutil
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
    "login_settings",
    "password_of",
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
    folder: Path, *, tenants: Sequence[str] = (), more: str = "", monitor: int | None = None
) -> NatsServer:
    """Prepare a server with the files of `deploy/nats`.

    Args:
        folder: gets a copy of the configuration, the store and the log.
        tenants: that read the bus; their passwords are those of `reader-TENANT`.
        more: appended to speechbus.conf, for example a block of TLS.
        monitor: port of the monitoring; None: any free one.
    """
    copy = folder / "conf"
    shutil.copytree(CONFIG_FOLDER, copy, dirs_exist_ok=True)
    write_tenants(copy / "tenants.conf", tenants)
    config = copy / "speechbus.conf"
    config.write_text(config.read_text() + more)
    port = monitor or choose_free_port()
    return NatsServer(
        folder,
        config=config,
        arguments=("--http_port", str(port)),
        environment=build_environment(folder),
    )


def write_tenants(path: Path, tenants: Sequence[str]) -> None:
    """Fill in the example of tenants.conf, as its first lines say."""
    text = (CONFIG_FOLDER / "tenants.conf").read_text()
    block = "".join(
        f"{line.removeprefix('# ')}\n" for line in text[text.index("# READER_acme") :].splitlines()
    )
    block = re.sub(r"\$SPEECHBUS_NATS_READER_\w+", f'"{password_of("reader-acme")}"', block)
    path.write_text("\n".join(block.replace("acme", tenant) for tenant in tenants) + "\n")


def login_settings(user: str) -> Mapping[str, str]:
    """Return a service's settings for a user, without their prefix."""
    return {"NATS_USER": user, "NATS_PASSWORD": password_of(user)}


async def connect_as(server: NatsServer, user: str) -> BusConnection:
    """Return a connection of a user."""
    login = BusLogin(user=user, password=Secret(password_of(user)))
    return await connect_bus(server.url, name="test", login=login)
