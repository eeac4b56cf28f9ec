"""Spans that follow a stream over the bus.

Where they continue is told as text, the value of W3C's header `traceparent`: it travels in headers
of messages, so it is in the log, and whoever takes a stream over goes on with its trace. One span
is made for an event at most, never for a chunk or a partial.
"""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Literal, Self

import msgspec
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["Followed", "Kind", "Span", "Tracing", "followed", "following", "read_traceparent"]

Kind = Literal["server", "client", "producer", "consumer", "internal"]
Attributes = Mapping[str, str | int | float | bool]

HEADER: Final = "traceparent"
_LINE: Final = b"\r\ntraceparent:"
_VALUE_CHARS_MAX: Final = 256
"""It has 55; later versions of it may be longer."""
_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
_propagator: Final = TraceContextTextMapPropagator()


class Followed(msgspec.Struct, frozen=True):
    """A message that is being handled."""

    traceparent: str = ""
    at_ms: int | None = None
    """When it was taken, ms since 1970."""


_followed: Final[ContextVar[Followed]] = ContextVar("followed", default=Followed())  # noqa: B039


class Span:
    """Something that takes time; made by `Tracing.start`, ended once.

    As a context manager it ends with the block, and names the type of an error that leaves it.
    """

    def __init__(self, span: trace.Span | None, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent
        """For what follows from it; empty: there is no trace."""

    @property
    def headers(self) -> dict[str, str]:
        """What a message carries for those who follow."""
        return {HEADER: self.traceparent} if self.traceparent else {}

    def set(self, name: str, value: str | float) -> None:
        """Add an attribute; no recognized text and no key."""
        if self._span is not None:
            self._span.set_attribute(name, value)

    def fail(self, error_type: str) -> None:
        """Mark it as failed.

        Args:
            error_type: a word of few; never a message, which may hold speech.
        """
        if self._span is not None:
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """It is over."""
        if self._span is not None:
            self._span.end()
            self._span = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.fail(kind.__name__)
        self.end()


class Tracing:
    """Makes spans.

    Args:
        tracer: of the process; None: nothing is traced, and contexts are handed on.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    @property
    def is_on(self) -> bool:
        """Whether spans are made."""
        return self._tracer is not None

    def start(
        self,
        name: str,
        *,
        kind: Kind,
        parent: str = "",
        link: str = "",
        started_at_ms: int | None = None,
        attributes: Attributes | None = None,
    ) -> Span:
        """Begin a span.

        Args:
            name: one of few; ids are attributes.
            kind: as OpenTelemetry has them.
            parent: a `traceparent`; empty, or none at all: the span begins a trace.
            link: a `traceparent` of what it has to do with, beside its parent.
            started_at_ms: ms since 1970; None: now.
            attributes: no recognized text, no key.
        """
        origin = _parse(parent)
        if self._tracer is None:
            return Span(None, _spell(origin))  # not `parent`: a client wrote it, whatever it is
        linked = _parse(link) if link else None
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(trace.NonRecordingSpan(origin)),
            kind=_KINDS[kind],
            attributes=attributes,
            links=[Link(linked)] if linked is not None and linked.is_valid else None,
            start_time=None if started_at_ms is None else started_at_ms * 1_000_000,
        )
        return Span(span, _spell(span.get_span_context()))


@contextmanager
def following(traceparent: str) -> Generator[None]:
    """Have `followed` tell of a message in this block, also in tasks that are started there."""
    token = _followed.set(Followed(traceparent, time.time_ns() // 1_000_000))
    try:
        yield
    finally:
        _followed.reset(token)


def followed() -> Followed:
    """Return the context of the message that is being handled."""
    return _followed.get()


def read_traceparent(headers: bytes) -> str:
    """Return the context in a header block, empty when there is none."""
    _, _, rest = headers.partition(_LINE)
    value = rest.partition(b"\r\n")[0].strip()
    return value.decode("latin-1") if len(value) <= _VALUE_CHARS_MAX else ""


def _parse(traceparent: str) -> SpanContext:
    """Return the context; an invalid one when the text is none."""
    if not traceparent or len(traceparent) > _VALUE_CHARS_MAX:
        return trace.INVALID_SPAN_CONTEXT
    context = _propagator.extract({HEADER: traceparent})
    return trace.get_current_span(context).get_span_context()


def _spell(context: SpanContext) -> str:
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
