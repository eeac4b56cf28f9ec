"""The simulated Palabra over real sockets: its session storage, and who may open a stream."""

import json
import struct
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
import pytest
import websockets
from websockets.asyncio.client import connect

from tests.support.frame_numbers import build_frames
from tests.support.simulator_server import Address, run_with_simulator

ROOT: Final = Path(__file__).parents[2]
STREAM: Final = "/asr/v1/speech-to-text/stream"
MINT: Final = "/session-storage/session"
SESSIONS: Final = "/session-storage/sessions"
ME: Final = {"ClientId": "me", "ClientSecret": "secret"}


async def ask(
    address: Address,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] = ME,
    **options: Any,  # noqa: ANN401
) -> httpx.Response:
    """Ask the session storage."""
    async with httpx.AsyncClient(base_url=address.http, verify=False) as client:
        return await client.request(method, path, headers=headers, **options)


async def mint(address: Address, **data: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make a session."""
    answer = await ask(address, "POST", MINT, json={"data": data})
    assert answer.status_code == 201
    session: dict[str, Any] = answer.json()["data"]
    return session


async def upgrade(address: Address, token: str, *, headers: Mapping[str, str] | None = None) -> int:
    """Status of an upgrade; a stream that opens is closed again."""
    url = f"{address.ws}{STREAM}?format=pcm_s16le&token={token}"
    try:
        async with connect(url, compression=None, additional_headers=headers):
            return 101
    except websockets.InvalidStatus as refused:
        return refused.response.status_code


def test_a_session_is_minted_seen_prolonged_and_deleted() -> None:
    """With ids as the vendor's, and its error bodies."""

    async def client(address: Address) -> None:
        first, second = await mint(address), await mint(address, subscriber_count=2)
        assert UUID(first["id"]).version == 4
        assert len(first["publisher"].split(".")) == 3
        assert len(second["subscriber"]) == 2
        page = (await ask(address, "GET", SESSIONS, params={"page_size": "1"})).json()
        assert [entry["id"] for entry in page["data"]] == [first["id"]]
        rest = {"page_token": page["next_page_token"]}
        page = (await ask(address, "GET", SESSIONS, params=rest)).json()
        assert [entry["id"] for entry in page["data"]] == [second["id"]]
        place = f"{SESSIONS}/{first['id']}"
        seen = await ask(address, "GET", place)
        assert seen.json()["data"] == {
            "id": first["id"],
            "created_at": "1970-01-01T00:16:40Z",
            "updated_at": "1970-01-01T00:16:40Z",
            "expires_at": "1970-01-01T01:16:40Z",
        }
        prolonged = await ask(address, "POST", place, params={"ttl_seconds": "10"})
        assert (prolonged.status_code, prolonged.content) == (204, b"")
        assert (await ask(address, "GET", place)).json()["data"]["expires_at"].endswith("00:16:50Z")
        for ttl in ("", "0", "x", "-1", "1000000"):
            wrong = await ask(address, "POST", place, params={"ttl_seconds": ttl})
            assert wrong.status_code == 400
        assert (await ask(address, "DELETE", place)).status_code == 204
        for method in ("GET", "DELETE", "PATCH"):
            lost = await ask(address, method, place)
            assert lost.status_code == 404
            assert lost.json()["errors"][0]["instance"] == place

    run_with_simulator("palabra", "", client)


def test_a_token_opens_streams_until_its_session_is_over() -> None:
    """By its end, or deleted; a subscriber's never does."""

    async def client(address: Address) -> None:
        deleted, expired = await mint(address, subscriber_count=1), await mint(address)
        assert [await upgrade(address, deleted["publisher"]) for _ in range(2)] == [101, 101]
        assert await upgrade(address, deleted["subscriber"][0]) == 401
        assert (await ask(address, "DELETE", f"{SESSIONS}/{deleted['id']}")).status_code == 204
        assert await upgrade(address, deleted["publisher"]) == 401
        address.now_s += 99
        assert await upgrade(address, expired["publisher"]) == 101
        address.now_s += 60
        assert await upgrade(address, expired["publisher"]) == 401

    run_with_simulator("palabra", "session_ttl_s = 100", client)


def test_case_11_one_stream_for_each_session_and_each_key() -> None:
    """The second is refused with 409 until the first has ended."""

    async def client(address: Address) -> None:
        token = (await mint(address))["publisher"]
        url = f"{address.ws}{STREAM}?format=pcm_s16le&token="
        for identity in (token, "key"):
            async with connect(url + identity):
                assert await upgrade(address, identity) == 409
                assert await upgrade(address, "another") == 101
            assert await upgrade(address, identity) == 101

    run_with_simulator("palabra", "", client)


def test_case_11_a_broken_session_keeps_its_place_from_all_tokens_of_an_account() -> None:
    """The example script, with a client that mints a session for each connection."""
    account = {"ClientId": "the-id", "ClientSecret": "the-secret"}

    async def new_token(address: Address) -> str:
        answer = await ask(address, "POST", MINT, json={"data": {}}, headers=account)
        token: str = answer.json()["data"]["publisher"]
        return token

    async def client(address: Address) -> None:
        token = await new_token(address)
        async with connect(f"{address.ws}{STREAM}?format=pcm_s16le&token={token}") as socket:
            await socket.send(build_frames(1, 20))
            with pytest.raises(websockets.ConnectionClosedError):
                await socket.recv()
        assert await upgrade(address, await new_token(address)) == 409
        assert await upgrade(address, "the-key") == 409

    script = ROOT / "examples" / "simulators" / "palabra_one_session.toml"
    run_with_simulator("palabra", script.read_text(), client)


def test_the_limit_is_the_scripts_to_set() -> None:
    """Two for a key, three for all."""

    async def client(address: Address) -> None:
        url = f"{address.ws}{STREAM}?format=pcm_s16le&token="
        async with connect(url + "a"), connect(url + "a"):
            assert await upgrade(address, "a") == 409
            async with connect(url + "b"):
                assert await upgrade(address, "c") == 409
            assert await upgrade(address, "c") == 101

    run_with_simulator("palabra", "sessions_per_identity_max = 2\nsessions_max = 3", client)


def test_keys_and_credentials_are_checked() -> None:
    """In the query and as Bearer; headers of the storage in any case."""

    async def client(address: Address) -> None:
        for headers, status in (
            ({"clientid": "me", "CLIENTSECRET": "secret"}, 201),
            ({"ClientId": "me", "ClientSecret": "wrong"}, 401),
            ({"ClientId": "", "ClientSecret": "secret"}, 401),
            ({}, 401),
        ):
            answer = await ask(address, "POST", MINT, json={"data": {}}, headers=headers)
            assert answer.status_code == status
        assert await upgrade(address, "right") == 101
        assert await upgrade(address, "wrong") == 401
        for value, status in (("Bearer right", 101), ("Basic right", 401)):
            assert await upgrade(address, "", headers={"Authorization": value}) == status

    script = 'keys = ["right"]\nclient_id = "me"\nclient_secret = "secret"'
    run_with_simulator("palabra", script, client)


def test_sessions_of_others_are_not_seen() -> None:
    """As at any storage with more than one account."""

    async def client(address: Address) -> None:
        session = await mint(address)
        other = {"ClientId": "other", "ClientSecret": "x"}
        place = f"{SESSIONS}/{session['id']}"
        assert (await ask(address, "GET", SESSIONS, headers=other)).json()["data"] == []
        assert (await ask(address, "GET", place, headers=other)).status_code == 404
        assert (await ask(address, "DELETE", place, headers=other)).status_code == 404
        assert (await ask(address, "GET", place)).status_code == 200

    run_with_simulator("palabra", "", client)


def test_minting_and_upgrades_are_refused_as_scripted() -> None:
    """Each counted by itself."""

    async def client(address: Address) -> None:
        refused = await ask(address, "POST", MINT, json={"data": {}})
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        session = await mint(address)
        assert await upgrade(address, session["publisher"]) == 401
        assert await upgrade(address, session["publisher"]) == 101
        assert await upgrade(address, session["publisher"]) == 503
        assert await upgrade(address, session["publisher"]) == 529

    script = """
    faults = [
      {kind = "refuse_minting", session = 1, status = 429, retry_after_s = 1},
      {kind = "refuse_token", session = 1},
      {kind = "refuse", session = 3},
      {kind = "refuse", session = 4, status = 529},
    ]
    """
    run_with_simulator("palabra", script, client)


@pytest.mark.parametrize("parameters", ["format=mp3", "format=x", "format=alaw", ""])
def test_a_wrong_format_is_refused(parameters: str) -> None:
    """Containers, what nobody knows, a rate that is missing; its place is free again."""

    async def client(address: Address) -> None:
        url = f"{address.ws}{STREAM}?token=key&{parameters}"
        for _ in range(2):
            with pytest.raises(websockets.InvalidStatus) as caught:
                await connect(url)
            assert caught.value.response.status_code == 400

    run_with_simulator("palabra", "", client)


def test_big_endian_floats_go_through_the_wire() -> None:
    """With every query parameter of a real client."""

    async def client(address: Address) -> None:
        pcm = array("h", build_frames(1, 50, sample_rate_hz=48_000))
        audio = struct.pack(f">{len(pcm)}f", *(sample / 32_768 for sample in pcm))
        query = "token=key&format=pcm_f32be&sample_rate=48000&language=en&translate_languages=es,de"
        async with connect(f"{address.ws}{STREAM}?{query}&enable_filler_filter=true&x=y") as socket:
            for at in range(0, len(audio), 99_999):
                await socket.send(audio[at : at + 99_999])
            await socket.send('{"message_type":"finalize"}')
            texts: list[str] = []
            while len(texts) < 5:
                texts.append(json.loads(await socket.recv())["segment"]["text"])
        assert texts == ["1-25", "1-50", "1-50<fin>", "[es] 1-50", "[de] 1-50"]

    run_with_simulator("palabra", "is_real_time = false", client)
