"""A service that takes messages from a durable consumer: its life, its health, its pulls."""

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

import msgspec
from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsMessage, PullSub
from nats.aio.msg import Msg

from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.bus_login import BusLogin
from speechbus_runtime.bus_rights import follow_rights
from speechbus_runtime.health import Health
from speechbus_runtime.health_server import serve_health
from speechbus_runtime.jetstream import JetStreamError, JetStreamUnavailableError, request_api
from speechbus_runtime.lifecycle import StopSignal
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.pull_broker import BusBroker, watch_pulls
from speechbus_runtime.server_watch import watch_server
from speechbus_runtime.telemetry import Telemetry

__all__ = ["STOP_MARGIN_S", "Handle", "PullService", "describe_message", "serve_pulls"]

logger = logging.getLogger(__name__)

PULL_S: Final = 1.0
"""A pull request is lost when NATS restarts; the next one follows this much later."""
STOP_MARGIN_S: Final = 3.0
"""For closing the connection (1 s without NATS) and the port."""
CHECK_EVERY_S: Final = 2.0
"""Two small requests; a probe sees a deleted consumer after this long."""

Handle = Callable[[NatsMessage], Awaitable[None]]
"""Takes a message and settles it: `ack`, `nack`, `reject`, or nothing, and it comes again."""
Prepare = Callable[[BusConnection, AckedPublisher], AbstractAsyncContextManager[Handle]]
"""Makes the handler, with what it reads by and what it stores by, and takes it down again."""


class PullService(msgspec.Struct, frozen=True, kw_only=True):
    """What one such service is."""

    service: str
    """Names it in logs, connections and inboxes."""
    nats_url: str
    nats_login: BusLogin
    health_host: str
    health_port: int
    jetstream_name: str
    consumer: str
    """Durable, of that JetStream stream; its filters say what comes."""
    subject: str
    """Covers what the filters let in."""
    stores: Sequence[str]
    """Further JetStream streams that it cannot do without."""
    in_hand_max: int
    """Messages of one pull, handled at the same time."""
    pulls: int = 1
    """Pulls at the same time. Each waits for all of its messages; one slow message holds up no
    more than its own pull."""
    handle_within_s: float
    """Longest time that a message takes: a stop waits for as long."""


async def serve_pulls(spec: PullService, stop: StopSignal, prepare: Prepare) -> None:
    """Handle messages until `stop`, then finish those in hand.

    Args:
        spec: of the service.
        stop: asks for the end.
        prepare: called once the objects are there.
    """
    health = Health(spec.service)
    health.set_ready("bus", ok=False, reason="not connected to NATS yet")
    telemetry = Telemetry(spec.service)
    async with (
        serve_health(health, telemetry, host=spec.health_host, port=spec.health_port),
        asyncio.TaskGroup() as tasks,
    ):
        # A task of its own, so that a stop also ends the waiting for NATS.
        pulling = tasks.create_task(_pull(spec, health, telemetry, prepare), name="pull")
        await stop.wait()
        health.mark_draining()
        pulling.cancel()


def describe_message(message: NatsMessage, error: Exception) -> dict[str, object]:
    """Return what a person needs to find the message; nothing out of it."""
    metadata = message.raw_message.metadata
    return {
        "jetstream": metadata.stream,
        "sequence": metadata.sequence.stream,
        "reason": str(error),
    }


async def _pull(spec: PullService, health: Health, telemetry: Telemetry, prepare: Prepare) -> None:
    async with AsyncExitStack() as stack:
        name = f"{spec.service}-{os.getpid()}-{secrets.token_hex(4)}"
        bus = await connect_bus(spec.nats_url, name=name, login=spec.nats_login)
        stack.push_async_callback(bus.shut_down)
        _follow_connection(bus, health)
        follow_rights((bus,), health)
        telemetry.follow(bus)
        await _wait_for_objects(spec, bus, health)
        publisher = AckedPublisher(
            bus, on_problem=lambda why: health.set_ready("store", ok=not why, reason=why)
        )
        handle = await stack.enter_async_context(prepare(bus, publisher))
        await _start_pulling(stack, spec, bus, health, handle)
        health.mark_serving()
        logger.info("service started")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_server((bus,), store=spec.jetstream_name), name="server")
            while True:
                await asyncio.sleep(CHECK_EVERY_S)
                await _check_objects(spec, bus, health)


async def _start_pulling(
    stack: AsyncExitStack, spec: PullService, bus: BusConnection, health: Health, handle: Handle
) -> None:
    stale_after_s = 3 * (PULL_S + spec.handle_within_s)  # three turns of a pull
    for number in range(spec.pulls):
        # A broker for each: `watch_pulls` must come before the event loop turns.
        broker = BusBroker(bus, drain_within_s=spec.handle_within_s)
        subscriber = broker.subscriber(
            spec.subject,
            durable=spec.consumer,
            stream=JStream(spec.jetstream_name, declare=False),
            pull_sub=PullSub(batch_size=spec.in_hand_max, timeout=PULL_S),
            inbox_prefix=f"{bus.inbox_prefix}.".encode(),  # as the connection's own; rights name it
            decoder=_keep_message,
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,  # else a header of the message could make us publish anywhere
        )
        subscriber(handle)
        await broker.start()
        stack.push_async_callback(subscriber.stop)
        assert subscriber.subscription is not None
        name = f"pull-{number}"
        health.register(name, stale_after_s=stale_after_s)
        watch_pulls(subscriber.subscription, bus, beat=_beat_of(health, name))


def _beat_of(health: Health, name: str) -> Callable[[], None]:
    return lambda: health.beat(name)


async def _keep_message(message: StreamMessage[Msg]) -> StreamMessage[Msg]:
    """Give the handler the message itself: it needs the subject, and settles it by itself."""
    return message


def _follow_connection(bus: BusConnection, health: Health) -> None:
    async def back() -> None:
        health.set_ready("bus", ok=True)

    bus.on_reconnected(back)
    bus.on_disconnected(
        lambda: health.set_ready("bus", ok=False, reason="NATS is away; reconnecting")
    )
    health.set_ready("bus", ok=True)


async def _wait_for_objects(spec: PullService, bus: BusConnection, health: Health) -> None:
    """Return when bootstrap has made the consumer and the stores; say once that we wait."""
    has_warned = False
    while reason := await _check_objects(spec, bus, health):
        if not has_warned:
            logger.warning("waiting for JetStream objects", extra={"reason": reason})
            has_warned = True
        await asyncio.sleep(PULL_S)


async def _check_objects(spec: PullService, bus: BusConnection, health: Health) -> str:
    """Set whether consumer and stores are there as a condition of readiness; return why not."""
    reason = ""
    try:
        await request_api(bus, f"CONSUMER.INFO.{spec.jetstream_name}.{spec.consumer}", {})
        for store in spec.stores:
            await request_api(bus, f"STREAM.INFO.{store}", {})
    except JetStreamError as error:
        reason = f"{error}: run `speechbus bootstrap`"
    except JetStreamUnavailableError:
        reason = "JetStream does not answer"
    health.set_ready("objects", ok=not reason, reason=reason)
    return reason
