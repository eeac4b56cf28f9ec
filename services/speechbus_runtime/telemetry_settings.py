"""Where telemetry is sent: OpenTelemetry's own variables, the same for all services."""

from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from speechbus_runtime.secret import Secret

__all__ = ["TELEMETRY_PREFIX", "TelemetrySettings"]

TELEMETRY_PREFIX: Final = "SPEECHBUS_OTLP_"
"""No variable has it: all of them are OpenTelemetry's."""


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What we read ourselves; sampling, queue and intervals are read by OpenTelemetry's SDK."""

    endpoint: Annotated[str, msgspec.Meta(extra={"variable": "OTEL_EXPORTER_OTLP_ENDPOINT"})] = ""
    """Collector that gets spans and metrics, by OTLP over HTTP (`http://collector:4318`); empty:
    none does, and nothing is traced."""
    traces_endpoint: Annotated[
        str, msgspec.Meta(extra={"variable": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"})
    ] = ""
    """Whole URL for spans, where it is another one, or for spans alone."""
    metrics_endpoint: Annotated[
        str, msgspec.Meta(extra={"variable": "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"})
    ] = ""
    """Whole URL for metrics, where it is another one, or for metrics alone."""
    headers: Annotated[
        Secret | None, msgspec.Meta(extra={"variable": "OTEL_EXPORTER_OTLP_HEADERS"})
    ] = None
    """HTTP headers of what is sent, `name=value,name=value`, as for a collector that wants a
    token."""

    def __post_init__(self) -> None:
        """Check what would be noticed when the first spans are lost."""
        for name in ("endpoint", "traces_endpoint", "metrics_endpoint"):
            url: str = getattr(self, name)
            if url and not (url.startswith(("http://", "https://")) and urlsplit(url).hostname):
                raise ValueError(f"{name.upper()} is no URL: write http://HOST:4318")
        given = self.headers.reveal() if self.headers is not None else ""
        if not all("=" in entry for entry in given.split(",") if entry.strip()):
            raise ValueError("HEADERS has an entry without '=': write name=value,name=value")

    @property
    def traces_url(self) -> str:
        """Where spans go; empty: nowhere."""
        return self.traces_endpoint or self._join("traces")

    @property
    def metrics_url(self) -> str:
        """Where metrics go; empty: nowhere."""
        return self.metrics_endpoint or self._join("metrics")

    def _join(self, signal: str) -> str:
        return f"{self.endpoint.rstrip('/')}/v1/{signal}" if self.endpoint else ""
