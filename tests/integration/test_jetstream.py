"""JetStream's objects, reads and acknowledged writes, on a real nats-server."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from speechbus_contracts import (
    build_claim_headers,
    build_dedup_headers,
    build_guard_headers,
)
from speechbus_runtime.bus import BusConnection, connect_bus, encode_headers
from speechbus_runtime.jetstream import (
    BATCH_MESSAGES_MAX,
    ConsumerSpec,
    JetStreamError,
    JetStreamUnavailableError,
    StoredMessage,
    StreamSpec,
    ensure,
    fetch_stored,
    read_last,
    read_specs,
    request_api,
)
from speechbus_runtime.publisher import (
    FULL,
    Ack,
    AckedPublisher,
    PublishRefusedError,
    StaleGuardError,
)
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats

PATIENCE_S: Final = 30.0
"""Only a hang reaches it."""

LOG: Final = StreamSpec(
    name="LOG",
    config={
        "subjects": ["log.>"],
        "storage": "memory",
        "max_age": 60_000_000_000,
        "allow_direct": True,
        "num_replicas": 1,
    },
)
READER: Final = ConsumerSpec(
    jetstream_name="LOG",
    name="reader",
    config={"ack_policy": "explicit", "max_ack_pending": 10, "filter_subject": "log.a"},
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of this test's own."""
    with NatsServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def bus_of(server: NatsServer) -> AsyncGenerator[BusConnection]:
    """A connection that is closed at the end, and a test that ends even if it hangs."""
    async with asyncio.timeout(PATIENCE_S):
        bus = await connect_bus(server.url, name="test")
        try:
            yield bus
        finally:
            await bus.shut_down()


def headers_of(dedup_id: str) -> bytes:
    return encode_headers(build_dedup_headers(dedup_id))


async def store(bus: BusConnection, subject: str, n_messages: int) -> None:
    """Store numbered messages, the last one acknowledged."""
    for number in range(n_messages - 1):
        bus.publish_nowait(subject.encode(), b"%d" % number)
    await AckedPublisher(bus).publish(
        subject, b"%d" % (n_messages - 1), headers=headers_of(f"{subject}:last")
    )


# --- objects -------------------------------------------------------------------------------------


def test_objects_are_created_once_however_often_it_runs(server: NatsServer) -> None:
    """`speechbus bootstrap` runs with every deployment, on several machines at a time."""

    async def run() -> None:
        async with bus_of(server) as bus, bus_of(server) as other:
            missing = await ensure(bus, [LOG], [READER], create=False)
            async with asyncio.TaskGroup() as group:
                runs = [group.create_task(ensure(one, [LOG], [READER])) for one in (bus, other)]
            again = await ensure(bus, [LOG], [READER])

            assert [report.state for report in missing] == ["missing", "missing"]
            assert [(r.name, r.state) for r in again] == [
                ("LOG", "unchanged"),
                ("LOG/reader", "unchanged"),
            ]
            states = {report.state for run in runs for report in run.result()}
            assert "created" in states
            assert states <= {"created", "unchanged"}

    asyncio.run(run())


def test_drift_is_reported_and_not_overwritten(server: NatsServer) -> None:
    """Somebody may have had a reason to change it; and some changes would throw audio away."""
    wanted = StreamSpec(
        name="LOG", config={**LOG.config, "max_age": 5_000_000_000, "discard": "new"}
    )
    reader = ConsumerSpec(
        jetstream_name="LOG", name="reader", config={**READER.config, "max_ack_pending": 99}
    )

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG], [READER])
            before = await read_specs(bus, ["LOG"])
            reports = await ensure(bus, [wanted], [reader])

            assert [(report.state, report.drift) for report in reports] == [
                (
                    "drifted",
                    (
                        "discard: is 'old', should be 'new'",
                        "max_age: is 60000000000, should be 5000000000",
                    ),
                ),
                ("drifted", ("max_ack_pending: is 10, should be 99",)),
            ]
            assert await read_specs(bus, ["LOG"]) == before

    asyncio.run(run())


