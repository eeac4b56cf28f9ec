"""The correlator as a process, and the rest of the system as it sees it."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal

import httpx
import msgspec

from speechbus_contracts import (
    CAPTION_STORE,
    CORRELATOR_CONSUMER,
    TRANSCRIPT_STORE,
    CaptionJoined,
    SegmentFinal,
    SegmentRetracted,
    TranslationFinal,
    TranslationMissing,
    WriteSubject,
    build_caption_store,
    build_correlator_consumer,
    build_dedup_headers,
    build_transcript_store,
    build_transcription_id,
    decode_event,
    encode_event,
    event_dedup_id,
    segment_dedup_id,
    translation_dedup_id,
    translation_missing_dedup_id,
)
from speechbus_correlator.join import Part, Stored, join
from speechbus_runtime.bus import BusConnection, connect_bus, encode_headers
from speechbus_runtime.jetstream import (
    ConsumerSpec,
    StoredMessage,
    StreamSpec,
    ensure,
    fetch_stored,
    parse_time_ms,
    request_api,
)
from speechbus_runtime.publisher import AckedPublisher
from tests.support.nats_server import NatsServer

__all__ = [
    "PATIENCE_S",
    "Bus",
    "Correlator",
    "bus_of",
    "correlator",
    "expected",
    "final_of",
    "subject_of",
]

PATIENCE_S: Final = 30.0
"""Only a hang reaches it."""
POLL_S: Final = 0.01

STREAMS: Final = [
    StreamSpec(name=name, config=config)
    for name, config in (build_transcript_store(), build_caption_store())
]
CONSUMER: Final = ConsumerSpec(
    jetstream_name=TRANSCRIPT_STORE,
    name=CORRELATOR_CONSUMER,
    # A tenth of the real one: what a killed process held is delivered again soon.
    config={**build_correlator_consumer(), "ack_wait": 1_000_000_000},
)


class Correlator:
    """A running process and what it logged so far."""

    def __init__(self, process: asyncio.subprocess.Process, health_port: int) -> None:
        self.process = process
        self.lines: list[str] = []
        self._url = f"http://127.0.0.1:{health_port}"

    async def wait_for(self, event: str) -> None:
        """Return when the process has logged `event`, from here on."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stderr.readline()).decode():
                self.lines.append(line)
                if msgspec.json.decode(line)["event"] == event:
                    return
        raise AssertionError(f"ended without {event!r}: {self.lines}")

    async def end(self, number: signal.Signals) -> int:
        """Send a signal, return the exit code; `lines` is complete then."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            rest = await self.process.stderr.read()
            code = await self.process.wait()
        self.lines.extend(rest.decode().splitlines())
        return code

    async def is_up(self) -> None:
        """Return when probes are answered."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self.probe("/healthz")
                except httpx.ConnectError:
                    await asyncio.sleep(POLL_S)
                else:
                    return

    async def probe(self, path: str) -> tuple[int, list[str]]:
        """Return status and the names of what fails."""
        async with httpx.AsyncClient() as client:
            answer = await client.get(self._url + path)
        return answer.status_code, [failure["name"] for failure in answer.json()["failing"]]

    def events(self) -> list[str]:
        """Return what was logged."""
        return [msgspec.json.decode(line)["event"] for line in self.lines]


