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
from speechbus_runtime.consumer_measures import ConsumerMeasures
from speechbus_runtime.health import Health
from speechbus_runtime.health_server import serve_health
from speechbus_runtime.jetstream import JetStreamError, JetStreamUnavailableError, request_api
from speechbus_runtime.lifecycle import StopSignal, run_service
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.pull_broker import BusBroker, watch_pulls
from speechbus_runtime.server_watch import watch_server
from speechbus_runtime.settings import read_settings
from speechbus_runtime.task_groups import plain_errors
from speechbus_runtime.telemetry import Telemetry
from speechbus_runtime.telemetry_settings import TELEMETRY_PREFIX, TelemetrySettings

__all__ = ["Delivery", "Handle", "PullService", "read_delivery", "run_pulls", "settle"]

logger = logging.getLogger(__name__)

PULL_S: Final = 1.0
"""A pull request is lost when NATS restarts; the next one follows this much later."""
STOP_MARGIN_S: Final = 3.0
"""For closing the connection (1 s without NATS) and the port."""
_TIME_TOKENS: Final = (7, 9)
"""Where the time stands in the reply subject of a delivery: ns; since 2.11 there are more tokens
before it, with domain and account."""
CHECK_EVERY_S: Final = 2.0
"""Two small requests; a probe sees a deleted consumer after this long."""

RETRY_S: Final = 0.25
"""What could not be handled now comes again after this long."""


BUG_RETRY_S_MAX: Final = 60.0
"""A message on which a bug ends its handling comes again ever more rarely: a later version may be
able to."""


class Delivery(msgspec.Struct, frozen=True):
    """A stored message as the consumer delivers it."""

    subject: str
    payload: bytes
    sequence: int
    """In its JetStream stream."""
    stored_at_ms: int
    """ms since 1970 by the store's clock, rounded down as in all other ways to read it."""
    n_delivered: int
    """How often, this time included."""


Handle = Callable[[Delivery], Awaitable[float | None]]
"""Deals with a message; returns after how many seconds it is to come again, None: never."""
Take = Callable[[NatsMessage], Awaitable[None]]
"""Takes a message and settles it."""
Prepare = Callable[[BusConnection, AckedPublisher, Telemetry], AbstractAsyncContextManager[Handle]]
"""Makes the handler, with what it reads by, stores by and measures by, and takes it down again.

What it stores follows from the message in its hands: see `speechbus_runtime.tracing.followed`."""


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
    drops_on: tuple[type[Exception], ...]
    """Errors of a message that will never be handled, in any number of tries."""
    repeats_on: tuple[type[Exception], ...]
    """Errors that pass: the message comes again."""


def run_pulls(spec: PullService, prepare: Prepare) -> int:
    """Handle messages until SIGTERM, then finish those in hand; see `run_service`.

    Args:
        spec: of the service.
        prepare: called once the objects are there.

    Returns:
        The exit code.
    """
    return run_service(
        lambda stop: _serve_pulls(spec, stop, prepare),
        service=spec.service,
        stop_within_s=spec.handle_within_s + STOP_MARGIN_S,
    )


def read_delivery(message: Msg) -> Delivery:
    """Return what the consumer delivered."""
    sequence = message.metadata.sequence
    return Delivery(
        message.subject,
        message.data,
        sequence.stream,
        # Not by `metadata.timestamp`, whose fractions of a second are a float's.
        int(message.reply.split(".")[_TIME_TOKENS[message.reply.count(".") > 8]]) // 1_000_000,
        message.metadata.num_delivered or 1,
    )


async def _serve_pulls(spec: PullService, stop: StopSignal, prepare: Prepare) -> None:
    health = Health(spec.service)
    health.set_ready("bus", ok=False, reason="not connected to NATS yet")
    telemetry = Telemetry(spec.service, read_settings(TelemetrySettings, prefix=TELEMETRY_PREFIX))
    telemetry.follow_logs()
    async with (
        telemetry,
        serve_health(health, telemetry, host=spec.health_host, port=spec.health_port),
        asyncio.TaskGroup() as tasks,
    ):
        # A task of its own, so that a stop also ends the waiting for NATS.
        pulling = tasks.create_task(_pull(spec, health, telemetry, prepare), name="pull")
        await stop.wait()
        health.mark_draining()
        pulling.cancel()


async def settle(spec: PullService, handle: Handle, message: NatsMessage) -> None:
    """Handle a message, and tell its consumer what becomes of it."""
    delivery = read_delivery(message.raw_message)
    # What a person needs to find the message; nothing out of it.
    extra = {"jetstream": spec.jetstream_name, "sequence": delivery.sequence}
    try:
        with plain_errors(*spec.drops_on, *spec.repeats_on):
            again_s = await handle(delivery)
    except spec.drops_on as error:
        logger.warning("message dropped: not as agreed", extra={**extra, "reason": str(error)})
        await message.reject()
    except spec.repeats_on as error:
        logger.warning("message comes again", extra={**extra, "reason": str(error)})
        await message.nack(delay=RETRY_S)
    except Exception as error:  # noqa: BLE001 - a bug: one message must not stop the others
        # Without its text and traceback, which may hold what was said.
        reason = type(error).__name__
        logger.error("message not handled, a bug", extra={**extra, "reason": reason})  # noqa: TRY400
        await message.nack(delay=min(BUG_RETRY_S_MAX, 2.0 ** min(delivery.n_delivered, 10)))
    else:
        await (message.ack() if again_s is None else message.nack(delay=again_s))


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
            bus,
            on_problem=lambda why: health.set_ready("store", ok=not why, reason=why),
            on_acked=telemetry.record_ack,
        )
        measures = ConsumerMeasures(telemetry)
        handle = await stack.enter_async_context(prepare(bus, publisher, telemetry))
        await _start_pulling(stack, spec, bus, health, _settled_by(spec, handle, measures))
        health.mark_serving()
        logger.info("service started")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_server((bus,), store=spec.jetstream_name), name="server")
            while True:
                await asyncio.sleep(CHECK_EVERY_S)
                await _check_objects(spec, bus, health, measures)


async def _start_pulling(
    stack: AsyncExitStack, spec: PullService, bus: BusConnection, health: Health, take: Take
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
        subscriber(take)
        await broker.start()
        stack.push_async_callback(subscriber.stop)
        assert subscriber.subscription is not None
        name = f"pull-{number}"
        health.register(name, stale_after_s=stale_after_s)
        watch_pulls(subscriber.subscription, bus, beat=_beat_of(health, name))


def _settled_by(spec: PullService, handle: Handle, measures: ConsumerMeasures) -> Take:
    async def take(message: NatsMessage) -> None:
        with measures.taking(message.raw_message):
            await settle(spec, handle, message)

    return take


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


async def _check_objects(
    spec: PullService, bus: BusConnection, health: Health, measures: ConsumerMeasures | None = None
) -> str:
    """Set whether consumer and stores are there as a condition of readiness; return why not."""
    reason = ""
    try:
        call = f"CONSUMER.INFO.{spec.jetstream_name}.{spec.consumer}"
        answer = await request_api(bus, call, {})
        if measures is not None:
            measures.note(answer)
        for store in spec.stores:
            await request_api(bus, f"STREAM.INFO.{store}", {})
    except JetStreamError as error:
        reason = f"{error}: run `speechbus bootstrap`"
    except JetStreamUnavailableError:
        reason = "JetStream does not answer"
    health.set_ready("objects", ok=not reason, reason=reason)
    return reason
