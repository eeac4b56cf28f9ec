"""One tenant's key opens nothing of another tenant's, at no door; and what a key may do at all."""

import asyncio
import hashlib
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, cast

import httpx
import msgspec
import pytest
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from speechbus_cli.embedded_nats import choose_port
from speechbus_ingest.doors.kotoba import KotobaDoor
from speechbus_ingest.doors.native import NativeDoor
from speechbus_ingest.doors.palabra import PalabraDoor
from speechbus_ingest.doors.palabra_storage import PalabraStorage
from speechbus_ingest.routes import build_app
from speechbus_ingest.viewer.routes import Viewer
from speechbus_runtime.health import Health
from speechbus_runtime.health_routes import health_routes
from tests.support.command_line import (
    COMMAND,
    build_environment,
    run_speechbus,
    start_speechbus,
)
from tests.support.frame_numbers import build_frames
from tests.support.native_client import NativeClient, connect_native
from tests.support.redaction import assert_nothing_private
from tests.support.secured_nats import login_settings
from tests.support.system import System

pytestmark = pytest.mark.nats

KEYS: Final = {"acme": "key-of-acme-the-owner", "other": "key-of-other-who-pries"}
SECRET: Final = "thirty-two characters at the least"
TEXT: Final = "29501-29531"
"""What acme's stream says; five digits on both sides are in no log by chance."""
PATIENCE_S: Final = 30.0
CERTIFICATES: Final = Path(__file__).parents[1] / "support" / "certificates"


def hash_key(key: str) -> str:
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def write_keys(path: Path, keys: Mapping[str, str]) -> None:
    """One hashed, the other as it is, as `speechbus key new` and people write them."""
    entries = [f"acme:{hash_key(keys['acme'])}", f"other:{keys['other']}"]
    path.write_text("\n".join(entries) + "\n")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("tenants")
    write_keys(folder / "keys", KEYS)
    with System(
        folder,
        correlators=1,
        translators=1,
        ingest_settings={
            "API_KEYS": "",
            "API_KEYS_FILE": str(folder / "keys"),
            "TOKEN_SECRET": SECRET,
            "LOG_LEVEL": "DEBUG",
        },
        transcriber_settings={"LOG_LEVEL": "DEBUG"},
        correlator_settings={"LOG_LEVEL": "DEBUG"},
        translator_settings={"LOG_LEVEL": "DEBUG"},
    ) as running:
        yield running


class Owned:
    """What acme has: a stream, a session and tokens."""

    def __init__(self, system: System) -> None:
        self.ingest = system.ingest
        session = self.ask("acme", "POST", "/session-storage/session", json={"data": {}})
        assert session.status_code == 201
        data = session.json()["data"]
        self.session_id, self.session_token = data["id"], data["publisher"]
        self.stream_id = asyncio.run(self._speak())
        made = self.ask("acme", "POST", f"/v1/streams/{self.stream_id}/viewer_token")
        assert made.status_code == 201
        self.viewer_token: str = made.json()["token"]

    def ask(self, tenant: str, method: str, path: str, **more: Any) -> httpx.Response:  # noqa: ANN401
        """Ask with a tenant's key wherever one may stand."""
        key = KEYS[tenant]
        headers = {"authorization": f"Bearer {key}", "clientid": tenant, "clientsecret": key}
        return httpx.request(
            method,
            f"{self.ingest.url}{path}",
            headers=headers,
            timeout=PATIENCE_S,
            trust_env=False,
            **more,
        )

    async def _speak(self) -> str:
        async with connect_native(self.ingest, KEYS["acme"]) as client:
            await client.open(resumable=True)
            await client.send(build_frames(29_501, 31))
            await client.end()
            assert [final.text for final in client.finals] == [TEXT]
            return client.stream_id

    def refusal(self, path: str, token: str) -> int:
        """Return the status of an upgrade; 101: let in."""

        async def knock() -> int:
            url = f"{self.ingest.url.replace('http', 'ws')}{path}"
            headers = {"authorization": f"Bearer {token}"}
            try:
                async with connect(url, additional_headers=headers, proxy=None):
                    return 101
            except InvalidStatus as error:
                return error.response.status_code

        return asyncio.run(knock())


