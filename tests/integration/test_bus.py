"""The lean path of the bus connection, on a real nats-server."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import nats.errors
import pytest
import uvloop

from speechbus_runtime.bus import BusConnection, DirectHandler, connect_bus, encode_headers
from tests.support.bus_log import wait_until
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats

PATIENCE_S: Final = 30.0
"""Only a hang reaches it."""

Message = tuple[bytes, bytes, bytes, bytes]
"""Subject, reply, payload, headers."""


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


class Mailbox:
    """Collects what a direct subscription gets."""

    def __init__(self, bus: BusConnection, subject: str) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self.sid = bus.subscribe_direct(subject, self._take)

    async def next(self) -> Message:
        """Wait for the next message."""
        return await self._messages.get()

    def is_empty(self) -> bool:
        """Whether nothing has come that was not asked for."""
        return self._messages.empty()

    def _take(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self._messages.put_nowait((subject, reply, payload, headers))


def test_what_is_published_arrives_as_it_was(server: NatsServer) -> None:
    """Subject, reply, headers and every byte, in order, by both ways of publishing."""
    block = encode_headers({"Nats-Msg-Id": "s1-0:0", "x": "ä"})
    pcm = bytes(range(256)) * 250

    async def run() -> None:
        async with bus_of(server) as bus, bus_of(server) as other:
            mailbox = Mailbox(bus, "a.*")
            await bus.flush()
            assert other.publish_nowait(b"a.1", b"plain")
            assert other.publish_nowait(b"a.2", b"", reply=b"back")
            assert other.publish_nowait(b"a.3", b"x", reply=b"back", headers=block)
            assert other.publish_nowait(b"a.4", b"", headers=block)
            assert other.publish_nowait(b"b.5", b"not asked for")
            assert other.publish_parts_nowait(b"a.6", b"head\r\n", pcm, reply=b"ack")
            assert [await mailbox.next() for _ in range(5)] == [
                (b"a.1", b"", b"plain", b""),
                (b"a.2", b"back", b"", b""),
                (b"a.3", b"back", b"x", block),
                (b"a.4", b"", b"", block),
                (b"a.6", b"ack", b"head\r\n" + pcm, b""),
            ]
            assert mailbox.is_empty()

    asyncio.run(run())


def test_direct_and_ordinary_subscriptions_live_side_by_side(server: NatsServer) -> None:
    """Requests, JetStream and FastStream use nats-py's own way on the same connection."""

    async def run() -> None:
        async with bus_of(server) as bus:
            mailbox = Mailbox(bus, "question")
            ordinary = await bus.subscribe("question")  # pyright: ignore[reportUnknownMemberType]

            def answer(_s: bytes, reply: bytes, payload: bytes, _h: bytes) -> None:
                if reply:
                    bus.publish_nowait(reply, payload.upper())

            bus.subscribe_direct("question", answer)
            response = await bus.request("question", b"yes?", timeout=PATIENCE_S)
            assert response.data == b"YES?"
            assert (await mailbox.next())[2] == b"yes?"
            message = await ordinary.next_msg(timeout=PATIENCE_S)
            assert (message.data, message.headers) == (b"yes?", None)
            await bus.publish("question", b"", headers={"a": "b"})
            message = await ordinary.next_msg(timeout=PATIENCE_S)
            assert message.headers == {"a": "b"}
            assert (await mailbox.next())[3] == encode_headers({"a": "b"})

    asyncio.run(run())


def test_of_a_queue_group_one_gets_each_message(server: NatsServer) -> None:
    """Any number of processes may share work."""

    async def run() -> None:
        async with bus_of(server) as bus, bus_of(server) as other:
            got: list[list[bytes]] = [[], []]

            def put_into(box: list[bytes]) -> DirectHandler:
                return lambda _s, _r, payload, _h: box.append(payload)

            for each, box in zip((bus, other), got, strict=True):
                each.subscribe_direct("work", put_into(box), queue="workers")
                await each.flush()
            sent = [b"%d" % number for number in range(100)]
            for payload in sent:
                bus.publish_nowait(b"work", payload)
            await bus.flush()
            await other.flush()

            assert sorted([*got[0], *got[1]]) == sorted(sent)
            assert all(got)

    asyncio.run(run())


def test_a_flush_waits_for_what_was_asked_for_before(server: NatsServer) -> None:
    """Whoever subscribes, flushes and then asks must get the answer."""

    async def run() -> None:
        async with bus_of(server) as bus, bus_of(server) as other:
            for round_number in range(200):
                subject = f"a.{round_number}"
                mailbox = Mailbox(bus, subject)
                await bus.flush()
                other.publish_nowait(subject.encode(), b"1")
                await other.flush()
                await bus.flush()
                assert not mailbox.is_empty(), round_number

    asyncio.run(run())