def test_a_lost_object_is_made_again_as_it_was(server: NatsServer) -> None:
    """Memory streams die with their server; services remake them from what they read."""

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG])
            specs = await read_specs(bus, ["LOG"])
            await bus.jetstream().delete_stream("LOG")  # pyright: ignore[reportUnknownMemberType]
            with pytest.raises(JetStreamError):
                await read_specs(bus, ["LOG"])
            reports = await ensure(bus, specs)

            assert [report.state for report in reports] == ["created"]
            assert [report.state for report in await ensure(bus, [LOG])] == ["unchanged"]

    asyncio.run(run())


def test_a_config_that_the_server_refuses_is_an_error(server: NatsServer) -> None:
    """Silence would leave the system without its store."""
    broken = StreamSpec(name="BROKEN", config={"subjects": ["log.."]})

    async def run() -> None:
        async with bus_of(server) as bus:
            with pytest.raises(JetStreamError):
                await ensure(bus, [broken])

    asyncio.run(run())


# --- reads ---------------------------------------------------------------------------------------


def test_stored_messages_come_in_pages_without_loss_or_doubles(server: NatsServer) -> None:
    """90 s of short chunks are more than one page; another subject is not among them."""
    n_messages = 2 * BATCH_MESSAGES_MAX + 500

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG])
            await store(bus, "log.b", 10)
            await store(bus, "log.a", n_messages)
            pages: list[list[StoredMessage]] = []
            start_sequence = 1
            while page := await fetch_stored(bus, "LOG", "log.a", start_sequence=start_sequence):
                pages.append(page)
                start_sequence = page[-1].sequence + 1
            messages = [message for page in pages for message in page]

            assert [len(page) for page in pages] == [1_000, 1_000, 500]
            assert [int(message.payload) for message in messages] == list(range(n_messages))
            assert [m.sequence for m in messages] == list(range(11, 11 + n_messages))
            assert {message.subject for message in messages} == {"log.a"}
            both = await fetch_stored(bus, "LOG", "log.*")
            assert [message.subject for message in both[9:11]] == ["log.b", "log.a"]

    asyncio.run(run())


def test_large_messages_end_a_page_early(server: NatsServer) -> None:
    """A page is bounded in bytes, too; the next one begins behind it."""

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG])
            publisher = AckedPublisher(bus)
            for number in range(30):
                await publisher.publish("log.a", bytes(250_000), headers=headers_of(f"m{number}"))
            first = await fetch_stored(bus, "LOG", "log.a")
            rest = await fetch_stored(bus, "LOG", "log.a", start_sequence=first[-1].sequence + 1)

            assert 1 <= len(first) < 30
            assert [m.sequence for m in [*first, *rest]] == list(range(1, 31))

    asyncio.run(run())


def test_reading_may_begin_at_a_time(server: NatsServer) -> None:
    """A new worker knows when its audio came, not under which sequence."""

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG])
            await store(bus, "log.a", 3)
            past = datetime.now(UTC) - timedelta(minutes=5)
            future = datetime.now(UTC) + timedelta(minutes=5)

            assert len(await fetch_stored(bus, "LOG", "log.a", start_time=past.isoformat())) == 3
            assert await fetch_stored(bus, "LOG", "log.a", start_time=future.isoformat()) == []

    asyncio.run(run())


def test_the_last_message_of_a_subject_is_read(server: NatsServer) -> None:
    """The last claim decides who owns a stream; none at all is an answer as well."""

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG])
            await store(bus, "log.a", 3)
            await store(bus, "log.b", 1)

            last = await read_last(bus, "LOG", "log.a")
            assert last is not None
            assert last == StoredMessage(
                subject="log.a", sequence=3, payload=b"2", time=last.time, dedup_id="log.a:last"
            )
            (same,) = await fetch_stored(bus, "LOG", "log.a", start_sequence=3)
            assert last.stored_at_ms == same.stored_at_ms > 0
            assert await read_last(bus, "LOG", "log.never") is None

    asyncio.run(run())


