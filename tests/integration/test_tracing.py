"""What a collector is sent about a stream, by all services, and what they do without one."""

import asyncio
import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from speechbus_contracts import StreamClaimed
from tests.support.bus_log import wait_until
from tests.support.collector import CollectedSpan, Collector
from tests.support.frame_client import stream_frames
from tests.support.frame_numbers import Tiling, build_frames
from tests.support.libretranslate import LibreTranslateServer, translate
from tests.support.native_client import PATIENCE_S, NativeClient, connect_native
from tests.support.redaction import assert_nothing_private, spell_span
from tests.support.simulator import simulator
from tests.support.system import System

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN: Final = "b7ad6b7169203331"
COLLECTOR_TOKEN: Final = "token-of-the-collector"
FIRST, REST = 100, 50
"""Frames of 20 ms, before and after the worker is killed; the provider is as slow as speech."""
SPOKEN: Final = 29_501
"""The first frame's number: what is said of five digits stands nowhere by chance."""
UNPACED: Final = 160
"""Frames of which `echo` makes a final, at once."""


def test_the_spans_of_a_stream_are_one_trace_through_all_services(tmp_path: Path) -> None:
    """Also of a stream whose worker is killed; it goes on in the trace of its client.

    Nothing of what was said, and no key, is in what is sent, nor in a log.
    """
    with ExitStack() as stack:
        collector = stack.enter_context(Collector())
        engine = stack.enter_context(LibreTranslateServer())
        kotoba = stack.enter_context(simulator(tmp_path, "segment_ms = 1000", provider="kotoba"))
        system = stack.enter_context(
            System(
                tmp_path / "system",
                transcribers=0,
                correlators=1,
                translators=1,
                transcriber_settings={"PROVIDERS": "kotoba"},
                translator_settings={"LIBRETRANSLATE_URL": engine.url},
                environment={
                    **kotoba,
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                    "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {COLLECTOR_TOKEN}",
                    "OTEL_BSP_SCHEDULE_DELAY": "50",
                    "OTEL_METRIC_EXPORT_INTERVAL": "200",
                },
            )
        )
        client = asyncio.run(_stream_with_a_killed_worker(system, collector))
        assert [service.stop() for service in system.services if service.is_running] == [0] * 4

    spans = {span.span_id: span for span in collector.spans}
    assert {span.trace_id for span in spans.values()} == {TRACE_ID}
    orphans = [s.name for s in spans.values() if s.parent_id not in {CLIENT_SPAN, *spans}]
    assert orphans == []
    assert {span.attributes["speechbus.stream.id"] for span in spans.values()} == {client.stream_id}
    n_finals = len(client.finals)
    assert n_finals >= 2
    counts = Counter((span.service, span.name) for span in spans.values())
    assert counts == {
        ("ingest", "open stream"): 1,
        ("ingest", "place stream"): 1,
        ("transcriber", "claim stream"): 2,
        ("transcriber", "open session"): 2,
        ("transcriber", "session"): 1,  # the other one's worker was killed
        ("transcriber", "final"): n_finals,
        ("translator", "translation"): n_finals,
        ("correlator", "caption"): n_finals,
        ("transcriber", "close stream"): 1,
    }
    lines = {tuple(_line_of(span, spans)) for span in collector.of("caption")}
    from_final = ("caption", "translation", "final", "open session", "claim stream")
    assert lines == {
        (*from_final, "open stream"),
        (*from_final, "place stream", "open stream"),
    }
    said = [final.text for final in client.finals]
    translated = [translate(text, "es") for text in said]
    written = {
        **{f"span {span.name} {span_id}": spell_span(span) for span_id, span in spans.items()},
        # What spans hold beside it, and the metrics; UTF-8 stands there as it is.
        **{f"body {n}": body.decode("latin-1") for n, body in enumerate(collector.bodies)},
        **{service.name: service.log_path.read_text() for service in system.services},
    }
    assert_nothing_private(written, [system.key, COLLECTOR_TOKEN, *said, *translated])
    assert "speechbus.ingest.streams" in collector.metrics["ingest"]
    assert "speechbus.transcriber.final.latency" in collector.metrics["transcriber"]
    assert "speechbus.correlator.captions" in collector.metrics["correlator"]
    assert "speechbus.translator.translations" in collector.metrics["translator"]


