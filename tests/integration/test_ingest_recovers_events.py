"""Ingest's connection to the bus breaks while workers go on writing: its clients miss nothing."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    AnyEvent,
    Gap,
    StreamClosed,
    StreamCovered,
    StreamId,
    TranslationFinal,
    WriteKind,
    WriteSubject,
    build_dedup_headers,
    build_guard_headers,
    build_transcript_store,
    decode_event,
    encode_event,
)
from speechbus_ingest.bus_stream import BusStream, IngestContext
from speechbus_ingest.formats.decoders import Decoders
from speechbus_ingest.publisher import AudioLane, AudioPublisher
from speechbus_ingest.quotas import Quotas
from speechbus_ingest.registry import StreamRegistry
from speechbus_ingest.stream import IngestStream, StreamRequest
from speechbus_ingest.stream_events import StreamEvents
from speechbus_ingest.supervisor import Supervisor
from speechbus_runtime.bus import BusConnection, connect_bus, encode_headers
from speechbus_runtime.jetstream import fetch_stored, read_last, read_specs, request_api
from speechbus_runtime.publisher import AckedPublisher
from tests.support.bus_log import wait_until
from tests.support.encoded import build_wav
from tests.support.system import System

N_EVENTS = 300
N_CUTS = 5
REPUBLISH = build_transcript_store()[1]["republish"]

pytestmark = pytest.mark.nats


class _Sink:
    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.covered: list[bytes] = []
        self.payloads: list[bytes] = []

    def take_event(self, kind: str, payload: bytes) -> None:
        self.kinds.append(kind)
        self.payloads.append(payload)
        if kind == "covered":
            self.covered.append(payload)


def test_events_stored_while_the_connection_was_cut_arrive_once_and_in_order(
    tmp_path: Path,
) -> None:
    """A final that is republished while ingest is not subscribed would be lost for its client."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        sent, sink = asyncio.run(_cut_while_events_come(system.nats.url))

    assert sink.covered == sent


def test_events_that_were_stored_and_never_republished_arrive_once_and_in_order(
    tmp_path: Path,
) -> None:
    """So it is with those that a JetStream leader had just stored when it died."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        sent, sink = asyncio.run(_store_without_a_word(system.nats.url))

    assert sink.covered == sent


def test_a_change_of_language_that_was_never_republished_is_told(tmp_path: Path) -> None:
    """No other event names it, and nobody but its writer knows that it was stored."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        sink = asyncio.run(_change_language_without_a_word(system.nats.url))

    assert sink.kinds == ["opened", "covered", "reconfigured", "covered"]


def test_translations_that_were_never_republished_are_told_with_the_next_or_before_the_end(
    tmp_path: Path,
) -> None:
    """Translators do not know each other; JetStream says what was before on the same subject."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        told = asyncio.run(_translate_without_a_word(system.nats.url))

    assert told == [
        ("es", 0),
        ("es", 1),
        ("de", 0),
        ("es", 2),
        ("es", 3),
        ("de", 1),
        ("stream.closed", 0),
    ]


def test_audio_accepted_behind_the_end_that_a_worker_saw_is_named_in_a_gap(
    tmp_path: Path,
) -> None:
    """A worker that lost sight of ingest closes the stream; its client had gone on speaking."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        stored, sink = asyncio.run(_close_too_early(system.nats.url))

    assert sink.kinds[-2:] == ["gap", "closed"]
    assert isinstance(stored, Gap)
    assert (stored.from_ms, stored.to_ms, stored.gap_ms_total) == (400, 1_000, 600)


