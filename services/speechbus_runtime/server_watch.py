"""Leaves a NATS server whose JetStream is out of reach while another server's is not."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import nats.errors
from nats.aio.client import Client

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.bus_login import BusClient
from speechbus_runtime.jetstream import JetStreamError, JetStreamUnavailableError, request_api
from speechbus_runtime.replication import has_quorum

__all__ = ["watch_server"]

logger = logging.getLogger(__name__)

WATCH_S: Final = 2.0
"""One request of a millisecond each time; a node that is cut off is noticed after 4 s or so."""
CONNECT_TIMEOUT_S: Final = 1
_AS_BEFORE: Final = ("user", "password", "token", "tls")
"""Options of a connection to another server."""


async def watch_server(
    buses: Sequence[BusConnection],
    *,
    store: str,
    on_silent: Callable[[], None] = lambda: None,
) -> None:
    """Watch until cancelled.

    A node that has lost the others keeps its clients, who then hear of nothing and store nothing.
    An election, or an outage of all, looks the same from here, and ends no connection: the other
    servers are asked first.

    Args:
        buses: connections that may ask for the state of `store`.
        store: JetStream stream without which nothing goes on.
        on_silent: called when it cannot be reached: what was not heard lately says nothing.
    """
    while True:
        for bus in buses:
            if bus.is_connected and not await _reaches(bus, store):
                on_silent()
                await _leave_for_better(bus, store)
        await asyncio.sleep(WATCH_S)


async def _leave_for_better(bus: BusConnection, store: str) -> None:
    for url in bus.other_servers:
        if await _is_better(bus, url, store):
            logger.warning("leaving a NATS server that is cut off from the others")
            await bus.leave_server()
            return


async def _is_better(bus: BusConnection, url: str, store: str) -> bool:
    client: Client | None = None
    try:
        client = BusClient(wants_tls=bus.login.wants_tls)
        await client.connect(
            url,
            **{name: bus.options[name] for name in _AS_BEFORE if name in bus.options},
            inbox_prefix=bus.inbox_prefix,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=CONNECT_TIMEOUT_S,
            error_cb=_ignore,
        )
        return await _reaches(client, store)
    except (nats.errors.Error, TimeoutError, OSError):
        return False
    finally:
        if client is not None:
            with suppress(nats.errors.Error, TimeoutError, OSError):
                await client.close()


async def _reaches(bus: Client, store: str) -> bool:
    """Tell whether the store has a leader that can store something."""
    try:
        info = await request_api(bus, f"STREAM.INFO.{store}", {})
    except (JetStreamError, JetStreamUnavailableError):
        return False
    return has_quorum(info)


async def _ignore(_error: Exception) -> None:
    """Keep nats-py from logging a traceback."""