async def _stream_with_a_killed_worker(system: System, collector: Collector) -> NativeClient:
    # Blocking, in the main thread: services die with the thread that has started them.
    system.add_service("transcriber", WORKER_ID="first")
    async with connect_native(
        system.ingest, system.key, traceparent=f"00-{TRACE_ID}-{CLIENT_SPAN}-01"
    ) as client:
        await client.open(language="en", target_languages=["es"], providers=["kotoba"])
        await client.send(build_frames(SPOKEN, FIRST))
        await client.say({"type": "flush"})
        await client.hear_until("stream.flushed")
        # All that was said is with the collector, and nothing is on its way.
        n_finals = len(client.finals)
        await wait_until(lambda: len(collector.of("caption")) >= n_finals, within_s=PATIENCE_S)
        await wait_until(lambda: len(collector.of("final")) >= n_finals, within_s=PATIENCE_S)
        await wait_until(lambda: len(collector.of("open session")) == 1, within_s=PATIENCE_S)

        system.add_service("transcriber", WORKER_ID="second")
        system.transcribers[0].kill()
        while await _next_worker(client) != "second":
            pass
        await client.send(build_frames(SPOKEN + FIRST, REST))
        await client.end()
        n_finals = len(client.finals)
        await wait_until(lambda: len(collector.of("caption")) >= n_finals, within_s=PATIENCE_S)
        await wait_until(lambda: bool(collector.of("close stream")), within_s=PATIENCE_S)
    return client


async def _next_worker(client: NativeClient) -> str:
    await client.hear_until("stream.claimed")
    claimed = client.events[-1]
    assert isinstance(claimed, StreamClaimed)
    return claimed.worker


def _line_of(span: CollectedSpan, spans: dict[str, CollectedSpan]) -> list[str]:
    names = [span.name]
    while (parent := spans.get(span.parent_id)) is not None:
        span = parent
        names.append(span.name)
    return names


def test_a_client_that_comes_back_to_another_ingest_stays_in_its_trace(tmp_path: Path) -> None:
    """Its ingest was killed; the log has the context."""

    async def run(system: System) -> NativeClient:
        async with connect_native(system.ingests[0], system.key) as client:
            await client.open(resumable=True)
            await client.send(build_frames(1, UNPACED))
            await client.hear_until("segment.final")
            # Sent, that is: what a process has not sent within its 50 ms dies with it.
            await wait_until(lambda: bool(collector.of("open stream")), within_s=PATIENCE_S)
            system.ingests[0].kill()
        async with connect_native(system.ingests[1], system.key) as back:
            ready = await back.open(resume={"stream_id": client.stream_id, "samples": 0})
            n_sent = int(ready["accepted_samples"]) // 320
            await back.send(build_frames(1 + n_sent, UNPACED + REST - n_sent))
            await back.end()
        await wait_until(lambda: bool(collector.of("close stream")), within_s=PATIENCE_S)
        return back

    with (
        Collector() as collector,
        System(
            tmp_path,
            ingests=2,
            environment={
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
                "OTEL_BSP_SCHEDULE_DELAY": "50",
            },
        ) as system,
    ):
        client = asyncio.run(run(system))
        system.ingests[1].stop()

    assert client.closed.reason == "end"
    (opening,) = collector.of("open stream")
    (resuming,) = collector.of("resume stream")
    assert (opening.parent_id, resuming.parent_id) == ("", opening.span_id)
    assert {span.trace_id for span in collector.spans} == {opening.trace_id}
    assert len(collector.of("final")) == len(client.finals)


def test_a_collector_that_never_answers_costs_nothing(tmp_path: Path) -> None:
    """Streams are exact, services end in time and well, and their logs say it once."""
    with (
        Collector(is_mute=True) as collector,
        System(
            tmp_path,
            environment={
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "0.2",
                "OTEL_BSP_SCHEDULE_DELAY": "50",
            },
        ) as system,
    ):
        received = asyncio.run(
            stream_frames(system.ingest.url, system.key, n_frames=200, is_paced=False)
        )
        logs = [service.log_path for service in system.services]
        asyncio.run(wait_until(lambda: all(_count_warnings(path) for path in logs)))
        codes = [service.stop() for service in system.services]

    assert received.check_tiling(200) == Tiling(
        missing=0, doubled=0, time_error_ms_max=0, is_ordered=True
    )
    assert codes == [0, 0]
    assert [_count_warnings(path) for path in logs] == [1, 1]


def _count_warnings(path: Path) -> int:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sum(line["event"].startswith("the collector takes no telemetry") for line in lines)
