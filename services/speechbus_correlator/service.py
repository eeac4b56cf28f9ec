"""The correlator as a service: the log in by a durable consumer, captions out."""

import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

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
from speechbus_runtime.lifecycle import EXIT_SETTINGS
from speechbus_runtime.logs import configure_logs
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.pull_service import Delivery, Handle, PullService, run_pulls
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_runtime.telemetry import Telemetry

__all__ = ["main"]

SERVICE: Final = "correlator"
EVENTS_IN_HAND_MAX: Final = 32
"""Events of one pull, handled at the same time. Enough for a backlog (one answer from the store
then serves 32), and no more than that is delivered again after a crash."""


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
        nats_login=settings.nats_login,
        health_host=settings.health_host,
        health_port=settings.health_port,
        jetstream_name=TRANSCRIPT_STORE,
        consumer=CORRELATOR_CONSUMER,
        subject=f"{WRITE_ROOT}.>",
        stores=(CAPTION_STORE,),
        in_hand_max=EVENTS_IN_HAND_MAX,
        handle_within_s=STORE_WITHIN_S,
        drops_on=(ContractError,),
        # Among them what is not there yet at a replica.
        repeats_on=(CaptionNotStoredError, JetStreamError, JetStreamUnavailableError),
    )
    return run_pulls(
        spec, lambda bus, publisher, telemetry: _prepare(bus, publisher, telemetry, settings)
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

    async def handle(delivery: Delivery) -> float | None:
        stored = Stored(
            delivery.sequence, delivery.stored_at_ms, parse_part(delivery.subject, delivery.payload)
        )
        again_ms = await correlator.handle(
            stored, now_ms=time.time_ns() // 1_000_000, is_first=delivery.n_delivered == 1
        )
        return None if again_ms is None else again_ms / 1_000

    yield handle
