"""The correlator as a real process on a real nats-server."""

import asyncio
import random
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec
import pytest
from faststream import AckPolicy
from faststream.nats import JStream, PullSub

from speechbus_contracts import (
    CORRELATOR_CONSUMER,
    MSG_ID,
    TRANSCRIPT_STORE,
    SegmentFinal,
    encode_event,
)
from speechbus_correlator.join import Stored
from speechbus_correlator.transcript import Transcript
from speechbus_runtime.bus import connect_bus
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.pull_broker import BusBroker
from tests.support.caption_check import read_all
from tests.support.caption_world import World, draw_log, retracted_of, translation_of
from tests.support.correlator import PATIENCE_S, bus_of, correlator, expected, final_of, subject_of
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


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
    stored_before = expected(finals)[0]

    async def run() -> None:
        async with bus_of(server) as bus:
            # What a process leaves that dies between storing and acknowledging.
            await bus.write_raw(
                "speech.v1.caption.acme.s1",
                encode_event(stored_before),
                {MSG_ID: "s1-0:caption:1"},
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
    """Readers keep the highest revision."""
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

            assert await bus.captions() == expected([first, correction])

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
                await process.wait_for("service started")
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
            await process.wait_for("service started")

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
        # A caption holds its final and 190 bytes more: this one would not fit into a message.
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

            assert await bus.captions() == expected([final_of(1)], first=2)
            assert await process.probe("/healthz") == (200, [])
            assert await process.end(signal.SIGTERM) == 0
            dropped = [line for line in process.lines if '"WARNING"' in line]
            assert [msgspec.json.decode(line)["sequence"] for line in dropped] == [1]
            assert "swordfish" not in "".join(process.lines)

    asyncio.run(run())


def test_a_bug_in_a_handler_is_logged_by_its_type(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """FastStream would log the error's text, which may quote what was said."""

    async def run() -> None:
        seen = asyncio.Event()
        async with bus_of(server) as bus, AsyncExitStack() as stack:
            connection = await connect_bus(server.url, name="correlator-test")
            stack.push_async_callback(connection.shut_down)
            broker = BusBroker(connection, drain_within_s=PATIENCE_S)
            subscriber = broker.subscriber(
                "speech.v1.write.*.*.final",
                durable=CORRELATOR_CONSUMER,
                stream=JStream(TRANSCRIPT_STORE, declare=False),
                pull_sub=PullSub(timeout=1.0),
                ack_policy=AckPolicy.MANUAL,
            )

            @subscriber
            async def handle(body: bytes) -> None:
                seen.set()
                raise ValueError(body)

            await broker.start()
            await bus.write_raw("speech.v1.write.acme.s1.final", b"swordfish")
            async with asyncio.timeout(PATIENCE_S):
                await seen.wait()
            await subscriber.stop()

    asyncio.run(run())

    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [vars(record)["error"] for record in errors] == ["ValueError"]
    assert "swordfish" not in caplog.text


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


def test_translations_are_joined_by_whoever_gets_them(server: NatsServer) -> None:
    """They reach different instances; each caption is complete and right, at once."""
    finals = [final_of(index, target_languages=("es", "pt")) for index in range(60)]
    translations = [
        translation_of(final, language, source_sequence=sequence)
        for sequence, final in enumerate(finals, start=1)
        for language in ("pt", "es")
    ]

    async def run() -> None:
        async with (
            bus_of(server) as bus,
            correlator(server.url, deadline_s=60.0),
            correlator(server.url, deadline_s=60.0),
        ):
            await bus.write(*finals, *translations)
            await bus.captions_of(len(finals))
            await bus.deliver_again()
            await bus.captions_of(len(finals))

            told = {
                caption.transcription_id: (caption.state, caption.source, caption.translations)
                for caption in await bus.captions()
            }
            assert told == {
                final.transcription_id: (
                    "complete",
                    final,
                    {language: f"{language} of {final.text}" for language in ("es", "pt")},
                )
                for final in finals
            }

    asyncio.run(run())


def test_a_deadline_that_passes_while_nobody_runs_is_kept(server: NatsServer) -> None:
    """The deadline lies in JetStream, not in a process."""
    final = final_of(0, target_languages=("es", "pt"))
    es = translation_of(final, "es", source_sequence=1)
    pt = translation_of(final, "pt", source_sequence=1)

    async def run() -> None:
        async with bus_of(server) as bus:
            async with correlator(server.url, deadline_s=1.5) as first:
                await bus.write(final, es)
                await bus.delivered(2)
                assert await first.end(signal.SIGKILL) == -signal.SIGKILL
            await bus.clock_at_ms(1_500, behind=1)
            assert await bus.captions() == []

            async with correlator(server.url, deadline_s=1.5):
                (incomplete,) = await bus.captions_of(1)
                await bus.write(pt)
                (_, late) = await bus.captions_of(2)

            assert (incomplete.revision, incomplete.state, incomplete.missing) == (
                2,
                "incomplete",
                ("pt",),
            )
            assert (late.revision, late.state, late.missing) == (3, "late", ())

    asyncio.run(run())


def test_a_translation_before_its_final_and_one_without_a_source(server: NatsServer) -> None:
    """Two writers have no order between them; a source may not be told."""
    final = final_of(0, target_languages=("es",))
    early = translation_of(final, "es", source_sequence=None)

    async def run() -> None:
        async with bus_of(server) as bus, correlator(server.url, deadline_s=60.0):
            await bus.write(early)
            await bus.delivered(1)
            await bus.write(final)
            (caption,) = await bus.captions_of(1)

            assert (caption.state, caption.translations) == ("complete", {"es": early.text})

            await bus.write(retracted_of(final))
            (_, gone) = await bus.captions_of(2)

            assert gone.is_retracted

    asyncio.run(run())


def test_a_translation_of_a_wrong_source_costs_one_look(server: NatsServer) -> None:
    """Whoever names the stream's first event must not make us read its whole day."""
    finals = [final_of(index) for index in range(40)]
    translation = translation_of(finals[39], "es", source_sequence=1)

    async def run() -> None:
        async with bus_of(server) as bus:
            await bus.write(*finals, translation)
            log = Transcript(bus.connection)
            event = Stored(41, 0, translation)

            assert await log.read(event, from_sequence=1, to_sequence=41) == []
            right = await log.read(event, from_sequence=40, to_sequence=41)
            assert [each.event for each in right] == [finals[39], translation]

    asyncio.run(run())


def test_the_log_in_memory_answers_as_the_real_one(server: NatsServer) -> None:
    """What is proven of the rules with the one holds with the other."""
    # One segment: a worker stores those of a stream in order, and a short cut counts on it.
    drawn = [each for seed in range(6) for each in draw_log(random.Random(seed), segments=1)]

    async def run() -> None:
        async with bus_of(server) as bus:
            for each in drawn:
                await bus.write_raw(subject_of(each.event), encode_event(each.event))
            stored = await read_all(bus.connection, TRANSCRIPT_STORE, "speech.v1.write.>")
            log = [
                Stored(message.sequence, message.stored_at_ms, each.event)
                for message, each in zip(stored, drawn, strict=True)
            ]
            real, memory = Transcript(bus.connection), World(log)
            last = log[-1]
            memory.move_to(last.at_ms)
            for each in log:
                for to_sequence, to_ms in ((last.sequence, None), (None, each.at_ms + 3)):
                    answers = [
                        await source.read(
                            each,
                            from_sequence=each.sequence,
                            to_sequence=to_sequence,
                            to_ms=to_ms,
                        )
                        for source in (real, memory)
                    ]
                    assert answers[0] == answers[1]
                if isinstance(each.event, SegmentFinal):
                    early = await real.read_translations_before(each)
                    assert early == await memory.read_translations_before(each)
                assert await real.find_finals(each) == await memory.find_finals(each)
            assert 0 <= await real.read_clock() - last.at_ms < 1_000 * PATIENCE_S

            with pytest.raises(JetStreamUnavailableError):  # as if from a replica that lags
                await real.read(last, from_sequence=1, to_sequence=last.sequence + 1)

    asyncio.run(run())
