"""Looks again and again whether the JetStream objects that a service needs are there."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.health import Health
from speechbus_runtime.jetstream import (
    JetStreamError,
    JetStreamUnavailableError,
    request_api,
)
from speechbus_runtime.volatile_streams import VolatileStreams

__all__ = ["watch_objects"]

WATCH_S: Final = 3.0
"""A handful of requests each time: nothing beside audio, and soon enough for a prober."""
CONDITION: Final = "jetstream"


async def watch_objects(
    bus: BusConnection,
    health: Health,
    *,
    streams: Sequence[str],
    consumers: Sequence[tuple[str, str]],
    volatile: VolatileStreams,
    on_restored: Callable[[], None] = lambda: None,
) -> None:
    """Keep readiness true until cancelled: without these objects the service does no work.

    Args:
        bus: connection that may ask for their state.
        health: gets the condition `jetstream`.
        streams: JetStream streams.
        consumers: pairs of JetStream stream and durable consumer.
        volatile: made again when they are gone.
        on_restored: called after that: they are empty.
    """
    calls = {name: f"STREAM.INFO.{name}" for name in (*streams, *volatile.names)}
    calls |= {f"{stream}/{name}": f"CONSUMER.INFO.{stream}.{name}" for stream, name in consumers}
    while True:
        if bus.is_connected:
            missing: list[str] = []
            for name, call in calls.items():
                try:
                    await request_api(bus, call, {})
                except (JetStreamError, JetStreamUnavailableError):
                    missing.append(name)
            health.set_ready(
                CONDITION,
                ok=not missing,
                reason=f"missing or silent: {', '.join(missing)}; run `speechbus bootstrap`",
            )
            if any(name in missing for name in volatile.names):
                await volatile.restore()
                on_restored()
        await asyncio.sleep(WATCH_S)
