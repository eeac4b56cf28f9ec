"""The correlator as a service: the log in by a durable consumer, captions out."""

import asyncio
import logging
import os
import secrets
import sys
import time
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
)
from speechbus_contracts.subjects import WRITE_ROOT
from speechbus_correlator.broker import BusBroker, watch_pulls
from speechbus_correlator.captions import STORE_WITHIN_S, CaptionNotStoredError, CaptionWriter
from speechbus_correlator.correlator import Correlator
from speechbus_correlator.join import Stored, parse_part
from speechbus_correlator.settings import SETTINGS_PREFIX, Settings
from speechbus_correlator.transcript import Transcript
from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.health import Health
from speechbus_runtime.health_server import serve_health
from speechbus_runtime.jetstream import JetStreamError, JetStreamUnavailableError, request_api
from speechbus_runtime.lifecycle import EXIT_SETTINGS, StopSignal, run_service
from speechbus_runtime.logs import configure_logs
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.settings import SettingsError, read_settings

__all__ = ["main"]

logger = logging.getLogger(__name__)

SERVICE: Final = "correlator"
EVENTS_IN_HAND_MAX: Final = 32
"""Events of one pull, handled at the same time. Enough for a backlog (one answer from the store
then serves 32), and no more than that is delivered again after a crash."""
RETRY_S: Final = 0.25
"""What could not be read, or is not there yet at a replica, is looked at again after this long."""
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
    async with (
        serve_health(health, host=settings.health_host, port=settings.health_port),
        asyncio.TaskGroup() as tasks,
    ):
        # A task of its own, so that a stop also ends the waiting for NATS.
        correlating = tasks.create_task(_correlate(settings, health), name="correlate")
        await stop.wait()
        health.mark_draining()
        correlating.cancel()


async def _correlate(settings: Settings, health: Health) -> None:
    """Turn the log into captions until cancelled; then finish what is in hand."""
    async with AsyncExitStack() as stack:
        bus = await connect_bus(
            settings.nats_url, name=f"{SERVICE}-{os.getpid()}-{secrets.token_hex(4)}"
        )
        stack.push_async_callback(bus.shut_down)
        _follow_connection(bus, health)
        await _wait_for_objects(bus, health)
        await _start_pulling(stack, bus, health, deadline_s=settings.deadline_s)
        health.mark_serving()
        logger.info("correlator started")
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            await _check_objects(bus, health)


async def _start_pulling(
    stack: AsyncExitStack, bus: BusConnection, health: Health, *, deadline_s: float
) -> None:
    broker = BusBroker(bus, drain_within_s=DRAIN_WITHIN_S)
    captions = CaptionWriter(bus, AckedPublisher(bus))
    correlator = Correlator(Transcript(bus), captions.write, wait_ms=round(1_000 * deadline_s))
    subscriber = broker.subscriber(
        f"{WRITE_ROOT}.>",  # what of it, the consumer says
        durable=CORRELATOR_CONSUMER,
        stream=JStream(TRANSCRIPT_STORE, declare=False),
        pull_sub=PullSub(batch_size=EVENTS_IN_HAND_MAX, timeout=PULL_S),
        inbox_prefix=f"_INBOX_{SERVICE}.".encode(),  # as the connection's own; permissions name it
        decoder=_keep_message,
        ack_policy=AckPolicy.MANUAL,
        no_reply=True,  # else a header of the message could make us publish anywhere
    )

    @subscriber
    async def handle_event(message: NatsMessage) -> None:
        try:
            again_ms = await correlator.handle(_read(message), now_ms=time.time_ns() // 1_000_000)
        except ContractError as error:
            logger.warning("event dropped: not as agreed", extra=_describe(message, error))
            await message.reject()
        except (CaptionNotStoredError, JetStreamError, JetStreamUnavailableError) as error:
            logger.warning("event not joined, it comes again", extra=_describe(message, error))
            await message.nack(delay=RETRY_S)
        else:
            await (message.ack() if again_ms is None else message.nack(delay=again_ms / 1_000))

    await broker.start()
    stack.push_async_callback(subscriber.stop)
    assert subscriber.subscription is not None
    health.register("pull", stale_after_s=PULL_STALE_S)
    watch_pulls(subscriber.subscription, bus, beat=lambda: health.beat("pull"))


def _read(message: NatsMessage) -> Stored:
    raw = message.raw_message
    at_ms = int(raw.metadata.timestamp.timestamp() * 1_000)
    event = parse_part(raw.subject, message.body)
    return Stored(raw.metadata.sequence.stream, at_ms, event)


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