def test_an_ended_subscription_gets_nothing_more(server: NatsServer) -> None:
    """A stream that is released must not be called again."""

    async def run() -> None:
        async with bus_of(server) as bus:
            ended, kept = Mailbox(bus, "a"), Mailbox(bus, "a")
            bus.unsubscribe_direct(ended.sid)
            bus.unsubscribe_direct(ended.sid)
            bus.publish_nowait(b"a", b"1")
            assert (await kept.next())[2] == b"1"
            assert ended.is_empty()

    asyncio.run(run())


def test_an_exception_in_a_handler_ends_nothing(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One stream's bug is logged, and everybody goes on, this stream included."""

    async def run() -> None:
        async with bus_of(server) as bus:
            n_calls = 0

            def fail(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
                nonlocal n_calls
                del subject, reply, payload, headers
                n_calls += 1
                raise RuntimeError

            bus.subscribe_direct("a", fail)
            mailbox = Mailbox(bus, "a")
            for _ in range(2):
                bus.publish_nowait(b"a", b"secret")
                await mailbox.next()
            assert n_calls == 2
            assert bus.is_connected

    asyncio.run(run())
    assert [record.message for record in caplog.records] == ["message handler failed"] * 2
    assert "secret" not in caplog.text


def test_subscriptions_survive_a_restart_of_nats(server: NatsServer) -> None:
    """Also those that were made or ended while it was away; hooks tell when it left and came."""

    async def run() -> None:
        async with bus_of(server) as bus:
            lost, back = asyncio.Event(), asyncio.Event()

            async def note_return() -> None:
                back.set()

            bus.on_disconnected(lost.set)
            bus.on_reconnected(note_return)
            before, ended = Mailbox(bus, "a"), Mailbox(bus, "a")
            server.kill()
            await lost.wait()
            assert not bus.publish_nowait(b"a", b"into the void")
            assert not bus.publish_parts_nowait(b"a", b"into", b"the void", reply=b"r")
            meanwhile = Mailbox(bus, "a")
            bus.unsubscribe_direct(ended.sid)
            await asyncio.to_thread(server.start)
            await back.wait()
            assert bus.publish_nowait(b"a", b"again")
            assert await before.next() == (b"a", b"", b"again", b"")
            assert await meanwhile.next() == (b"a", b"", b"again", b"")
            await bus.flush()
            assert before.is_empty()
            assert meanwhile.is_empty()
            assert ended.is_empty()

    asyncio.run(run())


def test_a_shutdown_without_nats_is_no_error(server: NatsServer) -> None:
    """Pods of one deployment end in any order, and each is asked for its exit code."""

    async def run() -> None:
        bus = await connect_bus(server.url, name="test")
        lost = asyncio.Event()
        bus.on_disconnected(lost.set)
        server.kill()
        await lost.wait()
        await bus.publish("a", b"what nats-py keeps for a reconnect")
        await bus.shut_down()
        assert bus.is_closed

    # The services' own loop: it raises where asyncio's only complains.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_a_request_on_a_connection_that_was_just_cut_is_no_bug(server: NatsServer) -> None:
    """nats-py's flusher may have ended with it, and then nats-py writes to what is closed."""

    async def main() -> None:
        async with bus_of(server) as bus:
            inside: Any = bus
            inside._flusher_task.cancel()
            await asyncio.sleep(0)
            inside._transport._io_writer.transport.abort()
            with pytest.raises((nats.errors.Error, TimeoutError)):
                await bus.request("nobody.is.there", timeout=0.2)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_waiting_names_the_server_and_no_password(caplog: pytest.LogCaptureFixture) -> None:
    """Who started a service before NATS, or with a wrong address, reads this one line."""

    async def wait_for_nobody() -> None:
        async with asyncio.TaskGroup() as group:
            url = "nats://me:s3cr3t@127.0.0.1:9"
            opening = group.create_task(BusConnection().open(url, name="early"))
            await wait_until(lambda: bool(caplog.records))
            opening.cancel()

    asyncio.run(wait_for_nobody())

    (record,) = caplog.records
    assert record.message == "waiting for NATS: start it, or correct NATS_URL"
    assert vars(record)["servers"] == ["127.0.0.1:9"]
    assert "s3cr3t" not in str(vars(record))


def test_a_connection_waits_for_its_first_server(tmp_path: Path) -> None:
    """Services of one deployment start in any order."""

    async def run() -> None:
        server = NatsServer(tmp_path)
        server.start()
        server.kill()
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            connecting = group.create_task(connect_bus(server.url, name="test"))
            await asyncio.to_thread(server.start)
            bus = await connecting
            mailbox = Mailbox(bus, "a")
            bus.publish_nowait(b"a", b"here")
            assert (await mailbox.next())[2] == b"here"
            await bus.shut_down()
        server.stop()

    asyncio.run(run())


def test_shutting_down_sends_what_is_pending(server: NatsServer) -> None:
    """The last words of a service are not lost."""

    async def run() -> None:
        async with bus_of(server) as other:
            mailbox = Mailbox(other, "a")
            await other.flush()
            async with bus_of(server) as bus:
                bus.publish_nowait(b"a", b"goodbye")
            assert (await mailbox.next())[2] == b"goodbye"

    asyncio.run(run())
