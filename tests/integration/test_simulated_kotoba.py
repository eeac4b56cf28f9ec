"""The simulated Kotoba over real sockets: who may come in, and what goes wrong there."""

import asyncio
import base64
import json
from contextlib import suppress
from typing import Any, Final

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from speechbus_wire import kotoba as wire
from tests.support.frame_numbers import build_frames
from tests.support.simulator_server import Address, run_with_simulator

PATH: Final = "/v1/realtime"
MINT: Final = "/v1/realtime/transcription_sessions"
UPDATE: Final = wire.encode_message(
    wire.SessionUpdate(
        wire.Session(
            input_audio_sample_rate=16_000,
            input_audio_transcription=wire.TranscriptionSettings(
                language="ja", target_language="ja"
            ),
            turn_detection=wire.ServerVad(),
        )
    )
)


def bearer(key: str) -> dict[str, str]:
    """The usual header."""
    return {"Authorization": f"Bearer {key}"}


def offer(secret: str) -> list[Subprotocol]:
    """What a browser sends instead."""
    return [Subprotocol("realtime"), Subprotocol(f"kotoba-insecure-api-key.{secret}")]


async def refusal(url: str, **options: Any) -> tuple[int, str | None]:  # noqa: ANN401
    """Status and code of an upgrade that fails."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with connect(url, compression=None, **options):
            pass
    response = caught.value.response
    body = json.loads(response.body or b"{}")
    return response.status_code, body.get("error", {}).get("code")


async def listen(socket: ClientConnection) -> list[dict[str, Any]]:
    """Everything until the server closes."""
    events: list[dict[str, Any]] = []
    try:
        async for message in socket:
            events.append(json.loads(message))
    except websockets.ConnectionClosedError:
        pass
    return events


async def mint(address: Address, key: str, path: str = MINT, **body: Any) -> httpx.Response:  # noqa: ANN401
    """Ask for a secret."""
    async with httpx.AsyncClient(verify=False) as client:
        return await client.post(address.http + path, json=body, headers=bearer(key))


def test_a_key_is_taken_in_every_form() -> None:
    """As Bearer, as fal's `Key`, and as user name of Basic; nothing else is."""
    basic = base64.b64encode(b"right:").decode()
    wrong = base64.b64encode(b"wrong:right").decode()

    async def client(address: Address) -> None:
        url = address.ws + PATH
        for value in ("Bearer right", "bearer right", "Key right", f"Basic {basic}"):
            async with connect(url, additional_headers={"Authorization": value}) as socket:
                assert json.loads(await socket.recv())["type"] == "transcription_session.created"
                assert socket.subprotocol is None
        for value in ("Bearer wrong", "right", "Bearer ", f"Basic {wrong}", "Basic *", ""):
            refused = await refusal(url, additional_headers={"Authorization": value})
            assert refused == (401, "invalid_api_key")
        assert await refusal(url) == (401, "invalid_api_key")

    run_with_simulator("kotoba", 'keys = ["right"]', client)


def test_a_browser_comes_with_a_secret_and_is_answered_with_realtime() -> None:
    """Its secret is never sent back, and is good once."""

    async def client(address: Address) -> None:
        url = address.ws + PATH
        minted = await mint(address, "right")
        assert minted.status_code == 200
        secret = minted.json()["client_secret"]["value"]
        assert minted.json()["client_secret"]["expires_at"] == 1_600
        async with connect(url, subprotocols=offer(secret)) as socket:
            assert socket.subprotocol == "realtime"
            assert json.loads(await socket.recv())["type"] == "transcription_session.created"
        assert await refusal(url, subprotocols=offer(secret)) == (401, "session_expired")
        assert await refusal(url, subprotocols=offer("ek_forged")) == (401, "invalid_api_key")

    run_with_simulator("kotoba", 'keys = ["right"]', client)


def test_a_secret_expires() -> None:
    """Also where it stands in a key's place, and although any key is taken."""

    async def client(address: Address) -> None:
        url = address.ws + PATH
        first = (await mint(address, "any")).json()["client_secret"]["value"]
        newer = await mint(
            address,
            "any",
            "/v1/realtime/client_secrets",
            expires_after={"anchor": "created_at", "seconds": 10},
        )
        second = newer.json()["value"]
        address.now_s += 10
        assert await refusal(url, subprotocols=offer(second)) == (401, "session_expired")
        async with connect(url, additional_headers=bearer(first)):
            pass
        assert await refusal(url, additional_headers=bearer(first)) == (401, "session_expired")

    run_with_simulator("kotoba", "", client)


