"""Contexts as text, and where telemetry is sent."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from speechbus_runtime.bus import encode_headers
from speechbus_runtime.otlp import open_tracer
from speechbus_runtime.secret import Secret
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_runtime.telemetry_settings import TELEMETRY_PREFIX, TelemetrySettings
from speechbus_runtime.tracing import Tracing, followed, following, read_traceparent

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"


def build_tracing() -> tuple[Tracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider.get_tracer("test")), exporter


def test_a_span_goes_on_in_its_parents_trace_and_names_itself_for_what_follows() -> None:
    """The whole of it: a header in, a header out."""
    tracing, exporter = build_tracing()
    with tracing.start("first", kind="server", parent=PARENT) as first:
        pass
    with tracing.start("second", kind="consumer", parent=first.traceparent) as second:
        pass

    spans = {span.name: span for span in exporter.get_finished_spans()}
    first_context, second_parent = spans["first"].context, spans["second"].parent
    assert first_context is not None
    assert second_parent is not None
    assert f"{first_context.trace_id:032x}" == PARENT[3:35]
    assert second_parent.trace_id == first_context.trace_id
    assert second_parent.span_id == first_context.span_id
    assert second.headers == {"traceparent": second.traceparent}
    assert re.fullmatch(PARENT[:36] + "[0-9a-f]{16}-01", second.traceparent)


def test_without_a_collector_a_context_is_handed_on_as_it_came() -> None:
    """A service without one does not cut the trace of those behind it."""
    span = Tracing().start("any", kind="server", parent=PARENT)
    span.set("speechbus.reason", "opened")
    span.fail("unavailable")
    span.end()

    assert span.headers == {"traceparent": PARENT}
    assert Tracing().start("any", kind="server").headers == {}


def test_a_parent_that_is_not_sampled_is_not_sent_and_handed_on() -> None:
    """Whoever began the trace has decided for all."""
    tracing, exporter = build_tracing()
    with tracing.start("any", kind="server", parent=UNSAMPLED) as span:
        pass

    assert exporter.get_finished_spans() == ()
    assert span.traceparent.startswith(UNSAMPLED[:36])
    assert span.traceparent.endswith("-00")


@example("a key that slipped, 16 KiB of it, or anything")
@example(f"cc{PARENT[2:]}-and more")
@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{30,34}-[0-9a-f]{14,18}-[0-9a-f]{2}.*"))
def test_a_client_may_send_anything_as_its_context(parent: str) -> None:
    """What is none begins a trace; nothing of it travels on."""
    tracing, _ = build_tracing()
    with tracing.start("any", kind="server", parent=parent) as span:
        pass

    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", span.traceparent)
    handed_on = Tracing().start("any", kind="server", parent=parent).traceparent
    assert re.fullmatch(r"(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})?", handed_on)


def test_an_error_that_leaves_the_block_is_named_by_its_type_only() -> None:
    """Its message may hold speech."""
    tracing, exporter = build_tracing()
    with (
        pytest.raises(ValueError, match="good morning"),
        tracing.start("any", kind="client", link=PARENT),
    ):
        raise ValueError("good morning")

    (span,) = exporter.get_finished_spans()
    assert span.attributes == {"error.type": "ValueError"}
    assert span.events == ()
    assert [f"{link.context.span_id:016x}" for link in span.links] == [PARENT[36:52]]


def test_the_context_is_found_in_a_block_of_headers() -> None:
    """Among those that JetStream needs."""
    headers = encode_headers({"content-type": "application/json", "traceparent": PARENT})

    assert read_traceparent(headers) == PARENT
    assert read_traceparent(encode_headers({"content-type": "application/json"})) == ""
    assert read_traceparent(b"") == ""


def test_what_is_handled_is_known_until_it_is_done() -> None:
    """The next message has a context of its own, or none."""
    with following(PARENT):
        within = followed()
    assert (within.traceparent, within.at_ms is None) == (PARENT, False)
    assert (followed().traceparent, followed().at_ms) == ("", None)


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, "", ""),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"},
            "http://collector:4318/v1/traces",
            "http://collector:4318/v1/metrics",
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/spans"}, "https://c/spans", ""),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://c/metrics"}, "", "https://c/metrics"),
    ],
)
def test_telemetry_goes_where_opentelemetrys_variables_say(
    environ: Mapping[str, str], traces: str, metrics: str
) -> None:
    """By their specification; nothing is sent without one of them."""
    settings = read_settings(TelemetrySettings, prefix=TELEMETRY_PREFIX, environ=environ)

    assert (settings.traces_url, settings.metrics_url) == (traces, metrics)


def test_an_endpoint_that_is_none_is_told_at_the_start() -> None:
    """Not when the first spans are lost."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}

    with pytest.raises(SettingsError) as caught:
        read_settings(TelemetrySettings, prefix=TELEMETRY_PREFIX, environ=environ)

    assert str(caught.value) == ("OTEL_EXPORTER_OTLP_ENDPOINT is no URL: write http://HOST:4318")


def test_headers_that_cannot_be_read_are_told_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are a collector's token; OpenTelemetry would log them whole."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_HEADERS": "Bearer the-collectors-token",
    }

    with pytest.raises(SettingsError) as caught:
        read_settings(TelemetrySettings, prefix=TELEMETRY_PREFIX, environ=environ)
    assert str(caught.value) == (
        "OTEL_EXPORTER_OTLP_HEADERS has an entry without '=': write name=value,name=value"
    )

    # It reads the variable by itself, too, and others beside it.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "the-collectors-token")
    settings = TelemetrySettings(
        endpoint="http://127.0.0.1:9", headers=Secret("=the-collectors-token")
    )
    _, shut_down = open_tracer(settings, Resource.create({}))
    shut_down()
    assert "the-collectors-token" not in caplog.text
