"""Palabra's session storage, and what becomes of streams when their sessions go."""

import asyncio
import base64
import json
import re
import time
from collections.abc import Iterator
from typing import Any, Final

import nats
import pytest

from speechbus_contracts import SESSION_STORE, StreamClosed, decode_event
from speechbus_ingest.doors.palabra_store import (
    DELETED_TTL_S,
    EXPIRED_TTL_S,
    SESSION_TTL_S,
    SESSIONS_PER_TENANT_MAX,
)
from speechbus_runtime.bus import connect_bus
from speechbus_runtime.jetstream import request_api
from speechbus_wire.palabra_sessions import SessionClaims, sign_token
from tests.support.frame_numbers import build_frames
from tests.support.palabra import KEYS, PATIENCE_S, Door, another_door, events_of
from tests.support.system import System

pytestmark = pytest.mark.nats

TOKEN_SECRET: Final = "thirty-two characters at the least"
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
UNKNOWN: Final = "01a1f813-a740-7bf3-a1c9-d27e40816cfe"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {
        "API_KEYS": f"{KEYS},full:key-of-full",
        "TOKEN_SECRET": TOKEN_SECRET,
        "LOG_LEVEL": "DEBUG",
    }
    with System(
        tmp_path_factory.mktemp("sessions"), ingests=2, ingest_settings=settings
    ) as running:
        yield running


@pytest.fixture
def door(system: System) -> Door:
    return Door(system.ingests[0])


@pytest.fixture
def other_door(system: System) -> Door:
    return Door(system.ingests[1])


# --- over HTTP -----------------------------------------------------------------------------------


def test_a_session_can_be_read_prolonged_and_deleted(door: Door) -> None:
    """Clients of the vendor's session storage find every call where it was, and its answer."""
    session_id, _ = door.get_session()
    read = door.manage("GET", session_id)
    prolonged = door.manage("POST", session_id, ttl_seconds="86400")
    later = door.manage("GET", session_id).json()["data"]
    deleted = door.manage("DELETE", session_id)

    before = read.json()["data"]
    assert (read.status_code, read.json()["ok"], before["id"]) == (200, True, session_id)
    assert before.keys() == {"id", "created_at", "updated_at", "expires_at"}
    assert all(TIME.match(before[name]) for name in ("created_at", "updated_at", "expires_at"))
    assert before["created_at"] == before["updated_at"] < before["expires_at"]
    assert (prolonged.status_code, prolonged.content) == (204, b"")
    assert (later["created_at"], later["expires_at"] > before["expires_at"]) == (
        before["created_at"],
        True,
    )
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert [door.manage(method, session_id).status_code for method in ("GET", "DELETE")] == [
        404
    ] * 2


def test_sessions_are_listed_in_pages_the_oldest_first(door: Door, other_door: Door) -> None:
    """Whoever cleans up walks all pages; made here, listed there."""
    made = [door.get_session(tenant="beta")[0] for _ in range(3)]

    first = other_door.manage("GET", tenant="beta", page_size="2").json()
    second = other_door.manage(
        "GET", tenant="beta", page_size="2", page_token=first["next_page_token"]
    ).json()

    assert [[item["id"] for item in page["data"]] for page in (first, second)] == [
        made[:2],
        made[2:],
    ]
    assert (first["ok"], second["next_page_token"]) == (True, "")


def test_sessions_of_another_tenant_do_not_exist(door: Door) -> None:
    """Not even that somebody has one of this id is told."""
    session_id, token = door.get_session()
    answers = [
        door.manage("GET", session_id, tenant="beta"),
        door.manage("POST", session_id, tenant="beta", ttl_seconds="1"),
        door.manage("DELETE", session_id, tenant="beta"),
    ]
    unknown = door.manage("GET", UNKNOWN, tenant="beta")
    listed = door.manage("GET", tenant="beta", page_size="1000").json()["data"]

    assert [answer.status_code for answer in answers] == [404] * 3
    assert [answer.text.replace(session_id, UNKNOWN) for answer in answers] == [unknown.text] * 3
    assert session_id not in [item["id"] for item in listed]
    assert door.manage("GET", session_id).status_code == 200
    assert token not in "".join(answer.text for answer in answers)


