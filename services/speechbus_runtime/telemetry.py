"""What a process counts, measures and traces: OpenTelemetry's instruments and spans.

Names and units follow its semantic conventions, so Prometheus reads `speechbus.bus.reconnects` as
`speechbus_bus_reconnects_total`. No label may come from outside or grow with the streams, and
nothing is counted per chunk.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, Self

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.telemetry_settings import TelemetrySettings
from speechbus_runtime.tracing import Tracing

__all__ = ["METRICS_TYPE", "Telemetry"]

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `Telemetry.render` returns; every Prometheus reads it."""
FLUSH_WITHIN_S: Final = 1.0
"""For what is left at the end, within the margin that services have after their drain."""
ACK_BOUNDS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""An answer takes 0.1 to 1 ms; after 1 s a write is repeated."""

Read = Callable[[], float | Mapping[str, float]]
"""Says what is now; quick, and callable from any thread."""


class Telemetry:
    """The instruments of one process; as a context manager it sends at the end what is left.

    Args:
        service: `service.name` will be `speechbus-` and this.
        settings: where to send spans and metrics; nowhere if not given.
    """

    def __init__(self, service: str, settings: TelemetrySettings | None = None) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        resource = Resource.create({"service.name": f"speechbus-{service}"})
        self.tracing = Tracing()
        """Makes spans."""
        readers: list[MetricReader] = [
            PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        ]
        self._at_end: list[Callable[[], object]] = []
        if settings is not None and settings.traces_url:
            from speechbus_runtime.otlp import open_tracer  # 9 MB that most need not load

            tracer, shut_down = open_tracer(settings, resource)
            self.tracing = Tracing(tracer)
            self._at_end.append(shut_down)
        if settings is not None and settings.metrics_url:
            from speechbus_runtime.otlp import build_metric_reader

            readers.append(build_metric_reader(settings))
        provider = MeterProvider(readers, resource, shutdown_on_exit=False)  # `__aexit__` does it
        if len(readers) > 1:
            self._at_end.append(provider.shutdown)
        self.meter: Meter = provider.get_meter("speechbus")
        """Makes instruments."""
        self._reconnects = 0
        self.count(
            "speechbus.bus.reconnects",
            lambda: self._reconnects,
            unit="{reconnect}",
            description="Connections to NATS that broke and stand again.",
        )
        self._denied = 0
        self.count(
            "speechbus.bus.permissions.denied",
            lambda: self._denied,
            unit="{denial}",
            description="Subjects that NATS denied: this service's user lacks a right.",
        )
        self._log_records = Counter({"warning": 0, "error": 0})
        self.count(
            "speechbus.log.records",
            lambda: dict(self._log_records),
            unit="{record}",
            description="Lines that the service logged as warning or error.",
            label="severity",
        )
        self.record_ack: Callable[[float], None] = self.meter.create_histogram(
            "speechbus.bus.ack.duration",
            "s",
            "From storing an event in JetStream to its acknowledgement, each try.",
            explicit_bucket_boundaries_advisory=ACK_BOUNDS_S,
        ).record

    def render(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def observe(
        self, name: str, read: Read, *, unit: str, description: str, label: str = ""
    ) -> None:
        """Measure by asking `read`, for each answer; of several values `label` names each."""
        self.meter.create_observable_gauge(name, [_observer(read, label)], unit, description)

    def count(self, name: str, read: Read, *, unit: str, description: str, label: str = "") -> None:
        """As `observe`, of what only grows: a plain number costs nothing where it is counted."""
        self.meter.create_observable_counter(name, [_observer(read, label)], unit, description)

    def observe_ready(self, is_ready: Callable[[], bool]) -> None:
        """Measure whether the service wants work, as `/readyz` says."""
        self.observe(
            "speechbus.ready",
            lambda: float(is_ready()),
            unit="1",
            description="Whether the service wants work, as its `/readyz` says: 1 or 0.",
        )

    def follow(self, bus: BusConnection) -> None:
        """Count what happens to a connection."""

        async def count() -> None:
            self._reconnects += 1

        def count_denied(*_: object) -> None:
            self._denied += 1

        bus.on_reconnected(count)
        bus.on_denied(count_denied)

    def follow_logs(self) -> None:
        """Count what this process logs from now on; after `configure_logs`."""
        logging.getLogger().addHandler(_CountingHandler(self._log_records))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        """Send what is left, and be done within `FLUSH_WITHIN_S` whatever the collector does."""
        if not self._at_end:
            return
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def shut_down() -> None:
            for step in self._at_end:
                step()
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # Not in the loop's executor: the end of the process would wait for that.
        threading.Thread(target=shut_down, name="telemetry", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_WITHIN_S):
                await done.wait()


class _CountingHandler(logging.Handler):
    """Counts records by how bad they are."""

    def __init__(self, records: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records["error" if record.levelno >= logging.ERROR else "warning"] += 1


def _observer(read: Read, label: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        value = read()
        if isinstance(value, Mapping):
            for name, part in list(value.items()):
                yield Observation(part, {label: name})
        else:
            yield Observation(value)

    return observe
