"""Looks again and again whether the JetStream objects that a service needs are there."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

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
    on_restored: Callable[[], None] | None = None,
    on_answer: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> None:
    """Keep readiness true until cancelled: without these objects the service does no work.

    Args:
        bus: connection that may ask for their state.
        health: gets the condition `jetstream`.
        streams: JetStream streams.
        consumers: pairs of JetStream stream and durable consumer.
        volatile: made again when they are gone.
        on_restored: called when the volatile ones are found empty. Who gives this can fill them
            again, and so may also have those made anew whose server is away.
        on_answer: called with each object's name and the server's words about it.
    """
    calls = {name: f"STREAM.INFO.{name}" for name in (*streams, *volatile.names)}
    calls |= {f"{stream}/{name}": f"CONSUMER.INFO.{stream}.{name}" for stream, name in consumers}
    while True:
        if bus.is_connected:
            async with asyncio.TaskGroup() as asking:
                tasks = {name: asking.create_task(_ask(bus, call)) for name, call in calls.items()}
            answers = {name: task.result() for name, task in tasks.items()}
            if on_answer is not None:
                for name, answer in answers.items():
                    if isinstance(answer, dict):
                        on_answer(name, answer)
            missing = [name for name, answer in answers.items() if not isinstance(answer, dict)]
            health.set_ready(
                CONDITION,
                ok=not missing,
                reason=f"missing or silent: {', '.join(missing)}; run `speechbus bootstrap`",
            )
            were_lost = False
            for name in volatile.names:
                answer = answers[name]
                if isinstance(answer, JetStreamError):
                    were_lost |= await volatile.restore_one(name)
                else:
                    were_lost |= volatile.note(name, answer)
            if on_restored is not None:
                were_lost |= await volatile.replace_lost()
                if were_lost:
                    on_restored()
        await asyncio.sleep(WATCH_S)


async def _ask(bus: BusConnection, call: str) -> dict[str, Any] | JetStreamError | None:
    """Return the answer, or the refusal; None: there is none."""
    try:
        return await request_api(bus, call, {})
    except JetStreamError as error:
        return error
    except JetStreamUnavailableError:
        return None