@pytest.fixture(scope="module")
def owned(system: System) -> Owned:
    return Owned(system)


# --- what another tenant's key gets, route by route ---------------------------------------------


def list_nothing(owned: Owned, path: str) -> None:
    answer = owned.ask("other", "GET", path)
    assert answer.status_code == 200
    assert owned.stream_id not in answer.text
    assert owned.session_id not in answer.text


def find_nothing(method: str) -> Callable[[Owned, str], None]:
    def ask(owned: Owned, path: str) -> None:
        query = "?ttl_seconds=60" if method == "POST" and "session" in path else ""
        assert owned.ask("other", method, path + query).status_code == 404
        if "session-storage" in path:
            assert owned.ask("acme", "GET", path).status_code == 200  # it is all there

    return ask


def hear_nothing(owned: Owned, path: str) -> None:
    """The list's feed tells of the own streams only: acme's, opened first, is not among them."""

    async def listen() -> list[str]:
        url = f"{owned.ingest.url}{path}"
        headers = {"authorization": f"Bearer {KEYS['other']}"}
        async with (
            httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            assert response.status_code == 200
            opened: list[str] = []
            for tenant in ("acme", "other"):
                async with connect_native(owned.ingest, KEYS[tenant]) as source:
                    await source.open()
                    await source.hear_until("stream.opened")
                    opened.append(source.stream_id)
            heard = ""
            async for line in response.aiter_lines():
                heard += line
                if opened[1] in heard:
                    return [stream_id for stream_id in opened if stream_id in heard]
        return []

    (heard,) = asyncio.run(listen())
    assert heard


def open_ones_own(owned: Owned, path: str) -> None:
    """What is made by a request is the asking tenant's."""
    answer = owned.ask("other", "POST", path, json={"data": {}})
    assert answer.status_code in {200, 201}
    assert owned.session_id not in answer.text


def resume_nothing(owned: Owned, _path: str) -> None:
    async def resume() -> str:
        async with connect_native(owned.ingest, KEYS["other"]) as client:
            return await resume_at(client, owned.stream_id)

    assert asyncio.run(resume()) == "resume.unknown"


def test_a_live_stream_is_resumed_by_its_owner_only(owned: Owned) -> None:
    """Where it is, at its ingest: whoever could, would hear it, and its owner would lose it."""

    async def run() -> None:
        async with connect_native(owned.ingest, KEYS["acme"]) as owner:
            await owner.open(resumable=True)
            await owner.send(build_frames(1, 50))
            async with connect_native(owned.ingest, KEYS["other"]) as thief:
                assert await resume_at(thief, owner.stream_id) == "resume.unknown"
            await owner.end()
            assert owner.closed.reason == "end"

    asyncio.run(run())


async def resume_at(client: NativeClient, stream_id: str) -> str:
    hello = {"type": "hello", "format": "pcm_s16le", "sample_rate_hz": 16_000}
    await client.say({**hello, "resume": {"stream_id": stream_id, "samples": 0}})
    error = await client.hear()
    assert error["type"] == "error", error
    return str(error["code"])


def take_no_foreign_token(owned: Owned, path: str) -> None:
    """Tokens name their tenant and their door: acme's viewer token, and a changed one, are none."""
    head, body, signature = owned.session_token.split(".")
    for token in (owned.viewer_token, f"{head}.{body[:-2]}AA.{signature}", "ek_x.y.z"):
        assert owned.refusal(path.replace("{owner}", "me"), token) == 401


def be_public(_owned: Owned, _path: str) -> None:
    """Nobody's data: the page itself, probes, and answers that say where the doors are."""


STREAM: Final = "/v1/streams/{stream_id}"
SESSION: Final = "/session-storage/sessions/{session_id}"
REALTIME: Final = "/v1/realtime"
LANGUAGE: Final = "?language=en&sample_rate=16000"
ROUTES: Final[Mapping[str, Callable[[Owned, str], None]]] = {
    "WS /v1/streams": resume_nothing,
    "POST /session-storage/session": open_ones_own,
    "GET /session-storage/sessions": list_nothing,
    f"GET {SESSION}": find_nothing("GET"),
    f"POST {SESSION}": find_nothing("POST"),
    f"DELETE {SESSION}": find_nothing("DELETE"),
    "WS /asr/v1/speech-to-text/stream": take_no_foreign_token,
    f"POST {REALTIME}/transcription_sessions": open_ones_own,
    f"POST {REALTIME}/client_secrets": open_ones_own,
    f"WS {REALTIME}": take_no_foreign_token,
    f"WS /{{owner}}/kotoba-streaming-stt{REALTIME}": take_no_foreign_token,
    f"DELETE,GET,PATCH,POST,PUT {REALTIME}": be_public,
    f"DELETE,GET,PATCH,POST,PUT {REALTIME}/{{rest:path}}": be_public,
    f"WS {REALTIME}/{{rest:path}}": be_public,
    "GET /": be_public,
    "GET /static/{name}": be_public,
    "GET /v1/streams": list_nothing,
    "GET /v1/streams/events": hear_nothing,
    f"GET {STREAM}/events": find_nothing("GET"),
    f"POST {STREAM}/viewer_token": find_nothing("POST"),
    "GET /healthz": be_public,
    "GET /readyz": be_public,
}
"""Every route of ingest, and how another tenant is kept out there."""


class DummyBus:
    """Routes are listed without one."""

    def on_disconnected(self, _hook: object) -> None:
        """Nothing is connected."""


def test_every_route_has_its_entry() -> None:
    """Whoever adds one says here how tenants are kept apart at it."""
    none = cast("Any", None)
    keys: dict[str, Any] = {"idle_s": 1.0, "duration_s": 1.0}
    registry = cast("Any", type("Registry", (), {"resume_s": 1.0})())
    app = build_app(
        native=NativeDoor(none, registry, none, connections=none, **keys),
        storage=PalabraStorage(none, none, token_secrets=none, now_ms=none),
        palabra=PalabraDoor(none, none, none, token_secrets=none, now_s=none, **keys),
        kotoba=KotobaDoor(none, none, none, connections=none, **keys),
        viewer=Viewer(cast("Any", DummyBus()), none, none, mode="key", now_ns=none),
        health=health_routes(Health("ingest")),
    )
    found: list[str] = []
    for route in app.routes:
        if isinstance(route, WebSocketRoute):
            found.append(f"WS {route.path}")
        else:
            assert isinstance(route, Route)
            methods = ",".join(sorted((route.methods or set()) - {"HEAD"}))
            found.append(f"{methods} {route.path}")

    assert sorted(found) == sorted(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_another_tenant_gets_nothing(owned: Owned, route: str) -> None:
    """Read, listed, resumed, deleted, watched: by its owner only."""
    path = route.partition(" ")[2]
    path = path.replace("{stream_id}", owned.stream_id).replace("{session_id}", owned.session_id)

    ROUTES[route](owned, path)


# --- viewer tokens ------------------------------------------------------------------------------


def watch(owned: Owned, stream_id: str, token: str) -> int:
    """Return the status of a feed's beginning."""
    url = f"{owned.ingest.url}/v1/streams/{stream_id}/events?token={token}"
    with (
        httpx.Client(timeout=PATIENCE_S, trust_env=False) as client,
        client.stream("GET", url) as response,
    ):
        if response.status_code == 200:
            assert any(TEXT in line for line in response.iter_lines())
        return response.status_code


def test_a_viewer_token_shows_its_stream_and_nothing_else(owned: Owned) -> None:
    """It is for a browser that must not have the key: no list, no other stream, no door."""
    assert watch(owned, owned.stream_id, owned.viewer_token) == 200
    assert watch(owned, "another", owned.viewer_token) == 401
    assert watch(owned, owned.stream_id, owned.session_token) == 401
    headers = {"authorization": f"Bearer {owned.viewer_token}"}
    for method, path in (
        ("GET", "/v1/streams"),
        ("GET", "/v1/streams/events"),
        ("POST", f"/v1/streams/{owned.stream_id}/viewer_token"),
        ("POST", f"{REALTIME}/client_secrets"),
    ):
        url = f"{owned.ingest.url}{path}"
        assert httpx.request(method, url, headers=headers, trust_env=False).status_code == 401
    assert owned.refusal("/v1/streams", owned.viewer_token) == 401


@pytest.mark.parametrize("body", [b"[]", b'{"ttl_s":9}', b'{"ttl_s":"x"}', b"{", b"[" * 1_000])
def test_a_wrong_request_for_a_viewer_token_is_explained(owned: Owned, body: bytes) -> None:
    """With what may stand there."""
    path = f"/v1/streams/{owned.stream_id}/viewer_token"
    answer = owned.ask("acme", "POST", path, content=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_body")
    assert owned.ask("acme", "POST", path, content=b" " * 2_000).status_code == 413


# --- what is written down -----------------------------------------------------------------------


def test_nothing_private_is_in_a_log_or_an_error(system: System, owned: Owned) -> None:
    """Of any service, at its most talkative; and no error repeats what it got."""
    told: dict[str, str] = {}
    for number, (path, token) in enumerate(
        [
            ("/v1/streams", "a-misplaced-key"),
            ("/asr/v1/speech-to-text/stream", "a-misplaced-key"),
            (REALTIME, "a-misplaced-key"),
        ]
    ):
        answer = httpx.get(
            f"{owned.ingest.url}{path}?token={token}",
            headers={
                "authorization": f"Bearer {token}",
                "connection": "Upgrade",
                "upgrade": "websocket",
                "sec-websocket-version": "13",
                "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
            },
            trust_env=False,
        )
        assert answer.status_code == 401
        told[f"answer {number}"] = f"{answer.headers} {answer.text}"

    async def misspeak() -> None:
        async with connect_native(owned.ingest, KEYS["acme"]) as client:
            await client.say({"type": "hello", "format": TEXT, "language": "a-misplaced-key"})
            told["error event"] = msgspec.json.encode(await client.hear()).decode()

    asyncio.run(misspeak())
    for service in system.services:
        told[service.name] = service.log_path.read_text()

    private = [*KEYS.values(), *map(hash_key, KEYS.values()), SECRET, TEXT, "a-misplaced-key"]
    private += [*owned.session_token.split(".")[1:], *owned.viewer_token.split(".")[1:]]
    assert_nothing_private(told, private)


# --- speechbus purge ----------------------------------------------------------------------------


def purge(system: System, *arguments: str) -> tuple[int, str]:
    """Run the command as NATS' user `bootstrap`; return its exit code and all it said."""
    login = login_settings(system.nats.log_path.parent, "bootstrap")
    done = run_speechbus(
        "purge",
        *arguments,
        "--nats-url",
        system.nats.url,
        input_bytes=b"",
        **{f"SPEECHBUS_{name}": value for name, value in login.items()},
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def is_stored(owned: Owned, stream_id: str, tenant: str = "acme") -> bool:
    """Tell whether the page would show a stream."""
    return f'"{stream_id}"' in owned.ask(tenant, "GET", "/v1/streams").text


async def speak(owned: Owned, tenant: str) -> str:
    async with connect_native(owned.ingest, KEYS[tenant]) as client:
        await client.open(target_languages=["es"])
        await client.send(build_frames(1, 160))
        await client.end()
        return client.stream_id


def test_a_stream_is_purged_from_every_store_and_its_neighbours_stay(
    system: System, owned: Owned
) -> None:
    """Audio, transcript and captions, of this id only; again it finds nothing."""
    purged, stays = (asyncio.run(speak(owned, "acme")) for _ in range(2))
    captions = f"/v1/streams/{purged}/events"
    assert owned.ask("acme", "GET", captions).status_code == 200

    asked = purge(system, purged)
    assert (asked[0], "--yes" in asked[1]) == (2, True)
    code, told = purge(system, purged, "--yes")
    assert code == 0, told
    removed = {line.split()[0]: int(line.split()[1]) for line in told.splitlines()}
    assert {f"AUDIO_{shard}" for shard in range(4)} < set(removed)
    assert sum(n for name, n in removed.items() if name.startswith("AUDIO")) >= 32
    assert removed["TRANSCRIPT"] >= 4
    assert owned.ask("acme", "GET", captions).status_code == 404
    assert not is_stored(owned, purged)
    assert is_stored(owned, stays)
    code, told = purge(system, purged, "--yes")
    assert (code, {line.split()[1] for line in told.splitlines()}) == (0, {"0"})


def test_a_live_stream_is_purged_by_force_only(system: System, owned: Owned) -> None:
    """Its worker would lose its claim."""

    async def run() -> None:
        async with connect_native(owned.ingest, KEYS["acme"]) as client:
            await client.open()
            await client.hear_until("stream.claimed")
            code, told = await asyncio.to_thread(purge, system, client.stream_id, "--yes")
            assert (code, client.stream_id in told) == (1, True)
            assert is_stored(owned, client.stream_id)
            code, told = await asyncio.to_thread(
                purge, system, client.stream_id, "--yes", "--force"
            )
            assert code == 0, told
            assert not is_stored(owned, client.stream_id)

    asyncio.run(run())


def test_a_tenant_is_purged_and_the_other_one_keeps_all(system: System, owned: Owned) -> None:
    """Its sessions, too."""
    stays = asyncio.run(speak(owned, "other"))
    session = owned.ask("acme", "POST", "/session-storage/session", json={"data": {}}).json()
    path = f"/session-storage/sessions/{session['data']['id']}"
    assert owned.ask("acme", "GET", path).status_code == 200

    code, told = purge(system, "--tenant", "acme", "--yes", "--force")
    assert code == 0, told
    assert owned.ask("acme", "GET", path).status_code == 404
    assert owned.ask("acme", "GET", "/v1/streams").json() == {"streams": []}
    assert is_stored(owned, stays, "other")


@pytest.mark.parametrize("arguments", [(), ("a.b", "--yes"), ("--tenant", "*", "--yes")])
def test_what_would_purge_too_much_is_refused(system: System, arguments: tuple[str, ...]) -> None:
    """A wildcard is no name."""
    assert purge(system, *arguments)[0] == 2


# --- keys that change ---------------------------------------------------------------------------


def test_a_changed_key_file_is_taken_over_and_a_spoilt_one_is_not(
    system: System, owned: Owned
) -> None:
    """Without a restart; who is connected stays."""
    path = system.ingest.log_path.parent / "keys"
    before = dict(KEYS)

    def wait_for(status: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while owned.ask("acme", "GET", "/v1/streams").status_code != status:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)

    async def run() -> None:
        async with connect_native(owned.ingest, KEYS["acme"]) as client:
            await client.open()
            write_keys(path, {**KEYS, "acme": "a-newer-key-of-acme"})
            await asyncio.to_thread(wait_for, 401)
            KEYS["acme"] = "a-newer-key-of-acme"
            await asyncio.to_thread(wait_for, 200)
            await asyncio.to_thread(path.write_text, "acme:sha256:spoilt\n")
            os.kill(system.ingest.pid, signal.SIGHUP)  # else it looks within five seconds
            await asyncio.to_thread(wait_for_log, system, "settings were not taken over")
            assert owned.ask("acme", "GET", "/v1/streams").status_code == 200
            await client.send(build_frames(1, 50))
            await client.end()
            assert client.closed.reason == "end"

    try:
        asyncio.run(run())
    finally:
        KEYS.update(before)
        write_keys(path, KEYS)
        os.kill(system.ingest.pid, signal.SIGHUP)
        wait_for(200)


def wait_for_log(system: System, text: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while text not in system.ingest.log_path.read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


# --- TLS ----------------------------------------------------------------------------------------


def test_the_port_speaks_tls_where_it_has_a_certificate(system: System) -> None:
    """And nothing else; a certificate without its key is told before anything runs."""
    certificate, key = (CERTIFICATES / name for name in ("first.pem", "first.key.pem"))
    port = choose_port("127.0.0.1", 0)
    settings = {
        "SPEECHBUS_INGEST_API_KEYS": "acme:key",
        "SPEECHBUS_INGEST_NATS_URL": system.nats.url,
        "SPEECHBUS_INGEST_LISTEN_PORT": str(port),
        "SPEECHBUS_INGEST_DECODERS_MAX": "0",
        "SPEECHBUS_INGEST_TLS_CERTIFICATE_PATH": str(certificate),
    }
    wrong = subprocess.run(
        [*COMMAND, "ingest"],
        env=build_environment(**settings, SPEECHBUS_INGEST_TLS_KEY_PATH=str(certificate)),
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (wrong.returncode, b"no certificate and its key" in wrong.stderr) == (2, True)
    trust = ssl.create_default_context(cafile=certificate)
    environment = build_environment(**settings, SPEECHBUS_INGEST_TLS_KEY_PATH=str(key))
    ingest = start_speechbus("ingest", environment=environment, errors=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < deadline_s
            try:
                url = f"https://127.0.0.1:{port}/readyz"
                if httpx.get(url, verify=trust, trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
    finally:
        ingest.kill()
        ingest.communicate()


# --- connections --------------------------------------------------------------------------------


def test_one_tenants_connections_leave_room_for_others(system: System) -> None:
    """Those that open no stream count, too, at both doors that let them; 429 with Retry-After."""
    ingest = system.add_service("ingest", STREAMS_PER_KEY_MAX="2")
    kotoba = f"{ingest.url.replace('http', 'ws')}{REALTIME}"

    async def run() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(connect_native(ingest, KEYS["other"]))
                await stack.enter_async_context(connect(kotoba, proxy=None, **with_key("other")))
            with pytest.raises(InvalidStatus) as refused:
                await stack.enter_async_context(connect_native(ingest, KEYS["other"]))
            response = refused.value.response
            assert (response.status_code, response.headers["retry-after"]) == (429, "5")
            with pytest.raises(InvalidStatus) as refused:
                await stack.enter_async_context(connect(kotoba, proxy=None, **with_key("other")))
            assert refused.value.response.status_code == 429
            client = await stack.enter_async_context(connect_native(ingest, KEYS["acme"]))
            await client.open()
        async with connect_native(ingest, KEYS["other"]) as client:  # they are gone
            await client.open()

    asyncio.run(run())
    ingest.kill()


def with_key(tenant: str) -> dict[str, Any]:
    return {"additional_headers": {"authorization": f"Bearer {KEYS[tenant]}"}}


# --- quotas -------------------------------------------------------------------------------------


def test_streams_per_minute_and_bytes_per_second_are_limited(system: System) -> None:
    """429 with Retry-After at the upgrade; too much audio is read later, and none is lost."""
    ingest = system.add_service(
        "ingest", STREAMS_PER_KEY_PER_MINUTE_MAX="2", BYTES_PER_S_PER_KEY_MAX="16000"
    )

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with connect_native(ingest, KEYS["other"]) as client:
            await client.open()
            began_s = loop.time()
            await client.send(build_frames(1, 100))  # 64,000 bytes
            await client.end()
            assert loop.time() - began_s > 2.5
            assert client.closed.audio_ms == 2_000
        async with connect_native(ingest, KEYS["other"]) as client:
            await client.open()
        with pytest.raises(InvalidStatus) as refused:
            async with connect_native(ingest, KEYS["other"]):
                pass
        response = refused.value.response
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 60
        async with connect_native(ingest, KEYS["acme"]) as client:
            await client.open()

    asyncio.run(run())
    ingest.kill()
