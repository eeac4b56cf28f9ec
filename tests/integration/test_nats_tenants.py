"""A tenant that reads the bus itself sees its own streams, by whatever way, and nobody else's."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import nats
import nats.errors
import pytest

from speechbus_cli.bootstrap import BootstrapSettings, ensure_objects
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.bus_login import BusLogin, BusRefusedError
from speechbus_runtime.secret import Secret
from tests.support.bus_log import wait_until
from tests.support.nats_server import NatsServer
from tests.support.secured_nats import (
    build_secured_nats,
    connect_as,
    password_of,
    write_tenants,
)

pytestmark = pytest.mark.nats

TENANTS: Final = ("acme", "globex")
LAST: Final = "$JS.API.DIRECT.GET.TRANSCRIPT"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with build_secured_nats(tmp_path_factory.mktemp("nats"), tenants=TENANTS) as running:
        login = BusLogin(user="bootstrap", password=Secret(password_of("bootstrap")))
        settings = BootstrapSettings(readers=TENANTS)
        asyncio.run(ensure_objects(running.url, settings, login=login))
        asyncio.run(speak(running, "before"))
        yield running


@asynccontextmanager
async def connected(server: NatsServer, user: str) -> AsyncGenerator[BusConnection]:
    bus = await connect_as(server, user)
    try:
        yield bus
    finally:
        await bus.shut_down()


async def speak(server: NatsServer, stream_id: str) -> None:
    """Both tenants have a final, a partial and a caption; the payload is the tenant's name."""
    async with (
        connected(server, "transcriber") as worker,
        connected(server, "correlator") as joiner,
    ):
        for tenant in TENANTS:
            name = tenant.encode()
            worker.publish_nowait(f"speech.v1.write.{tenant}.{stream_id}.final".encode(), name)
            worker.publish_nowait(f"speech.v1.live.{tenant}.{stream_id}.partial".encode(), name)
            joiner.publish_nowait(f"speech.v1.caption.{tenant}.{stream_id}".encode(), name)
        await worker.flush()
        await joiner.flush()


def test_a_tenant_hears_its_own_streams_only(server: NatsServer) -> None:
    """Even when it asks for everything."""

    async def listen() -> list[tuple[bytes, bytes]]:
        heard: list[tuple[bytes, bytes]] = []
        async with connected(server, "reader-acme") as reader:
            reader.subscribe_direct(
                ">", lambda subject, _r, body, _h: heard.append((subject, body))
            )
            await reader.flush()
            await speak(server, "s1")
            await wait_until(
                lambda: sum(subject.startswith(b"speech.") for subject, _ in heard) == 3
            )
        return [(subject, body) for subject, body in heard if subject.startswith(b"speech.")]

    assert sorted(asyncio.run(listen())) == [
        (b"speech.v1.caption.acme.s1", b"acme"),
        (b"speech.v1.live.acme.s1.partial", b"acme"),
        (b"speech.v1.transcript.acme.s1.final", b"acme"),
    ]


def test_a_tenant_reads_the_last_event_of_its_own_subjects_only(server: NatsServer) -> None:
    """A direct get names its subject, and a body cannot change it."""
    own, other = (f"speech.v1.write.{tenant}.before.final" for tenant in TENANTS)

    async def ask() -> list[bytes | str]:
        async with connected(server, "reader-acme") as reader:
            return [
                await answer(reader, f"{LAST}.{own}"),
                await answer(reader, f"{LAST}.{other}"),
                await answer(reader, f"{LAST}.{own}", {"last_by_subj": other}),
                await answer(reader, LAST, {"last_by_subj": other}),
                await answer(reader, LAST, {"seq": 2}),
            ]

    assert asyncio.run(ask()) == [b"acme", "NoRespondersError", b"", *["NoRespondersError"] * 2]


async def answer(reader: BusConnection, subject: str, body: object = None) -> bytes | str:
    """Return an answer, or the name of the error that came in its place."""
    try:
        payload = b"" if body is None else msgspec.json.encode(body)
        return (await reader.request(subject, payload, timeout=5)).data
    except nats.errors.Error as error:
        return type(error).__name__


