"""Connections to NATS for commands: one try, then a sentence instead of endless patience."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import nats.errors
from nats.aio.client import Client

from speechbus_cli.errors import CannotConnectError, CommandError, UnauthorizedError
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.bus_login import NO_LOGIN, BusClient, BusLogin, BusRefusedError, is_refusal
from speechbus_runtime.cancellation import keeps_cancellation

__all__ = ["connect_bus_once", "connect_reader", "explain_nats_error", "hide_password"]

CONNECT_TIMEOUT_S: Final = 5.0
"""A reachable server answers within milliseconds, also across an ocean within one second."""
RECONNECT_WAIT_S: Final = 0.2


async def _ignore_error(_error: Exception) -> None:
    """Keep nats-py from logging a traceback; what matters is raised."""


async def connect_bus_once(url: str, *, name: str, login: BusLogin = NO_LOGIN) -> BusConnection:
    """Return a connection for JetStream requests.

    Args:
        url: one or several comma-separated `nats://[user:password@]host:port`.
        name: shown by the server's monitoring; names inboxes up to the first dash, where there is
            no user.
        login: what the connection shows, and wants to see.

    Raises:
        UnauthorizedError: the server wants another user.
        CannotConnectError: no server answers.
    """
    await (await connect_reader(url, name=name, login=login)).close()
    bus = BusConnection(login)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await bus.open(url, name=name)
    except (TimeoutError, ConnectionError, BusRefusedError) as error:
        with suppress(Exception):
            await bus.shut_down()
        raise explain_nats_error(error, url) from None
    return bus


async def connect_reader(
    url: str,
    *,
    name: str,
    login: BusLogin = NO_LOGIN,
    on_error: Callable[[Exception], Awaitable[None]] = _ignore_error,
    on_closed: Callable[[], Awaitable[None]] | None = None,
) -> Client:
    """Return a plain connection, established at once or not at all; it never reconnects.

    Args:
        url: one or several comma-separated `nats://[user:password@]host:port`.
        name: as for `connect_bus_once`.
        login: likewise.
        on_error: told what nats-py cannot raise, for example dropped messages.
        on_closed: called when the connection is lost or closed.

    Raises:
        UnauthorizedError: the server wants another user.
        CannotConnectError: no server answers.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            client = BusClient(wants_tls=login.wants_tls)
            with keeps_cancellation():
                await client.connect(
                    **login.build_options(url, service=name.partition("-")[0]),
                    name=name,
                    allow_reconnect=False,
                    # nats-py looks at `allow_reconnect` only after a connection; with 0 or less it
                    # would try for ever.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
                    connect_timeout=2,
                    error_cb=on_error,
                    closed_cb=on_closed,
                )
            return client
    except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
        raise explain_nats_error(error, url) from None


def explain_nats_error(error: Exception, url: str) -> CommandError:
    """Return what to tell the person who gave this URL; it names no password."""
    where = hide_password(url)
    if isinstance(error, BusRefusedError) or is_refusal(error):
        return UnauthorizedError(
            f"NATS at {where} does not accept this user, or is not of the expected authority: set"
            " NATS_USER and NATS_PASSWORD, NATS_CA for TLS (SPEECHBUS_NATS_…, of bootstrap"
            " SPEECHBUS_BOOTSTRAP_NATS_…)."
        )
    return CannotConnectError(
        f"No NATS server answers at {where}: start one (`speechbus dev` brings its own), or name"
        " another by --nats-url."
    )


def hide_password(url: str) -> str:
    """Return the URLs without users, passwords and tokens."""
    return ",".join(_hide_one(part.strip()) for part in url.split(","))


def _hide_one(url: str) -> str:
    parts = urlsplit(url if "//" in url else f"nats://{url}")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