def test_streams_that_are_closed_leave_nothing_behind(tmp_path: Path) -> None:
    """An ingest carries some thousands a day, each with audio and subscriptions of its own."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        left = asyncio.run(_open_and_close(system.nats.url, n_streams=20))
    the_last = Counter({IngestStream: 1, BusStream: 1, StreamEvents: 1, AudioLane: 1})

    assert left <= the_last  # which the registry's loop still names


def test_a_decoded_stream_that_the_bus_refuses_ends_alone(tmp_path: Path) -> None:
    """Nobody waits for its opening any more when its first samples come, and others go on."""
    with System(tmp_path, ingests=0, transcribers=0) as system:
        sink, problem, n_subscriptions = asyncio.run(_open_what_is_refused(system.nats.url))

    assert sink.kinds == ["closed"]
    assert problem == "unannounced"
    assert n_subscriptions == 0


@asynccontextmanager
async def _open_registry(url: str) -> AsyncGenerator[tuple[BusConnection, StreamRegistry], None]:
    loop = asyncio.get_running_loop()
    bus = await connect_bus(url, name="ingest-test")
    context = IngestContext(
        control_bus=bus,
        publisher=AckedPublisher(bus),
        audio=AudioPublisher(bus, now_s=loop.time),
        supervisor=Supervisor(bus, now_s=loop.time, beat=lambda: None),
        decoders=Decoders(Path(), streams_max=0),
        chunk_ms=100,
        shards=4,
        now_ns=lambda: 1_790_000_000_000_000_000,
    )
    registry = StreamRegistry(
        context,
        streams_max=1,
        streams_per_key_max=1,
        quotas=Quotas(streams_per_minute=60, bytes_per_s=None, now_s=lambda: 0.0),
        beat=lambda: None,
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(registry.run())
        await bus.flush()  # the registry runs meanwhile
        yield bus, registry
        await wait_until(lambda: registry.n_streams == 0)
        running.cancel()
    await bus.shut_down()


REQUEST = StreamRequest(tenant="acme", door="native", sample_rate_hz=16_000)


async def _open_what_is_refused(url: str) -> tuple[_Sink, str | None, int]:
    sink = _Sink()
    request = StreamRequest(
        tenant="acme",
        door="native",
        sample_rate_hz=None,
        audio_format="wav",
        keywords=("x" * 2_000_000,),  # more than one message may have
    )
    async with _open_registry(url) as (bus, registry):
        before = len(bus.direct_handlers)
        async with registry.open_stream(request, sink) as stream:
            await stream.take(build_wav(bytes(3_200), sample_rate_hz=16_000))
            await wait_until(stream.closed.is_set)
        n_subscriptions = len(bus.direct_handlers) - before
    return sink, stream.problem, n_subscriptions


async def _open_and_close(url: str, *, n_streams: int) -> Counter[type]:
    async with _open_registry(url) as (bus, registry):
        n_handlers = len(bus.direct_handlers)
        for _ in range(n_streams):
            await _open_and_close_one(registry)
        gc.collect()
        assert len(bus.direct_handlers) == n_handlers
        kinds = (IngestStream, BusStream, StreamEvents, AudioLane)
        return Counter(type(it) for it in gc.get_objects() if isinstance(it, kinds))


async def _open_and_close_one(registry: StreamRegistry) -> None:
    async with registry.open_stream(REQUEST, _Sink()) as stream:
        await stream.take(bytes(32_000))
        closed = _build_closed(stream.stream_id, audio_ms=1_000)
        await _Writer(registry, stream.stream_id).own(closed, "closed")
        await wait_until(stream.closed.is_set)
    await wait_until(lambda: registry.n_streams == 0)


def _build_closed(stream_id: str, *, audio_ms: int) -> StreamClosed:
    return StreamClosed(
        stream_id=StreamId(stream_id),
        tenant="acme",
        epoch=1,
        reason="end",
        audio_ms=audio_ms,
        finals=0,
        gap_ms=0,
    )


async def _close_too_early(url: str) -> tuple[AnyEvent | None, _Sink]:
    sink = _Sink()
    async with _open_registry(url) as (bus, registry):
        async with registry.open_stream(REQUEST, sink) as stream:
            await stream.take(bytes(32_000))
            closed = StreamClosed(
                stream_id=stream.stream_id,
                tenant="acme",
                epoch=1,
                reason="source_lost",
                audio_ms=400,
                finals=0,
                gap_ms=0,
            )
            subject = str(WriteSubject("acme", stream.stream_id, "closed"))
            headers = encode_headers(build_dedup_headers("closed"))
            await registry.context.publisher.publish(subject, encode_event(closed), headers=headers)
            await wait_until(stream.closed.is_set)
        await wait_until(lambda: registry.n_streams == 0)
        gap_subject = str(WriteSubject("acme", stream.stream_id, "gap"))
        stored = await read_last(bus, TRANSCRIPT_STORE, gap_subject)
    return None if stored is None else decode_event(stored.payload), sink


async def _cut_while_events_come(url: str) -> tuple[list[bytes], _Sink]:
    writer_bus = await connect_bus(url, name="writer-test")
    writer = AckedPublisher(writer_bus)
    sink = _Sink()
    sent: list[bytes] = []
    async with (
        _open_registry(url) as (bus, registry),
        registry.open_stream(REQUEST, sink) as stream,
    ):
        for number in range(N_EVENTS):
            event = _build_covered(stream.stream_id, number)
            headers = encode_headers(build_dedup_headers(f"{stream.stream_id}:{number}"))
            subject = str(WriteSubject("acme", stream.stream_id, "covered"))
            await writer.publish(subject, event, headers=headers)
            sent.append(event)
            if number % (N_EVENTS // N_CUTS) == N_EVENTS // N_CUTS // 2:
                await bus.force_reconnect()
        await wait_until(lambda: len(sink.covered) >= N_EVENTS)
        stream.closed.set()
    await writer_bus.shut_down()
    return sent, sink


async def _store_without_a_word(url: str) -> tuple[list[bytes], _Sink]:
    sink = _Sink()
    sent: list[bytes] = []
    async with (
        _open_registry(url) as (bus, registry),
        registry.open_stream(REQUEST, sink) as stream,
    ):
        (spec,) = await read_specs(bus, [TRANSCRIPT_STORE])
        previous = 0
        for number in range(10):
            # The first of each five comes by unseen.
            config = {**spec.config, "republish": None if number % 5 == 0 else REPUBLISH}
            await request_api(bus, f"STREAM.UPDATE.{TRANSCRIPT_STORE}", config)
            sent.append(_build_covered(stream.stream_id, number))
            headers = build_guard_headers(
                f"{stream.stream_id}:{number}",
                token=0,
                claim_subject=str(WriteSubject("acme", stream.stream_id, "claim")),
                previous=previous,
            )
            ack = await registry.context.publisher.publish(
                str(WriteSubject("acme", stream.stream_id, "covered")),
                sent[-1],
                headers=encode_headers(headers),
            )
            previous = ack.seq
        await wait_until(lambda: len(sink.covered) >= len(sent))
        stream.closed.set()
    return sent, sink


class _Writer:
    """Writes one stream's events as its owner, or beside it, republished or not."""

    def __init__(self, registry: StreamRegistry, stream_id: str) -> None:
        self._context = registry.context
        self._stream_id = stream_id
        self._previous = 0
        self._n_events = 0

    async def republish(self, *, on: bool) -> None:
        """Have JetStream tell what it stores from now on, or not."""
        (spec,) = await read_specs(self._context.control_bus, [TRANSCRIPT_STORE])
        config = {**spec.config, "republish": REPUBLISH if on else None}
        await request_api(self._context.control_bus, f"STREAM.UPDATE.{TRANSCRIPT_STORE}", config)

    async def own(self, event: StreamCovered | StreamClosed, kind: WriteKind) -> None:
        """Write an event of the owner."""
        claim_subject = str(WriteSubject("acme", self._stream_id, "claim"))
        headers = build_guard_headers(
            self._name_next(), token=0, claim_subject=claim_subject, previous=self._previous
        )
        subject = WriteSubject("acme", self._stream_id, kind)
        self._previous = await self._store(subject, event, headers)

    async def translate(self, event: TranslationFinal) -> None:
        """Write an event of a translator."""
        subject = WriteSubject("acme", self._stream_id, "translation", event.language)
        await self._store(subject, event, build_dedup_headers(self._name_next()))

    async def _store(
        self, subject: WriteSubject, event: AnyEvent, headers: Mapping[str, str]
    ) -> int:
        ack = await self._context.publisher.publish(
            str(subject), encode_event(event), headers=encode_headers(headers)
        )
        return ack.seq

    def _name_next(self) -> str:
        self._n_events += 1
        return f"{self._stream_id}:{self._n_events}"

    async def cover(self, covered_ms: int) -> None:
        """Tell how far it is transcribed."""
        (last,) = await fetch_stored(
            self._context.control_bus,
            TRANSCRIPT_STORE,
            str(WriteSubject("acme", self._stream_id, "opened")),
        )
        self._previous = self._previous or last.sequence
        event = decode_event(_build_covered(self._stream_id, covered_ms))
        assert isinstance(event, StreamCovered)
        await self.own(event, "covered")