def test_a_tenant_reads_all_of_its_own_by_the_consumer_made_for_it(server: NatsServer) -> None:
    """Any NATS client does: this is nats-py's own way, as docs/nats.md shows it."""

    async def read() -> list[tuple[str, bytes]]:
        client = await nats.connect(  # pyright: ignore[reportUnknownMemberType]
            server.url, user="reader-acme", password=password_of("reader-acme")
        )
        async with client:
            found: list[tuple[str, bytes]] = []
            for store in ("TRANSCRIPT", "CAPTION"):
                jetstream = client.jetstream()  # pyright: ignore[reportUnknownMemberType]
                events = await jetstream.pull_subscribe_bind("reader-acme", store)  # pyright: ignore[reportUnknownMemberType]
                for message in await events.fetch(1, timeout=5):
                    await message.ack_sync()
                    found.append((message.subject, message.data))
            return found

    assert asyncio.run(read()) == [
        ("speech.v1.write.acme.before.final", b"acme"),
        ("speech.v1.caption.acme.before", b"acme"),
    ]


def test_a_tenant_reaches_nothing_else(server: NatsServer) -> None:
    """What it sends stays in its own account, and so do the answers, wherever it aims them."""
    tries = (
        *(
            "$JS.API.CONSUMER.MSG.NEXT.TRANSCRIPT.reader-globex",
            "$JS.API.STREAM.MSG.GET.TRANSCRIPT",
        ),
        *(
            "$JS.API.CONSUMER.MSG.NEXT.TRANSCRIPT.correlator-segments",
            "$JS.API.STREAM.INFO.TRANSCRIPT",
        ),
        *(
            "$JS.API.CONSUMER.CREATE.TRANSCRIPT.x.speech.v1.write.acme.>",
            "$JS.API.STREAM.PURGE.JOBS",
        ),
        *("$JS.API.STREAM.DELETE.TRANSCRIPT", "$JS.API.CONSUMER.CREATE.TRANSCRIPT", "$JS.API.INFO"),
    )
    aimed = b"speech.v1.live.globex.s9.partial"

    async def reach() -> tuple[list[bytes | str], list[bytes], int]:
        seen: list[bytes] = []
        async with (
            connected(server, "reader-acme") as reader,
            connected(server, "operator") as other,
        ):
            other.subscribe_direct("speech.v1.transcript.>", lambda s, _r, _b, _h: seen.append(s))
            other.subscribe_direct("speech.v1.live.>", lambda s, _r, _b, _h: seen.append(s))
            await other.flush()
            answers = [await answer(reader, subject) for subject in tries]
            for subject in ("speech.v1.write.acme.s9.final", "speech.v1.live.acme.s9.partial"):
                reader.publish_nowait(subject.encode(), b"forged")
            own = b"$JS.API.DIRECT.GET.TRANSCRIPT.speech.v1.write.acme.before.final"
            reader.publish_nowait(own, b"", reply=aimed)
            await reader.flush()
            await speak(server, "s10")  # whatever was on its way has come before this
            await wait_until(lambda: len(seen) == 4)
            stored = await other.request(
                "$JS.API.STREAM.INFO.TRANSCRIPT",
                msgspec.json.encode({"subjects_filter": "speech.v1.write.acme.s9.>"}),
                timeout=5,
            )
        return answers, seen, len(msgspec.json.decode(stored.data)["state"].get("subjects") or ())

    answers, seen, n_forged = asyncio.run(reach())

    # JetStream is not there for a tenant's account (10039), beside what is imported.
    reached = [one for one in map(str, answers) if "NoResponders" not in one and "10039" not in one]
    assert reached == []
    assert ({subject.split(b".")[4] for subject in seen}, n_forged) == ({b"s10"}, 0)


def test_tenants_come_and_go_by_reload(tmp_path: Path) -> None:
    """Others notice nothing, and who has gone is cut off at once."""
    with build_secured_nats(tmp_path) as server:
        tenants = tmp_path / "conf" / "tenants.conf"

        async def come_and_go() -> tuple[int, bool]:
            async with connected(server, "ingest") as service:
                with pytest.raises(BusRefusedError):
                    await connect_as(server, "reader-acme")
                write_tenants(tenants, ("acme",))
                await asyncio.to_thread(server.reload)
                reader = await connect_as(server, "reader-acme")
                refused: list[str] = []
                reader.on_refused(refused.append)
                write_tenants(tenants, ())
                await asyncio.to_thread(server.reload)
                await wait_until(lambda: bool(refused))
                is_out = not reader.is_connected
                await reader.shut_down()
                await service.flush()
                return service.stats["reconnects"], is_out

        assert asyncio.run(come_and_go()) == (0, True)
