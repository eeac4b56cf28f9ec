"""Hearing whether a transcriber is alive."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from speechbus_contracts import ROOT, ContractError, WorkerHeartbeat, decode_event

__all__ = ["LISTEN_S", "hear_workers"]

LISTEN_S: Final = 1.0
"""Five heartbeats."""


async def hear_workers(
    connection: Client, *, listen_s: float = LISTEN_S, at_least: int | None = None
) -> Mapping[str, WorkerHeartbeat]:
    """Listen for heartbeats.

    Args:
        connection: to NATS.
        listen_s: how long.
        at_least: return as soon as so many workers were heard; None: listen to the end.

    Returns:
        The last heartbeat of each worker.
    """
    heard: dict[str, WorkerHeartbeat] = {}
    enough = asyncio.Event()

    async def take(message: Msg) -> None:
        try:
            event = decode_event(message.data)
        except ContractError:
            return
        if isinstance(event, WorkerHeartbeat):
            heard[event.worker] = event
            if at_least is not None and len(heard) >= at_least:
                enough.set()

    subscription = await connection.subscribe(f"{ROOT}.worker.*.heartbeat", cb=take)  # pyright: ignore[reportUnknownMemberType]
    try:
        async with asyncio.timeout(listen_s):
            await enough.wait()
    except TimeoutError:
        pass
    finally:
        with suppress(nats.errors.Error):  # the connection may be gone
            await subscription.unsubscribe()
    return heard