def test_minting_is_refused_with_the_vendors_errors() -> None:
    """A wrong key, a wrong body, a wrong place, and as the script says."""

    async def client(address: Address) -> None:
        refused = await mint(address, "right")
        assert (refused.status_code, refused.headers["Retry-After"]) == (500, "3")
        assert refused.json()["error"]["code"] == "internal_error"
        wrong = await mint(address, "wrong")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
        bad = await mint(address, "right", input_audio_sample_rate="x")
        assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_parameters")
        lost = await mint(address, "right", "/v1/nothing")
        assert (lost.status_code, lost.json()["error"]["code"]) == (404, "invalid_url")
        assert (await mint(address, "right")).status_code == 200

    script = """
    keys = ["right"]
    faults = [{kind = "refuse_minting", session = 1, status = 500, retry_after_s = 3}]
    """
    run_with_simulator("kotoba", script, client)


def test_case_12_beyond_the_limit_servers_get_a_status_and_browsers_an_event() -> None:
    """A browser cannot read the status of a refused upgrade."""

    async def client(address: Address) -> None:
        url = address.ws + PATH
        secret = (await mint(address, "key")).json()["client_secret"]["value"]
        async with connect(url, additional_headers=bearer("key")):
            assert await refusal(url, additional_headers=bearer("other")) == (
                429,
                "rate_limit_error",
            )
            async with connect(url, subprotocols=offer(secret)) as socket:
                created, error = await listen(socket)
                assert created["type"] == "transcription_session.created"
                assert error["error"]["code"] == "rate_limit_error"
                assert socket.close_code == 1008
        async with connect(url, additional_headers=bearer("key")):
            pass

    run_with_simulator("kotoba", "sessions_max = 1", client)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ('kind = "refuse", status = 401', 401, "invalid_api_key"),
        ('kind = "refuse", status = 409', 409, "internal_error"),
        ('kind = "refuse", status = 429', 429, "rate_limit_error"),
        ('kind = "refuse", status = 503', 503, "internal_error"),
        ('kind = "refuse_token"', 401, "session_expired"),
    ],
)
def test_case_12_an_upgrade_is_refused_as_scripted(fault: str, status: int, code: str) -> None:
    """And the next one is not."""

    async def client(address: Address) -> None:
        options = {"additional_headers": bearer("key")}
        assert await refusal(address.ws + PATH, **options) == (status, code)
        async with connect(address.ws + PATH, additional_headers=bearer("key")):
            pass

    run_with_simulator("kotoba", f"faults = [{{{fault}, session = 1}}]", client)


def test_a_session_from_the_first_message_to_the_close() -> None:
    """Over a real socket: echo, `committed`, and the client's goodbye."""

    async def client(address: Address) -> None:
        async with connect(address.ws + PATH, additional_headers=bearer("key")) as socket:
            audio = wire.encode_audio(build_frames(1, 100))
            await socket.send(UPDATE)
            await socket.send(wire.encode_message(wire.Append(audio=audio)))
            await socket.send(wire.encode_message(wire.Commit()))
            events: list[dict[str, Any]] = []
            while not events or events[-1]["type"] != "input_audio_buffer.committed":
                events.append(json.loads(await socket.recv()))
        texts = [event["transcript"] for event in events if "transcript" in event]
        assert texts == ["1-100"]
        assert all("delta" in e for e in events if e["type"].endswith("transcription.delta"))
        assert socket.close_code == 1000

    run_with_simulator("kotoba", "", client)


def test_case_13_a_close_code_reaches_a_client_that_goes_on_speaking() -> None:
    """A connection that is closed with unread audio in it would be reset."""
    audio = wire.encode_message(wire.Append(audio=wire.encode_audio(build_frames(1, 500))))

    async def speak(socket: ClientConnection) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                await socket.send(audio)

    async def client(address: Address) -> None:
        async with connect(address.ws + PATH, additional_headers=bearer("key")) as socket:
            await socket.send(UPDATE)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(speak(socket))
                await listen(socket)
            assert socket.close_code == 4001

    run_with_simulator(
        "kotoba", 'faults = [{kind = "close", after_ms = 12000, code = 4001}]', client
    )


def test_a_mute_session_answers_pings_and_nothing_else() -> None:
    """Which only a client with patience of its own notices."""

    async def client(address: Address) -> None:
        async with connect(address.ws + PATH, additional_headers=bearer("key")) as socket:
            await socket.send(UPDATE)
            for _ in range(3):
                await (await socket.ping())
            address.end.set()
            assert await listen(socket) == []

    run_with_simulator("kotoba", 'faults = [{kind = "mute"}]', client)