@pytest.mark.parametrize(
    ("method", "session_id", "query", "status"),
    [
        ("POST", "mine", {}, 400),
        ("POST", "mine", {"ttl_seconds": "0"}, 400),
        ("POST", "mine", {"ttl_seconds": "2592001"}, 400),
        ("POST", "mine", {"ttl_seconds": "1.5"}, 400),
        ("GET", None, {"page_size": "0"}, 400),
        ("GET", None, {"page_size": "1001"}, 400),
        ("GET", None, {"page_token": "?"}, 400),
        ("GET", "a.b", {}, 404),
        ("DELETE", "*", {}, 404),
        ("GET", UNKNOWN, {}, 404),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    door: Door, method: str, session_id: str | None, query: dict[str, str], status: int
) -> None:
    """In the vendor's shape, and with what is allowed."""
    if session_id == "mine":
        session_id, _ = door.get_session()
    answer = door.manage(method, session_id, **query)

    (error,) = answer.json()["errors"]
    assert (answer.status_code, answer.json()["ok"], error["status"]) == (status, False, status)
    assert all(name in error["detail"] for name in query)


def test_each_call_wants_credentials_that_belong_together(door: Door) -> None:
    """A tenant's name is no secret."""
    session_id, _ = door.get_session()
    answers = [
        door.manage(method, where, key="key-of-beta", ttl_seconds="1")
        for method, where in [
            ("GET", None),
            ("GET", session_id),
            ("POST", session_id),
            ("DELETE", session_id),
        ]
    ]

    assert [answer.status_code for answer in answers] == [401] * 4
    assert door.manage("GET", session_id).status_code == 200


def test_the_store_forgets_sessions_by_itself_and_keeps_no_token(
    system: System, door: Door
) -> None:
    """Nobody sweeps it; and who reads the bus cannot come in by what is there."""
    session_id, token = door.get_session()

    async def read() -> tuple[int, bytes]:
        bus = await connect_bus(system.nats.url, name="test")
        answer = await request_api(
            bus,
            f"STREAM.MSG.GET.{SESSION_STORE}",
            {"last_by_subj": f"speech.v1.session.acme.{session_id}"},
        )
        await bus.shut_down()
        stored = answer["message"]
        headers = base64.b64decode(stored["hdrs"])
        ttl_s = re.search(rb"Nats-TTL: (\d+)s", headers)
        assert ttl_s is not None
        return int(ttl_s[1]), headers + base64.b64decode(stored["data"])

    living = asyncio.run(read())
    door.manage("DELETE", session_id)
    deleted = asyncio.run(read())

    assert SESSION_TTL_S <= living[0] <= SESSION_TTL_S + EXPIRED_TTL_S
    assert deleted[0] == DELETED_TTL_S
    for part in token.split("."):
        assert part.encode() not in living[1] + deleted[1]


# --- what a token is worth ------------------------------------------------------------------------


def test_a_deleted_session_ends_its_stream_and_its_token(
    system: System, door: Door, other_door: Door
) -> None:
    """Whoever deletes it, at whatever ingest, wants nothing more sent by it; finals still come."""
    session_id, token = door.get_session()

    async def run() -> tuple[list[dict[str, Any]], int | None, StreamClosed]:
        async with events_of(system, "closed") as closed, door.connect(token) as client:
            await client.send(build_frames(1, 30))
            await client.hear_until("1-25")
            deleted = await asyncio.to_thread(other_door.manage, "DELETE", session_id)
            assert deleted.status_code == 204
            heard = await client.hear_until("1-30")
            code = await client.close_code()
            async with asyncio.timeout(PATIENCE_S):
                event = decode_event(await closed.get())
        assert (await door.refusal(token))[0] == 401
        assert (await other_door.refusal(token))[0] == 401
        assert isinstance(event, StreamClosed)
        return heard, code, event

    heard, code, event = asyncio.run(run())

    assert heard[-1]["is_eos"]
    assert code == 1008
    assert (event.reason, event.finals, event.gap_ms) == ("revoked", 1, 0)


def sign(tenant: str, session_id: str, *, secret: str = TOKEN_SECRET, ttl_s: int = 60) -> str:
    """A token such as the door makes."""
    claims = SessionClaims(
        tenant=tenant, session_id=session_id, expires_at_s=time.time_ns() // 10**9 + ttl_s
    )
    return sign_token(claims, secret.encode())


def test_a_token_that_is_worth_nothing_is_refused_and_repeated_nowhere(
    system: System, door: Door
) -> None:
    """Expired, tampered with, deleted, of another tenant or server: one answer, and no hint."""
    session_id, token = door.get_session()
    deleted_id, deleted = door.get_session()
    door.manage("DELETE", deleted_id)
    header, payload, signature = token.split(".")
    other_payload = sign("beta", session_id).split(".")[1]
    refused = {
        "expired": sign("acme", session_id, ttl_s=-1),
        "of another server": sign("acme", session_id, secret=TOKEN_SECRET[::-1]),
        "made out for another tenant": f"{header}.{other_payload}.{signature}",
        "without its signature": f"{header}.{payload}.",
        "changed": f"{header}.{payload}.{signature[:-2]}{signature[-2:].swapcase()}x",
        "deleted": deleted,
        "of a session of another tenant": sign("beta", session_id),
        "of a session that never was": sign("acme", UNKNOWN),
        "of a session that cannot be": sign("acme", "a.b"),
        "key of nobody": "key-of-nobody",
    }

    async def run() -> dict[str, tuple[int, str]]:
        return {why: await door.refusal(token) for why, token in refused.items()}

    answers = asyncio.run(run())
    logs = "".join(service.log_path.read_text() for service in system.services)

    assert {why: status for why, (status, _) in answers.items()} == dict.fromkeys(refused, 401)
    assert len({detail for _, detail in answers.values()}) == 1
    for secret in (token, *refused.values()):
        assert secret not in logs
        assert all(secret not in detail for _, detail in answers.values())


def test_a_tenant_whose_last_key_is_taken_away_has_no_sessions(system: System, door: Door) -> None:
    """Its tokens were given for a key; they are worth no more than that."""
    _, token = door.get_session(tenant="beta")

    async def run(place: Door) -> int:
        async with door.connect(token):
            pass
        return (await place.refusal(token))[0]

    with another_door(system, API_KEYS="acme:key-of-acme") as place:
        assert asyncio.run(run(place)) == 401


def test_an_expired_session_ends_its_stream_and_its_token(door: Door) -> None:
    """`ttl_seconds` counts from now, whether or not a client is connected."""
    session_id, token = door.get_session()

    async def run() -> int | None:
        async with door.connect(token) as client:
            prolonged = await asyncio.to_thread(door.manage, "POST", session_id, ttl_seconds="1")
            assert prolonged.status_code == 204
            code = await client.close_code()
        assert (await door.refusal(token))[0] == 401
        return code

    assert asyncio.run(run()) == 1008
    assert door.manage("GET", session_id).status_code == 404


def test_a_session_lives_on_while_its_client_is_connected(door: Door) -> None:
    """It was made to expire in ten seconds; connecting prolongs it."""
    session_id, token = door.get_session()
    door.manage("POST", session_id, ttl_seconds="10")
    before = door.manage("GET", session_id).json()["data"]["expires_at"]

    async def run() -> str:
        async with door.connect(token):
            answer = await asyncio.to_thread(door.manage, "GET", session_id)
            return str(answer.json()["data"]["expires_at"])

    assert asyncio.run(run()) > before


def test_sessions_outlive_the_ingest_that_made_them(system: System, door: Door) -> None:
    """A deployment restarts ingest; its clients keep their tokens."""
    with another_door(system) as passing:
        session_id, token = passing.get_session()
        gone_id, gone = passing.get_session()
        passing.manage("DELETE", gone_id)
        passing.ingest.kill()
        passing.ingest.start()

        async def run() -> None:
            for place in (passing, door):
                async with place.connect(token) as client:
                    await client.send(build_frames(1, 25))
                    await client.hear_until("1-25")
                assert (await place.refusal(gone))[0] == 401

        asyncio.run(run())

        assert passing.manage("GET", session_id).status_code == 200


def test_a_client_and_its_session_outlive_a_restart_of_nats(system: System, door: Door) -> None:
    """Sessions are on disk; a stream's client notices nothing but a pause."""
    session_id, token = door.get_session()

    async def run() -> None:
        async with door.connect(token) as client:
            await client.send(build_frames(1, 25))
            await client.hear_until("1-25")
            system.nats.kill()
            await client.send(build_frames(26, 25))
            system.nats.start()  # not in a thread, with which it would end
            await client.send(build_frames(51, 25))
            await client.say({"message_type": "finalize"})
            await client.hear_until("1-75<fin>")

    asyncio.run(run())

    assert door.manage("GET", session_id).status_code == 200


def test_a_session_has_one_client_among_all_ingests(door: Door, other_door: Door) -> None:
    """The load balancer sends the second one elsewhere; it is refused there as here."""
    _, token = door.get_session()

    async def run() -> list[int]:
        async with door.connect(token):
            refused = (await other_door.refusal(token))[0]
        async with other_door.connect(token):
            return [refused, (await door.refusal(token))[0]]

    assert asyncio.run(run()) == [409, 409]


def test_a_client_whose_socket_broke_is_not_refused_by_its_own_ghost(
    system: System, door: Door, other_door: Door
) -> None:
    """It comes back in the same moment, here or elsewhere; once its ingest was killed, too."""
    _, token = door.get_session()

    async def run(passing: Door) -> None:
        for place in (door, door, other_door, passing):
            async with place.connect(token) as client:
                await client.send(build_frames(1, 25))
                await client.hear_until("1-25")
                if place is passing:
                    passing.ingest.kill()
                else:
                    client.connection.transport.abort()
        async with door.connect(token) as client:
            await client.send(build_frames(1, 25))
            await client.hear_until("1-25")

    with another_door(system) as passing:
        asyncio.run(run(passing))


def test_a_client_that_gives_up_while_it_waits_for_a_session_costs_nothing(door: Door) -> None:
    """It was refused anyway; nothing of it is left, and no log calls it a failure."""
    _, token = door.get_session()
    request = (
        f"GET /asr/v1/speech-to-text/stream?format=pcm_s16le&token={token} HTTP/1.1\r\n"
        "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )

    async def come_and_go() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", door.ingest.port)
        writer.write(request.encode())
        await writer.drain()
        writer.transport.abort()

    async def run() -> None:
        async with door.connect(token):
            await come_and_go()
            assert (await door.refusal(token))[0] == 409  # a second later
            await come_and_go()
        async with door.connect(token):  # while the session is being given to who has gone
            pass

    asyncio.run(run())
    lines = door.ingest.log_path.read_text().splitlines()

    assert [line for line in lines if json.loads(line)["level"] == "ERROR"] == []


def test_a_tenant_has_so_many_sessions_and_no_more(system: System, door: Door) -> None:
    """One tenant's forgotten sessions must not fill the store for all."""

    async def fill() -> None:
        bus = await nats.connect(system.nats.url)  # pyright: ignore[reportUnknownMemberType]
        for number in range(SESSIONS_PER_TENANT_MAX):
            await bus.publish(f"speech.v1.session.full.{number}", b"{}")
        await bus.flush()
        await bus.close()

    asyncio.run(fill())
    answer = door.post_session(tenant="full", key="key-of-full")

    assert answer.status_code == 429
    assert door.post_session().status_code == 201


def test_without_the_store_clients_are_told_to_try_again(system: System, door: Door) -> None:
    """503 says so; a 401 would tell clients that their token is worth nothing."""
    session_id, token = door.get_session()

    async def drop() -> None:
        bus = await nats.connect(system.nats.url)  # pyright: ignore[reportUnknownMemberType]
        await bus.request(f"$JS.API.STREAM.DELETE.{SESSION_STORE}")
        await bus.close()

    asyncio.run(drop())
    statuses = [
        door.post_session().status_code,
        door.manage("GET").status_code,
        door.manage("GET", session_id).status_code,
        asyncio.run(door.refusal(token))[0],
    ]
    system.bootstrap()

    assert statuses == [503] * 4
    assert json.loads(door.post_session().content)["ok"]