async def _change_language_without_a_word(url: str) -> _Sink:
    sink = _Sink()
    async with (
        _open_registry(url) as (_, registry),
        registry.open_stream(REQUEST, sink) as stream,
    ):
        writer = _Writer(registry, stream.stream_id)
        await writer.cover(1)
        await wait_until(lambda: "covered" in sink.kinds)
        await writer.republish(on=False)
        await stream.change_language("fr")
        await wait_until(lambda: "reconfigured" in sink.kinds)
        await writer.republish(on=True)
        await writer.cover(2)
        await wait_until(lambda: len(sink.covered) == 2)
        stream.closed.set()
    return sink


async def _translate_without_a_word(url: str) -> list[tuple[str, int]]:
    sink = _Sink()
    request = msgspec.structs.replace(REQUEST, target_languages=("es", "de"))
    async with (
        _open_registry(url) as (_, registry),
        registry.open_stream(request, sink) as stream,
    ):
        writer = _Writer(registry, stream.stream_id)

        async def translate(language: str, revision: int) -> None:
            event = TranslationFinal(
                stream_id=StreamId(stream.stream_id),
                tenant="acme",
                transcription_id=f"{stream.stream_id}-0",
                language=language,
                text="hola",
                start_ms=0,
                end_ms=1,
                provider="test",
                revision=revision,
            )
            await writer.translate(event)

        await translate("es", 0)
        await writer.republish(on=False)
        await translate("es", 1)
        await translate("de", 0)
        await writer.republish(on=True)
        await writer.cover(1)  # the owner knows nothing of translations
        await translate("es", 2)
        await wait_until(lambda: sink.kinds.count("translation") == 4)
        await writer.republish(on=False)
        await translate("de", 1)
        await translate("es", 3)
        await writer.republish(on=True)
        await writer.cover(2)
        await writer.own(_build_closed(stream.stream_id, audio_ms=0), "closed")
        await wait_until(stream.closed.is_set)
    events = [decode_event(payload) for payload in sink.payloads]
    return [
        (event.language, event.revision)
        if isinstance(event, TranslationFinal)
        else ("stream.closed", 0)
        for event in events
        if isinstance(event, TranslationFinal | StreamClosed)
    ]


def _build_covered(stream_id: str, covered_ms: int) -> bytes:
    return encode_event(
        StreamCovered(
            stream_id=StreamId(stream_id),
            tenant="acme",
            epoch=1,
            covered_ms=covered_ms,
            next_index=0,
            audio_received_at=0,
        )
    )
