"""Sends spans and metrics to a collector, by OTLP over HTTP; loaded only where one is set.

Threads of the SDK do it, from a bounded queue that forgets what is too much: a collector that is
away costs nothing, and no service waits for it.
"""

import logging
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Tracer
from opentelemetry.util.re import parse_env_headers

from speechbus_runtime.telemetry_settings import TelemetrySettings

__all__ = ["build_metric_reader", "open_tracer"]

logger = logging.getLogger(__name__)


def open_tracer(
    settings: TelemetrySettings, resource: Resource
) -> tuple[Tracer, Callable[[], object]]:
    """Return what makes spans that are sent, and what sends the last of them at the end."""
    _silence_library()
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = _SpanExporter(settings.traces_url, _read_headers(settings))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider.get_tracer("speechbus"), provider.shutdown


def build_metric_reader(settings: TelemetrySettings) -> PeriodicExportingMetricReader:
    """Return what sends all metrics again and again."""
    _silence_library()
    return PeriodicExportingMetricReader(
        _MetricExporter(settings.metrics_url, _read_headers(settings))
    )


class _Arrival:
    """Says once that something does not arrive, and once that it does."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_away = False

    def note(self, *, ok: bool) -> None:
        """How the last try went."""
        if self._is_away is ok:
            self._is_away = not ok
            logger.warning(
                "the collector takes telemetry again"
                if ok
                else "the collector takes no telemetry; it is dropped, and nothing else suffers",
                extra={"what": self._what},
            )


class _SpanExporter(OTLPSpanExporter):
    def __init__(self, url: str, headers: dict[str, str] | None) -> None:
        super().__init__(url, headers=headers)
        self._arrival = _Arrival("spans")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self._arrival.note(ok=result is SpanExportResult.SUCCESS)
        return result


class _MetricExporter(OTLPMetricExporter):
    def __init__(self, url: str, headers: dict[str, str] | None) -> None:
        super().__init__(url, headers=headers)
        self._arrival = _Arrival("metrics")

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float | None = 10_000,
        **kwargs: object,
    ) -> MetricExportResult:
        result = super().export(  # pyright: ignore[reportUnknownMemberType] (untyped keywords)
            metrics_data, timeout_millis, **kwargs
        )
        self._arrival.note(ok=result is MetricExportResult.SUCCESS)
        return result


def _silence_library() -> None:
    # It would log each batch that fails, and each try, with the answer; and whole headers, which
    # are tokens, that it cannot read.
    for name in ("opentelemetry.exporter", "opentelemetry.util"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _read_headers(settings: TelemetrySettings) -> dict[str, str] | None:
    if settings.headers is None:
        return None
    return dict(parse_env_headers(settings.headers.reveal(), liberal=True))
