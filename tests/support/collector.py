"""A collector: an OTLP endpoint on a real port that keeps what it gets."""

import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import msgspec
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

__all__ = ["CollectedSpan", "Collector"]


class CollectedSpan(msgspec.Struct, frozen=True, kw_only=True):
    """A span as it was sent."""

    service: str
    """`service.name` without `speechbus-`."""
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it begins the trace."""
    links: tuple[str, ...]
    """Ids of spans."""
    duration_ns: int
    is_failed: bool
    attributes: dict[str, str | int | float]


class Collector:
    """Takes spans and metrics; a context manager.

    Args:
        is_mute: it takes requests and never answers.
    """

    def __init__(self, *, is_mute: bool = False) -> None:
        self.spans: list[CollectedSpan] = []
        self.metrics: dict[str, set[str]] = {}
        """Names by service."""
        self.bodies: list[bytes] = []
        """All that came, as it came."""
        self._end = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if is_mute:
                    outer._end.wait()
                    return
                outer.take(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nowhere."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def of(self, name: str, service: str = "") -> list[CollectedSpan]:
        """Spans of a name so far, in the order of arrival."""
        return [s for s in list(self.spans) if s.name == name and service in {"", s.service}]

    def take(self, path: str, body: bytes) -> None:
        """Keep what came."""
        self.bodies.append(body)
        if path == "/v1/traces":
            self._take_spans(ExportTraceServiceRequest.FromString(body))
        else:
            assert path == "/v1/metrics"
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                names = self.metrics.setdefault(_name_service(resource.resource.attributes), set())
                names.update(m.name for scope in resource.scope_metrics for m in scope.metrics)

    def _take_spans(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            service = _name_service(resource.resource.attributes)
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(
                    CollectedSpan(
                        service=service,
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        links=tuple(link.span_id.hex() for link in span.links),
                        duration_ns=span.end_time_unix_nano - span.start_time_unix_nano,
                        is_failed=span.status.code == span.status.STATUS_CODE_ERROR,
                        attributes={a.key: _read(a.value) for a in span.attributes},
                    )
                )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _name_service(attributes: Iterable[KeyValue]) -> str:
    named = {attribute.key: attribute.value.string_value for attribute in attributes}
    return named["service.name"].removeprefix("speechbus-")


def _read(value: AnyValue) -> str | int | float:
    match value.WhichOneof("value"):
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case _:
            return value.string_value
