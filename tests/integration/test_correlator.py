"""The correlator as a real process on a real nats-server."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest

from speechbus_contracts import (
    CAPTION_STORE,
    CORRELATOR_CONSUMER,
    MSG_ID,
    TRANSCRIPT_STORE,
    CaptionJoined,
    SegmentFinal,
    WriteSubject,
    build_caption_store,
    build_correlator_consumer,
    build_transcript_store,
    build_transcription_id,
    decode_event,
    encode_event,
)
from speechbus_correlator.join import join_final
from speechbus_runtime.bus import BusConnection, connect_bus, encode_headers
from speechbus_runtime.jetstream import (
    ConsumerSpec,
    StoredMessage,
    StreamSpec,
    ensure,
    fetch_stored,
    request_api,
)
from speechbus_runtime.publisher import AckedPublisher
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats

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
    url: str, *, until: str | None = "correlator started"
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
        self._bus = bus
        self._publisher = AckedPublisher(bus)

    async def bootstrap(self) -> None:
        """Create what is missing."""
        await ensure(self._bus, STREAMS, [CONSUMER])

    async def deliver_again(self) -> None:
        """Make every final come again, as after lost acknowledgements."""
        await request_api(
            self._bus, f"CONSUMER.DELETE.{TRANSCRIPT_STORE}.{CORRELATOR_CONSUMER}", {}
        )
        await self.bootstrap()

    async def write(self, *finals: SegmentFinal) -> None:
        """Store finals as a worker does."""
        for final in finals:
            subject = WriteSubject(final.tenant, final.stream_id, "final")
            await self.write_raw(str(subject), encode_event(final))

    async def write_raw(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Store any bytes."""
        await self._publisher.publish(subject, payload, headers=encode_headers(headers or {}))

    async def settled(self) -> None:
        """Return when every stored final was acknowledged or refused."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                info = await request_api(
                    self._bus, f"CONSUMER.INFO.{TRANSCRIPT_STORE}.{CORRELATOR_CONSUMER}", {}
                )
                if info["num_pending"] == info["num_ack_pending"] == 0:
                    return
                await asyncio.sleep(POLL_S)

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

    async def captions(self) -> list[CaptionJoined]:
        """Return the captions, by segment and revision."""
        events = [decode_event(message.payload) for message in await self.stored()]
        captions = [event for event in events if isinstance(event, CaptionJoined)]
        assert len(captions) == len(events)
        return sorted(captions, key=lambda each: (each.transcription_id, each.revision))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


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


def expected(finals: Sequence[SegmentFinal]) -> list[CaptionJoined]:
    """Return one caption for each final, in the order of `Bus.captions`."""
    captions = [join_final(final, revision=0) for final in finals]
    return sorted(captions, key=lambda each: each.transcription_id)


def test_each_final_becomes_one_caption(server: NatsServer) -> None:
    """Subscribers of captions see all that was said, with what is still missing."""
    finals = [final_of(0), final_of(1, target_languages=("es", "de")), final_of(0, stream_id="s2")]

    async def run() -> None:
        async with bus_of(server) as bus, correlator(server.url) as process:
            await bus.write(*finals)
            await bus.settled()

            assert await bus.captions() == expected(finals)
            assert {message.subject for message in await bus.stored()} == {
                "speech.v1.caption.acme.s1",
                "speech.v1.caption.acme.s2",
            }
            assert await process.probe("/healthz") == (200, [])
            assert await process.probe("/readyz") == (200, [])

    asyncio.run(run())


def test_a_final_delivered_again_leaves_one_caption(server: NatsServer) -> None:
    """An acknowledgement may be lost, or its sender die before it; subscribers notice nothing."""
    finals = [final_of(index) for index in range(40)]
    stored_before = join_final(finals[0], revision=0)

    async def run() -> None:
        async with bus_of(server) as bus:
            # What a process leaves that dies between storing and acknowledging.
            await bus.write_raw(
                "speech.v1.caption.acme.s1",
                encode_event(stored_before),
                {MSG_ID: "s1-0:caption:0"},
            )
            async with correlator(server.url):
                await bus.write(*finals)
                await bus.settled()
                await bus.deliver_again()
                await bus.settled()

                assert await bus.captions() == expected(finals)

    asyncio.run(run())


def test_two_instances_leave_one_caption(server: NatsServer) -> None:
    """Any number of correlators may run, also while one is replaced."""
    finals = [final_of(index, stream_id=f"s{index % 5}") for index in range(100)]

    async def run() -> None:
        async with (
            bus_of(server) as bus,
            correlator(server.url),
            correlator(server.url),
        ):
            await bus.write(*finals)
            await bus.settled()
            await bus.deliver_again()
            await bus.settled()

            assert await bus.captions() == expected(finals)

    asyncio.run(run())


def test_a_correction_becomes_the_next_revision(server: NatsServer) -> None:
    """Readers keep the highest revision; under the first one's id it would be dropped."""
    first = final_of(0)
    correction = final_of(0, revision=3, text="segment nought")

    async def run() -> None:
        async with bus_of(server) as bus, correlator(server.url):
            await bus.write(first)
            await bus.settled()
            await bus.write(correction)
            await bus.settled()
            await bus.deliver_again()
            await bus.settled()

            assert await bus.captions() == [
                join_final(first, revision=0),
                join_final(correction, revision=1),
            ]

    asyncio.run(run())