@asynccontextmanager
async def correlator(
    url: str, *, until: str | None = "service started", deadline_s: float = 0.3
) -> AsyncGenerator[Correlator]:
    """Run one process; it has logged `until` when the block starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "speechbus_correlator",
        env={
            "SPEECHBUS_CORRELATOR_NATS_URL": url,
            "SPEECHBUS_CORRELATOR_HEALTH_PORT": str(port),
            "SPEECHBUS_CORRELATOR_DEADLINE_S": str(deadline_s),
            "SPEECHBUS_CORRELATOR_LOG_LEVEL": "DEBUG",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        running = Correlator(process, port)
        if until:
            await running.wait_for(until)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Bus:
    """What the other services would do, and what subscribers would see."""

    def __init__(self, bus: BusConnection) -> None:
        self._bus = self.connection = bus
        self._publisher = AckedPublisher(bus)

    async def bootstrap(self) -> None:
        """Create what is missing."""
        await ensure(self._bus, STREAMS, [CONSUMER])

    async def deliver_again(self) -> None:
        """Make every event come again, as after lost acknowledgements."""
        await request_api(
            self._bus, f"CONSUMER.DELETE.{TRANSCRIPT_STORE}.{CORRELATOR_CONSUMER}", {}
        )
        await self.bootstrap()

    async def write(self, *events: Part) -> None:
        """Store events as workers and translators do."""
        for event in events:
            _, dedup_id = _describe(event)
            headers = build_dedup_headers(dedup_id)
            await self.write_raw(subject_of(event), encode_event(event), headers)

    async def write_raw(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Store any bytes."""
        await self._publisher.publish(subject, payload, headers=encode_headers(headers or {}))

    async def settled(self) -> None:
        """Return when every stored event was acknowledged or refused."""
        await self._until(lambda info: info["num_pending"] == info["num_ack_pending"] == 0)

    async def stored(self) -> list[StoredMessage]:
        """Return the captions as they lie in JetStream."""
        return await fetch_stored(self._bus, CAPTION_STORE, "speech.v1.caption.*.*")

    async def some_caption(self) -> None:
        """Return when there is one."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await self.stored():
                    return
                await asyncio.sleep(POLL_S)

    async def delivered(self, n: int) -> None:
        """Return when so many events have been delivered and none waits to be."""
        await self._until(lambda info: info["delivered"]["stream_seq"] >= n)

    async def clock_at_ms(self, ms: int, *, behind: int) -> None:
        """Return when the store's clock is so far behind the time of a stored event."""
        stored = await fetch_stored(
            self._bus, TRANSCRIPT_STORE, "speech.v1.write.>", start_sequence=behind
        )
        due_ms = stored[0].stored_at_ms + ms
        await self._until(lambda info: parse_time_ms(info["ts"]) > due_ms)

    async def captions_of(self, n: int) -> list[CaptionJoined]:
        """Return the captions as soon as there are `n`."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                captions = await self.captions()
                if len(captions) >= n:
                    return captions
                await asyncio.sleep(POLL_S)

    async def _until(self, holds: Callable[[Mapping[str, Any]], bool]) -> None:
        call = f"CONSUMER.INFO.{TRANSCRIPT_STORE}.{CORRELATOR_CONSUMER}"
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if holds(await request_api(self._bus, call, {})):
                    return
                await asyncio.sleep(POLL_S)

    async def captions(self) -> list[CaptionJoined]:
        """Return the captions, by segment and revision."""
        events = [decode_event(message.payload) for message in await self.stored()]
        captions = [event for event in events if isinstance(event, CaptionJoined)]
        assert len(captions) == len(events)
        return sorted(captions, key=lambda each: (each.transcription_id, each.revision))


@asynccontextmanager
async def bus_of(server: NatsServer, *, is_bootstrapped: bool = True) -> AsyncGenerator[Bus]:
    """Connect as the rest of the system."""
    async with AsyncExitStack() as stack:
        connection = await connect_bus(server.url, name="test")
        stack.push_async_callback(connection.shut_down)
        bus = Bus(connection)
        if is_bootstrapped:
            await bus.bootstrap()
        yield bus


def subject_of(event: Part) -> str:
    """Return where an event is written."""
    kind, _ = _describe(event)
    language = None
    if isinstance(event, TranslationFinal | TranslationMissing):
        language = event.language
    return str(WriteSubject(event.tenant, event.stream_id, kind, language))


def _describe(event: Part) -> tuple[Literal["final", "retracted", "translation"], str]:
    name = event.transcription_id
    match event:
        case SegmentFinal():
            return "final", segment_dedup_id(name, event.revision)
        case SegmentRetracted():
            return "retracted", event_dedup_id(event.stream_id, "retracted", event.index)
        case TranslationFinal():
            return "translation", translation_dedup_id(name, event.language, event.revision)
        case TranslationMissing():
            dedup_id = translation_missing_dedup_id(name, event.language, event.revision)
            return "translation", dedup_id


def final_of(index: int, *, stream_id: str = "s1", **changed: object) -> SegmentFinal:
    """One final."""
    final = SegmentFinal(
        stream_id=stream_id,
        tenant="acme",
        transcription_id=build_transcription_id(stream_id, index),
        index=index,
        revision=2,
        epoch=1,
        language="en",
        text=f"segment {index}",
        start_ms=index * 1000,
        end_ms=index * 1000 + 900,
        provider="local",
        covered_ms=index * 1000 + 900,
        audio_received_at=1,
        emitted_at=2,
    )
    return msgspec.structs.replace(final, **changed)


def expected(finals: Sequence[SegmentFinal], *, first: int = 1) -> list[CaptionJoined]:
    """Return one caption for each final, in the order of `Bus.captions`.

    Args:
        finals: without gaps in the log.
        first: sequence of the first.
    """
    stored = (Stored(sequence, 0, final) for sequence, final in enumerate(finals, start=first))
    captions = [joined.caption for each in stored if (joined := join([each], wait_ms=0))]
    return sorted(captions, key=lambda each: each.transcription_id)