def test_a_store_that_is_not_there_is_no_empty_store(server: NatsServer) -> None:
    """Taken for empty, a stream would begin again from nothing."""

    async def run() -> None:
        async with bus_of(server) as bus:
            with pytest.raises(JetStreamUnavailableError):
                await read_last(bus, "NOWHERE", "log.a")
            with pytest.raises(JetStreamUnavailableError):
                await fetch_stored(bus, "NOWHERE", "log.a")

    asyncio.run(run())


# --- acknowledged writes -------------------------------------------------------------------------


def test_a_repeated_write_is_stored_once(server: NatsServer) -> None:
    """Whoever did not get the answer may ask again."""

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG])
            publisher = AckedPublisher(bus)
            first = await publisher.publish("log.a", b"final", headers=headers_of("s1-0:0"))
            second = await publisher.publish("log.a", b"final", headers=headers_of("s1-0:0"))

            assert (first.seq, first.duplicate) == (1, False)
            assert (second.seq, second.duplicate) == (1, True)
            assert len(await fetch_stored(bus, "LOG", "log.a")) == 1

    asyncio.run(run())


def test_a_compare_and_set_whose_answer_was_lost_has_succeeded(server: NatsServer) -> None:
    """Its repetition is refused for what it wrote itself; only another's write is a lost race."""

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG])
            publisher = AckedPublisher(bus)

            async def claim(worker: str) -> Ack:
                headers = build_claim_headers(f"claim:{worker}", last_claim_sequence=0)
                return await publisher.publish("log.a", b"", headers=encode_headers(headers))

            first, second = await claim("w1"), await claim("w1")

            assert (first.seq, first.duplicate) == (1, False)
            assert (second.seq, second.duplicate) == (1, True)
            with pytest.raises(StaleGuardError):
                await claim("w2")

    asyncio.run(run())


def test_a_write_under_a_stale_guard_is_refused(server: NatsServer) -> None:
    """The former owner may still be writing; nothing of it gets in."""

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG])
            publisher = AckedPublisher(bus)

            async def claim(worker: str, last: int) -> int:
                headers = build_claim_headers(f"claim:{worker}", last_claim_sequence=last)
                ack = await publisher.publish(
                    "log.claim", worker.encode(), headers=encode_headers(headers)
                )
                return ack.seq

            async def write(number: int, token: int) -> None:
                headers = build_guard_headers(
                    f"final:{number}", token=token, claim_subject="log.claim"
                )
                await publisher.publish("log.final", b"", headers=encode_headers(headers))

            first = await claim("w1", 0)
            await write(1, first)
            with pytest.raises(StaleGuardError):
                await claim("w2", 0)
            second = await claim("w2", first)
            with pytest.raises(StaleGuardError):
                await write(2, first)
            await write(3, second)

            assert len(await fetch_stored(bus, "LOG", "log.final")) == 2

    asyncio.run(run())


def test_a_write_repeated_after_its_dedup_id_is_forgotten_is_stored_once(
    server: NatsServer,
) -> None:
    """An outage that takes an acknowledgement along may last longer than any dedup window."""
    brief = StreamSpec(name="LOG", config={**LOG.config, "duplicate_window": 100_000_000})

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [brief])
            publisher = AckedPublisher(bus, dedup_trusted_s=0)
            first = await publisher.publish("log.a", b"final", headers=headers_of("m1"))
            control = await publisher.publish("log.b", b"", headers=headers_of("m2"))
            again = control
            while again.seq == control.seq:  # the window is not over
                again = await publisher.publish("log.b", b"", headers=headers_of("m2"))

            repeated = await publisher.publish(
                "log.a", b"final", headers=headers_of("m1"), store="LOG"
            )
            other = await publisher.publish("log.a", b"next", headers=headers_of("m3"), store="LOG")

            assert (repeated.seq, repeated.duplicate) == (first.seq, True)
            assert (other.duplicate, len(await fetch_stored(bus, "LOG", "log.a"))) == (False, 2)

    asyncio.run(run())


