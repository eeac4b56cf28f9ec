"""The correlator as a service: finals in by a durable consumer, captions out."""

import asyncio
import logging
import os
import secrets
import sys
from contextlib import AsyncExitStack
from typing import Final

from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsMessage, PullSub
from nats.aio.msg import Msg

from speechbus_contracts import (
    CAPTION_STORE,
    CORRELATOR_CONSUMER,
    TRANSCRIPT_STORE,
    ContractError,
    build_correlator_consumer,
)
from speechbus_correlator.broker import BusBroker, watch_pulls
from speechbus_correlator.captions import STORE_WITHIN_S, CaptionNotStoredError, CaptionWriter
from speechbus_correlator.join import parse_final
from speechbus_correlator.settings import SETTINGS_PREFIX, Settings
from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.health import Health
from speechbus_runtime.health_server import serve_health
from speechbus_runtime.jetstream import JetStreamError, JetStreamUnavailableError, request_api
from speechbus_runtime.lifecycle import EXIT_SETTINGS, StopSignal, run_service
from speechbus_runtime.logs import configure_logs
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.server_watch import watch_server
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_runtime.telemetry import Telemetry

__all__ = ["main"]

logger = logging.getLogger(__name__)

SERVICE: Final = "correlator"
FINALS_IN_HAND_MAX: Final = 32
"""Finals of one pull, handled at the same time. Enough for a backlog (one answer from the store
then serves 32), and no more than that is delivered again after a crash."""
PULL_S: Final = 1.0
"""A pull request is lost when NATS restarts; the next one follows this much later."""
PULL_STALE_S: Final = 15.0
"""Three times what a turn of the pull loop may take: `PULL_S` and `STORE_WITHIN_S`."""
DRAIN_WITHIN_S: Final = STORE_WITHIN_S
STOP_MARGIN_S: Final = 3.0
"""For closing the connection (1 s without NATS) and the port."""
CHECK_EVERY_S: Final = 2.0
"""Two small requests; a probe sees a deleted consumer after this long."""


def main() -> int:
    """Run the service; return the process's exit code."""
    try:
        settings = read_settings(Settings, prefix=SETTINGS_PREFIX)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETTINGS
    configure_logs(
        service=SERVICE, level=settings.log_level, json_lines=settings.log_format == "json"
    )
    return run_service(
        lambda stop: _serve(settings, stop),
        service=SERVICE,
        stop_within_s=DRAIN_WITHIN_S + STOP_MARGIN_S,
    )


async def _serve(settings: Settings, stop: StopSignal) -> None:
    health = Health(SERVICE)
    health.set_ready("bus", ok=False, reason="not connected to NATS yet")
    telemetry = Telemetry(SERVICE)
    async with (
        serve_health(health, telemetry, host=settings.health_host, port=settings.health_port),
        asyncio.TaskGroup() as tasks,
    ):
        # A task of its own, so that a stop also ends the waiting for NATS.
        correlating = tasks.create_task(
            _correlate(settings.nats_url, health, telemetry), name="correlate"
        )
        await stop.wait()
        health.mark_draining()
        correlating.cancel()


async def _correlate(nats_url: str, health: Health, telemetry: Telemetry) -> None:
    """Turn finals into captions until cancelled; then finish those in hand."""
    async with AsyncExitStack() as stack:
        bus = await connect_bus(nats_url, name=f"{SERVICE}-{os.getpid()}-{secrets.token_hex(4)}")
        stack.push_async_callback(bus.shut_down)
        _follow_connection(bus, health)
        telemetry.follow(bus)
        await _wait_for_objects(bus, health)
        await _start_pulling(stack, bus, health)
        health.mark_serving()
        logger.info("correlator started")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_server((bus,), store=TRANSCRIPT_STORE), name="server")
            while True:
                await asyncio.sleep(CHECK_EVERY_S)
                await _check_objects(bus, health)


async def _start_pulling(stack: AsyncExitStack, bus: BusConnection, health: Health) -> None:
    broker = BusBroker(bus, drain_within_s=DRAIN_WITHIN_S)
    publisher = AckedPublisher(
        bus, on_problem=lambda why: health.set_ready("store", ok=not why, reason=why)
    )
    captions = CaptionWriter(bus, publisher)
    subscriber = broker.subscriber(
        build_correlator_consumer()["filter_subject"],
        durable=CORRELATOR_CONSUMER,
        stream=JStream(TRANSCRIPT_STORE, declare=False),
        pull_sub=PullSub(batch_size=FINALS_IN_HAND_MAX, timeout=PULL_S),
        inbox_prefix=f"_INBOX_{SERVICE}.".encode(),  # as the connection's own; permissions name it
        decoder=_keep_message,
        ack_policy=AckPolicy.MANUAL,
        no_reply=True,  # else a header of the message could make us publish anywhere
    )

    @subscriber
    async def handle_final(message: NatsMessage) -> None:
        try:
            await captions.write(parse_final(message.raw_message.subject, message.body))
        except ContractError as error:
            logger.warning("final dropped: not as agreed", extra=_describe(message, error))
            await message.reject()
        except CaptionNotStoredError as error:
            logger.warning(
                "caption not stored, its final comes again", extra=_describe(message, error)
            )
        else:
            await message.ack()

    await broker.start()
    stack.push_async_callback(subscriber.stop)
    assert subscriber.subscription is not None
    health.register("pull", stale_after_s=PULL_STALE_S)
    watch_pulls(subscriber.subscription, bus, beat=lambda: health.beat("pull"))


async def _keep_message(message: StreamMessage[Msg]) -> StreamMessage[Msg]:
    """Give the handler the message itself: it needs the subject, and settles it by itself."""
    return message


def _describe(message: NatsMessage, error: Exception) -> dict[str, object]:
    """Return what a person needs to find the message; nothing out of it."""
    sequence = message.raw_message.metadata.sequence.stream
    return {"jetstream": TRANSCRIPT_STORE, "sequence": sequence, "reason": str(error)}


def _follow_connection(bus: BusConnection, health: Health) -> None:
    async def back() -> None:
        health.set_ready("bus", ok=True)

    bus.on_reconnected(back)
    bus.on_disconnected(
        lambda: health.set_ready("bus", ok=False, reason="NATS is away; reconnecting")
    )
    health.set_ready("bus", ok=True)


async def _wait_for_objects(bus: BusConnection, health: Health) -> None:
    """Return when bootstrap has made the consumer and the store; say once that we wait."""
    has_warned = False
    while reason := await _check_objects(bus, health):
        if not has_warned:
            logger.warning("waiting for JetStream objects", extra={"reason": reason})
            has_warned = True
        await asyncio.sleep(PULL_S)


async def _check_objects(bus: BusConnection, health: Health) -> str:
    """Set whether consumer and store are there as a condition of readiness; return why not."""
    reason = ""
    try:
        await request_api(bus, f"CONSUMER.INFO.{TRANSCRIPT_STORE}.{CORRELATOR_CONSUMER}", {})
        await request_api(bus, f"STREAM.INFO.{CAPTION_STORE}", {})
    except JetStreamError as error:
        reason = f"{error}: run `speechbus bootstrap`"
    except JetStreamUnavailableError:
        reason = "JetStream does not answer"
    health.set_ready("objects", ok=not reason, reason=reason)
    return reason
