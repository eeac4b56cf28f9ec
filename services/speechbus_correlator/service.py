"""The correlator as a service: the log in by a durable consumer, captions out."""

import logging
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from faststream.nats import NatsMessage

from speechbus_contracts import (
    CAPTION_STORE,
    CORRELATOR_CONSUMER,
    TRANSCRIPT_STORE,
    CaptionJoined,
    ContractError,
)
from speechbus_contracts.subjects import WRITE_ROOT
from speechbus_correlator.captions import STORE_WITHIN_S, CaptionNotStoredError, CaptionWriter
from speechbus_correlator.correlator import Correlator
from speechbus_correlator.join import Stored, parse_part
from speechbus_correlator.measures import Measures, start_span
from speechbus_correlator.settings import SETTINGS_PREFIX, Settings
from speechbus_correlator.transcript import Transcript
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamError, JetStreamUnavailableError
from speechbus_runtime.lifecycle import EXIT_SETTINGS, run_service
from speechbus_runtime.logs import configure_logs
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.pull_service import (
    STOP_MARGIN_S,
    Handle,
    PullService,
    describe_message,
    serve_pulls,
)
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_runtime.telemetry import Telemetry

__all__ = ["main"]

logger = logging.getLogger(__name__)

SERVICE: Final = "correlator"
EVENTS_IN_HAND_MAX: Final = 32
"""Events of one pull, handled at the same time. Enough for a backlog (one answer from the store
then serves 32), and no more than that is delivered again after a crash."""
RETRY_S: Final = 0.25
"""What could not be read, or is not there yet at a replica, is looked at again after this long."""


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
    spec = PullService(
        service=SERVICE,
        nats_url=settings.nats_url,
        health_host=settings.health_host,
        health_port=settings.health_port,
        jetstream_name=TRANSCRIPT_STORE,
        consumer=CORRELATOR_CONSUMER,
        subject=f"{WRITE_ROOT}.>",
        stores=(CAPTION_STORE,),
        in_hand_max=EVENTS_IN_HAND_MAX,
        handle_within_s=STORE_WITHIN_S,
    )
    return run_service(
        lambda stop: serve_pulls(
            spec,
            stop,
            lambda bus, publisher, telemetry: _prepare(bus, publisher, telemetry, settings),
        ),
        service=SERVICE,
        stop_within_s=STORE_WITHIN_S + STOP_MARGIN_S,
    )


@asynccontextmanager
async def _prepare(
    bus: BusConnection, publisher: AckedPublisher, telemetry: Telemetry, settings: Settings
) -> AsyncGenerator[Handle]:
    captions = CaptionWriter(bus, publisher)
    measures = Measures(telemetry)

    async def publish(caption: CaptionJoined) -> None:
        with start_span(telemetry.tracing, caption) as span:
            await captions.write(caption, headers=span.headers)
        measures.count(caption)

    wait_ms = round(1_000 * settings.deadline_s)
    correlator = Correlator(Transcript(bus), publish, wait_ms=wait_ms)

    async def handle(message: NatsMessage) -> None:
        try:
            again_ms = await correlator.handle(_read(message), now_ms=time.time_ns() // 1_000_000)
        except ContractError as error:
            logger.warning("event dropped: not as agreed", extra=describe_message(message, error))
            await message.reject()
        except (CaptionNotStoredError, JetStreamError, JetStreamUnavailableError) as error:
            logger.warning(
                "event not joined, it comes again", extra=describe_message(message, error)
            )
            await message.nack(delay=RETRY_S)
        else:
            await (message.ack() if again_ms is None else message.nack(delay=again_ms / 1_000))

    yield handle


def _read(message: NatsMessage) -> Stored:
    raw = message.raw_message
    at_ms = int(raw.metadata.timestamp.timestamp() * 1_000)
    return Stored(raw.metadata.sequence.stream, at_ms, parse_part(raw.subject, message.body))