def test_a_write_into_a_full_account_waits_for_room_and_says_what_to_do(tmp_path: Path) -> None:
    """The server answers as if it would refuse for ever (400); yet room comes back."""
    config = tmp_path / "nats.conf"
    config.write_text(
        "accounts { A { jetstream { max_file: 1MB, max_mem: 1MB }, users: [{user: a}] } }\n"
        "no_auth_user: a\n"
    )
    durable = StreamSpec(name="LOG", config={**LOG.config, "storage": "file"})

    async def run(server: NatsServer) -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [durable])
            problems: asyncio.Queue[str] = asyncio.Queue()
            publisher = AckedPublisher(bus, on_problem=problems.put_nowait)
            async with asyncio.TaskGroup() as group:
                writes = [
                    group.create_task(
                        publisher.publish("log.a", bytes(200_000), headers=headers_of(f"m{n}"))
                    )
                    for n in range(8)
                ]
                said = [await problems.get()]
                await request_api(bus, "STREAM.PURGE.LOG", {})
            said.append(await problems.get())

            assert said == [FULL, ""]
            assert not any(write.result().duplicate for write in writes)

    with NatsServer(tmp_path / "nats", config=config) as server:
        asyncio.run(run(server))


def test_a_write_that_no_server_takes_is_refused_and_cuts_nothing(server: NatsServer) -> None:
    """Sent, it would end the connection of everybody in this process, and again when repeated."""

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [LOG])
            publisher = AckedPublisher(bus)
            n_losses = 0

            def count_loss() -> None:
                nonlocal n_losses
                n_losses += 1

            bus.on_disconnected(count_loss)
            with pytest.raises(PublishRefusedError):
                await publisher.publish(
                    "log.a", bytes(bus.max_payload), headers=headers_of("large")
                )
            await publisher.publish("log.a", b"small", headers=headers_of("small"))
            assert n_losses == 0

    asyncio.run(run())


def test_a_write_waits_for_its_store(server: NatsServer) -> None:
    """Memory streams are made again after a restart; what came before they stand is not lost."""

    async def run() -> None:
        async with bus_of(server) as bus:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(
                    AckedPublisher(bus).publish("log.a", b"early", headers=headers_of("m1"))
                )
                # The second answer follows the first try, which nobody was there to take.
                for _ in range(2):
                    await bus.flush()
                await ensure(bus, [LOG])
            ack = writing.result()

            assert (ack.seq, ack.duplicate) == (1, False)
            assert len(await fetch_stored(bus, "LOG", "log.a")) == 1

    asyncio.run(run())


def test_a_write_survives_a_restart_of_nats(server: NatsServer) -> None:
    """It is answered by the next server, and stored once."""
    durable = StreamSpec(name="LOG", config={**LOG.config, "storage": "file"})

    async def run() -> None:
        async with bus_of(server) as bus:
            await ensure(bus, [durable])
            lost = asyncio.Event()
            bus.on_disconnected(lost.set)
            publisher = AckedPublisher(bus)
            await publisher.publish("log.a", b"before", headers=headers_of("m1"))
            server.kill()
            await lost.wait()
            async with asyncio.TaskGroup() as group:
                for number in range(2, 20):
                    group.create_task(
                        publisher.publish("log.a", b"during", headers=headers_of(f"m{number}"))
                    )
                await asyncio.to_thread(server.start)
            messages = await fetch_stored(bus, "LOG", "log.a")

            assert len(messages) == 19

    asyncio.run(run())
