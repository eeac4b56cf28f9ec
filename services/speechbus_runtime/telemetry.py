"""What a process counts and measures, for Prometheus to read: OpenTelemetry's instruments.

Names and units follow its semantic conventions, so `speechbus.bus.reconnects` is read as
`speechbus_bus_reconnects_total`. No label may come from outside or grow with the streams, and
nothing is counted per chunk.
"""

from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from speechbus_runtime.bus import BusConnection

__all__ = ["METRICS_TYPE", "Telemetry"]

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `Telemetry.render` returns; every Prometheus reads it."""


class Telemetry:
    """The instruments of one process.

    Args:
        service: `service.name` will be `speechbus-` and this.
    """

    def __init__(self, service: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        provider = MeterProvider(
            [PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)],
            Resource({"service.name": f"speechbus-{service}"}),
            shutdown_on_exit=False,  # nothing is sent, so nothing has to be sent at the end
        )
        self.meter: Meter = provider.get_meter("speechbus")
        """Makes instruments."""
        self._reconnects = self.meter.create_counter(
            "speechbus.bus.reconnects",
            unit="{reconnect}",
            description="Connections to NATS that broke and stand again.",
        )
        self._reconnects.add(0)
        self._denials = self.meter.create_counter(
            "speechbus.bus.denials",
            unit="{denial}",
            description="Subjects that NATS denied: this service's user lacks a right.",
        )
        self._denials.add(0)

    def render(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def observe(self, name: str, read: Callable[[], float], *, unit: str, description: str) -> None:
        """Measure by asking: `read` is called for each answer, and is quick."""

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            yield Observation(read())

        self.meter.create_observable_gauge(name, [observe], unit, description)

    def follow(self, bus: BusConnection) -> None:
        """Count what happens to a connection."""

        async def count() -> None:
            self._reconnects.add(1)

        bus.on_reconnected(count)
        bus.on_denied(lambda _what: self._denials.add(1))