def test_a_killed_correlator_loses_no_final(server: NatsServer) -> None:
    """What it had in hand, and what came while none ran, is told by the next one."""
    finals = [final_of(index) for index in range(300)]

    async def run() -> None:
        async with bus_of(server) as bus:
            await bus.write(*finals[:200])
            async with correlator(server.url, until=None) as first:
                await bus.some_caption()
                assert await first.end(signal.SIGKILL) == -signal.SIGKILL
            await bus.write(*finals[200:])
            async with correlator(server.url):
                await bus.settled()

            assert await bus.captions() == expected(finals)

    asyncio.run(run())


def test_it_goes_on_after_a_restart_of_nats(server: NatsServer) -> None:
    """NATS may be replaced at any time; nobody restarts the services for it."""
    finals = [final_of(index) for index in range(60)]

    async def run() -> None:
        async with correlator(server.url, until="waiting for JetStream objects") as process:
            async with bus_of(server) as bus:
                await process.wait_for("correlator started")
                await bus.write(*finals[:20])
                await bus.settled()
                await bus.write(*finals[20:40])
            server.kill()
            await process.wait_for("NATS connection lost")

            assert await process.probe("/readyz") == (503, ["bus"])
            assert await process.probe("/healthz") == (200, [])

            server.start()
            await process.wait_for("NATS connection is back")
            async with bus_of(server) as bus:
                await bus.write(*finals[40:])
                await bus.settled()

                assert await bus.captions() == expected(finals)
            assert await process.end(signal.SIGTERM) == 0
            assert "FastStream reports an error" not in process.events()

    asyncio.run(run())


def test_it_waits_for_bootstrap_and_says_so_once(server: NatsServer) -> None:
    """Services of one deployment start in any order."""

    async def run() -> None:
        async with (
            correlator(server.url, until="waiting for JetStream objects") as process,
            bus_of(server, is_bootstrapped=False) as bus,
        ):
            assert await process.probe("/readyz") == (503, ["phase", "objects"])

            await bus.bootstrap()
            await process.wait_for("correlator started")

            assert await process.probe("/readyz") == (200, [])
            assert process.events().count("waiting for JetStream objects") == 1

    asyncio.run(run())


def test_sigterm_ends_it_cleanly(server: NatsServer) -> None:
    """A rollout is no failure, and what it took it finishes or gives back."""
    finals = [final_of(index) for index in range(100)]

    async def run() -> None:
        async with bus_of(server) as bus:
            await bus.write(*finals)
            async with correlator(server.url) as first:
                assert await first.end(signal.SIGTERM) == 0
                assert "FastStream reports an error" not in first.events()
            async with correlator(server.url):
                await bus.settled()

            assert await bus.captions() == expected(finals)

    asyncio.run(run())


def test_sigterm_ends_it_also_when_nats_went_away(server: NatsServer) -> None:
    """Whoever stops everything may stop NATS first; nothing waits for it then."""

    async def run() -> None:
        async with bus_of(server), correlator(server.url) as process:
            server.kill()
            await process.wait_for("NATS connection lost")

            assert await process.end(signal.SIGTERM) == 0

    asyncio.run(run())


def test_sigterm_ends_it_also_when_nats_was_never_there(server: NatsServer) -> None:
    """A deployment that came up halfway can be taken down again."""
    server.kill()

    async def run() -> None:
        async with correlator(server.url, until=None) as process:
            await process.is_up()

            assert await process.probe("/readyz") == (503, ["phase", "bus"])
            assert await process.end(signal.SIGTERM) == 0

    asyncio.run(run())


MESSAGE_BYTES_MAX: Final = 256 << 10
"""`max_payload` of the test server, headers included."""
FINAL_BYTES: Final = len(encode_event(final_of(0, text="")))


@pytest.mark.parametrize(
    "garbage",
    [
        b"swordfish \xff\x00",
        b'{"type": "segment.final", "text": "swordfish"}',
        encode_event(final_of(0, tenant="other", text="swordfish")),
        # A caption holds its final and 150 bytes more: this one would not fit into a message.
        encode_event(final_of(0, text="swordfish".ljust(MESSAGE_BYTES_MAX - FINAL_BYTES - 50))),
    ],
    ids=["no JSON", "fields missing", "another tenant", "too large"],
)
def test_garbage_is_dropped_and_shown_to_nobody(server: NatsServer, garbage: bytes) -> None:
    """One broken writer must not stop the captions of all, nor put speech into logs."""

    async def run() -> None:
        async with bus_of(server) as bus, correlator(server.url) as process:
            await bus.write_raw("speech.v1.write.acme.s1.final", garbage)
            await bus.write(final_of(1))
            await bus.settled()

            assert await bus.captions() == expected([final_of(1)])
            assert await process.probe("/healthz") == (200, [])
            assert await process.end(signal.SIGTERM) == 0
            dropped = [line for line in process.lines if '"WARNING"' in line]
            assert [msgspec.json.decode(line)["sequence"] for line in dropped] == [1]
            assert "swordfish" not in "".join(process.lines)

    asyncio.run(run())


def test_a_header_of_a_final_makes_it_publish_nothing(server: NatsServer) -> None:
    """FastStream answers to the subject in a header `reply_to`, by default to any."""

    async def run() -> None:
        async with bus_of(server) as bus, correlator(server.url):
            await bus.write_raw(
                "speech.v1.write.acme.s1.final",
                encode_event(final_of(0)),
                {"reply_to": "speech.v1.caption.other.s9"},
            )
            await bus.settled()

            assert await bus.captions() == expected([final_of(0)])

    asyncio.run(run())
