"""Leaves a NATS server whose JetStream is out of reach while another server's is not."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import nats
import nats.errors
from nats.aio.client import Client

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamError, JetStreamUnavailableError, request_api

__all__ = ["watch_server"]

logger = logging.getLogger(__name__)

WATCH_S: Final = 2.0
"""One request of a millisecond each time; a node that is cut off is noticed after 4 s or so."""
CONNECT_TIMEOUT_S: Final = 1


async def watch_server(buses: Sequence[BusConnection]) -> None:
    """Watch until cancelled.

    A node that has lost the others keeps its clients, who then hear of nothing and store nothing.
    An election, or an outage of all, looks the same from here, and ends no connection: the other
    servers are asked first.

    Args:
        buses: connections that may ask for `$JS.API.INFO`.
    """
    while True:
        for bus in buses:
            if bus.is_connected and not await _answers(bus):
                await _leave_for_better(bus)
        await asyncio.sleep(WATCH_S)


async def _leave_for_better(bus: BusConnection) -> None:
    for url in bus.other_servers:
        if await _is_better(url):
            logger.warning("leaving a NATS server that is cut off from the others")
            await bus.leave_server()
            return


async def _is_better(url: str) -> bool:
    client: Client | None = None
    try:
        client = await nats.connect(  # pyright: ignore[reportUnknownMemberType]
            url,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=CONNECT_TIMEOUT_S,
            error_cb=_ignore,
        )
        return await _answers(client)
    except (nats.errors.Error, TimeoutError, OSError):
        return False
    finally:
        if client is not None:
            with suppress(nats.errors.Error, TimeoutError, OSError):
                await client.close()


async def _answers(bus: Client) -> bool:
    try:
        await request_api(bus, "INFO", {})
    except (JetStreamError, JetStreamUnavailableError):
        return False
    return True


async def _ignore(_error: Exception) -> None:
    """Keep nats-py from logging a traceback."""
