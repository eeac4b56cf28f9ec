"""Kotoba's and OpenAI's clients on the real system: real processes and sockets, echo provider."""

import asyncio
import base64
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import websockets

from speechbus_contracts import SegmentFinal, StreamClosed, StreamOpened
from speechbus_runtime.bus import connect_bus
from speechbus_wire.kotoba_secrets import SecretClaims, sign_secret
from speechbus_wire.palabra_sessions import SessionClaims, sign_token
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import stream_frames
from tests.support.frame_numbers import build_frames
from tests.support.kotoba import COMMIT, KEYS, Client, Door, build_update
from tests.support.provider_streams import assert_exact
from tests.support.system import System

pytestmark = pytest.mark.nats

TOKEN_SECRET: Final = "thirty-two characters at the least"
HALF_SECOND: Final = 25
"""Frames after which the echo provider gives a partial."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {"API_KEYS": KEYS, "LOG_LEVEL": "DEBUG", "TOKEN_SECRET": TOKEN_SECRET}
    with System(
        tmp_path_factory.mktemp("kotoba"),
        ingests=2,
        ingest_settings=settings,
        transcriber_settings={"LOG_LEVEL": "DEBUG"},
    ) as running:
        yield running


@pytest.fixture(scope="module")
def door(system: System) -> Door:
    return Door(system.ingest)


@contextmanager
def another_door(system: System, **settings: str) -> Generator[Door, None, None]:
    """One more ingest, for a test of its own."""
    ingest = system.add_service("ingest", **settings)
    try:
        yield Door(ingest)
    finally:
        if ingest.is_running:
            ingest.stop()


async def begin(
    client: Client, *, turns: bool = False, timestamps: bool = False, **session: object
) -> None:
    """Send the settings and wait until they stand."""
    await client.say(build_update(turns=turns, timestamps=timestamps, **session))
    await client.hear_until("updated")


async def speak(client: Client, first: int, n_frames: int) -> None:
    """Send numbered audio by half seconds."""
    for at in range(first, first + n_frames, HALF_SECOND):
        await client.append(build_frames(at, HALF_SECOND), f"chunk_{at:07d}")


def browser(secret: str) -> Sequence[str]:
    """The subprotocols of a browser."""
    return ["realtime", f"kotoba-insecure-api-key.{secret}"]


# --- Kotoba's dialect --------------------------------------------------------------------------


def test_turns_come_as_deltas_and_are_completed(door: Door) -> None:
    """The whole conversation of the documentation, with turn detection and times."""

    async def run() -> Client:
        async with door.connect() as client:
            await begin(client, turns=True, timestamps=True)
            await speak(client, 1, 200)
            await client.say(COMMIT)
            await client.hear_until("committed")
        return client

    client = asyncio.run(run())

    assert client.types[:3] == [
        "transcription_session.created",
        "transcription_session.updated",
        "conversation.item.created",
    ]
    assert client.types[-1] == "input_audio_buffer.committed"
    assert client.transcripts == ["1-150", "151-200"]
    assert client.appended == "1-150 151-200"
    assert [
        (message["start_ms"], message["end_ms"], message["audio_processed_ms"])
        for message in client.told
        if "transcript" in message
    ] == [(0, 3_000, 3_000), (3_000, 4_000, 4_000)]


def test_case_26_without_turns_the_deltas_are_everything(door: Door) -> None:
    """They name the appends they came after; what follows the commit is ignored."""

    async def run() -> Client:
        path = "/acme/kotoba-streaming-stt/v1/realtime"
        async with door.connect("Key key-of-acme", path=path) as client:
            await begin(client)
            await speak(client, 1, 175)
            await client.say(COMMIT)
            await client.append(build_frames(900, 25))
            await client.say("{")
            await client.hear_until("committed")
        return client

    client = asyncio.run(run())
    ids = {message["item_id"] for message in client.told if "delta" in message}

    assert client.appended == "1-150 151-175"
    assert client.transcripts == []
    assert all(item_id.startswith("chunk_") for item_id in ids)


def test_at_fals_address_turns_are_detected_by_default(door: Door) -> None:
    """As at fal (providers.md 1.1)."""

    async def run() -> dict[str, Any]:
        path = "/acme/kotoba-streaming-stt/v1/realtime"
        async with door.connect("Key key-of-acme", path=path) as client:
            await client.say({"type": "transcription_session.update", "session": {}})
            return await client.hear_until("updated")

    updated = asyncio.run(run())

    assert updated["session"]["turn_detection"] == {"type": "server_vad"}


def test_case_25_an_update_before_created_is_taken(door: Door) -> None:
    """The vendor's SDK sends it at once, and audio right behind it."""

    async def run() -> Client:
        authorization = f"Basic {base64.b64encode(b'key-of-acme:').decode()}"
        async with door.connect(authorization) as client:
            await client.say(build_update())
            await speak(client, 1, 50)
            await client.say(COMMIT)
            await client.hear_until("committed")
        return client

    assert asyncio.run(run()).appended == "1-50"


def test_case_24_settings_that_change_are_refused_and_nothing_said_is_lost(
    system: System, door: Door
) -> None:
    """What was accepted before comes first, then the error, then the close."""

    async def run() -> tuple[Client, int | None, list[object]]:
        bus = await connect_bus(system.nats.url, name="test")
        log = BusLog(bus)
        async with door.connect() as client:
            await begin(client, turns=True)
            await speak(client, 1, 50)
            await client.say(build_update())
            code = await client.close_code()
        await wait_until(lambda: any(isinstance(e, StreamClosed) for e in _events(log)))
        events = _events(log)
        await bus.shut_down()
        return client, code, events

    client, code, events = asyncio.run(run())

    assert client.transcripts == ["1-50"]
    assert (client.told[-1]["type"], client.told[-1]["error"]["code"]) == ("error", "invalid_event")
    assert code == 1008
    assert [event.text for event in events if isinstance(event, SegmentFinal)] == ["1-50"]


def _events(log: BusLog) -> list[object]:
    return [event for events in log.events.values() for event in events]


def test_a_client_that_leaves_without_a_commit_is_transcribed_to_its_last_sample(
    system: System, door: Door
) -> None:
    """Closing needs no goodbye: what was said stays on the bus."""

    async def run() -> list[object]:
        bus = await connect_bus(system.nats.url, name="test")
        log = BusLog(bus)
        async with door.connect() as client:
            await begin(client)
            await client.append(build_frames(1, 40) + b"\x01")
            await client.append(b"")
        await wait_until(lambda: any(isinstance(e, StreamClosed) for e in _events(log)))
        events = _events(log)
        await bus.shut_down()
        return events

    events = asyncio.run(run())
    (opened,) = (event for event in events if isinstance(event, StreamOpened))
    (closed,) = (event for event in events if isinstance(event, StreamClosed))

    assert (opened.door, opened.tenant, opened.language) == ("kotoba", "acme", "en")
    assert (closed.reason, closed.audio_ms, closed.finals, closed.gap_ms) == ("end", 800, 1, 0)


@pytest.mark.parametrize("rate_hz", [8_000, 48_000])
def test_case_21_audio_of_any_rate_is_timed_by_its_samples(door: Door, rate_hz: int) -> None:
    """24 kHz is only what it has when nobody says so."""

    async def run() -> Client:
        async with door.connect() as client:
            await begin(client, turns=True, timestamps=True, input_audio_sample_rate=rate_hz)
            await client.append(build_frames(1, 60, sample_rate_hz=rate_hz))
            await client.say(COMMIT)
            await client.hear_until("committed")
        return client

    (completed,) = (m for m in asyncio.run(run()).told if "transcript" in m)

    assert (completed["transcript"], completed["end_ms"]) == ("1-60", 1_200)


def test_floats_are_audio_too(door: Door) -> None:
    """Kotoba's second format; the samples arrive exactly."""
    floats = array("f", (sample / 32_768 for sample in array("h", build_frames(1, 50))))

    async def run() -> Client:
        async with door.connect() as client:
            await begin(client, input_audio_format="float32")
            await client.append(floats.tobytes()[:-2])
            await client.append(floats.tobytes()[-2:])
            await client.say(COMMIT)
            await client.hear_until("committed")
        return client

    assert asyncio.run(run()).appended == "1-50"


def test_case_28_the_largest_append_is_taken_and_a_larger_one_is_told(door: Door) -> None:
    """1 MiB of audio, 1.4 MiB as it travels; beyond it an error, and far beyond it only a code."""

    async def run() -> tuple[Client, int | None, int | None]:
        async with door.connect() as client:
            await begin(client)
            await client.append(build_frames(1, 1_638))
            await client.append(bytes((1 << 20) + 3))
            code = await client.close_code()
        async with door.connect() as other:
            await begin(other)
            with suppress(websockets.ConnectionClosed):
                await other.append(bytes(2 << 20))
            return client, code, await other.close_code()

    client, code, other_code = asyncio.run(run())

    assert client.appended == " ".join(
        f"{first}-{min(first + 149, 1_638)}" for first in range(1, 1_639, 150)
    )
    assert client.told[-1]["error"]["code"] == "invalid_parameters"
    assert (code, other_code) == (1008, 1009)


def test_a_worker_that_dies_changes_nothing_for_the_client(system: System, door: Door) -> None:
    """The next one says the open turn again: what was sent of it is not sent twice."""

    async def run() -> Client:
        async with door.connect() as client:
            await begin(client, turns=True, timestamps=True)
            await speak(client, 1, 200)
            await client.hear_until("completed")
            system.add_service("transcriber")  # not in a thread, with which it would end
            system.transcribers[0].kill()
            await speak(client, 201, 200)
            await client.say(COMMIT)
            await client.hear_until("committed")
        return client

    client = asyncio.run(run())

    assert client.transcripts == ["1-150", "151-300", "301-400"]
    assert client.appended == "1-150 151-300 301-400"
    assert [
        (message["start_ms"], message["end_ms"])
        for message in client.told
        if "transcript" in message
    ] == [(0, 3_000), (3_000, 6_000), (6_000, 8_000)]


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["{"], "invalid_json"),
        ([b"{}"], "invalid_json"),
        ([COMMIT], "invalid_event"),
        ([{"type": "input_audio_buffer.append", "audio": ""}], "invalid_event"),
        ([{"type": "response.create"}], "invalid_event"),
        ([build_update(turn_detection=True)], "invalid_parameters"),
        ([build_update(input_audio_format="opus")], "invalid_parameters"),
        (
            [build_update(), {"type": "input_audio_buffer.append", "audio": "*"}],
            "invalid_parameters",
        ),
        ([build_update(), b"\0"], "invalid_json"),
    ],
)
def test_case_17_a_mistake_is_told_and_ends_the_session(
    door: Door, messages: list[Any], code: str
) -> None:
    """The vendor's clients take every error for the end (providers.md 1.8)."""

    async def run() -> tuple[dict[str, Any], int | None]:
        async with door.connect() as client:
            for message in messages:
                if isinstance(message, bytes):
                    await client.connection.send(message)
                else:
                    await client.say(message)
            error = await client.hear_until("error")
            return error, await client.close_code()

    error, close_code = asyncio.run(run())

    assert error["error"]["code"] == code
    assert error["error"]["type"] == "invalid_request_error"
    assert set(error["error"]) == {"type", "code", "message", "param"}
    assert close_code == 1008


def test_wrong_addresses_have_the_vendors_error(door: Door) -> None:
    """404 and `invalid_url`, over HTTP and at an upgrade."""
    response = door.post("sessions")
    refusal = asyncio.run(door.refusal("Bearer key-of-acme", path="/v1/realtime/other"))

    assert (response.status_code, response.json()["error"]["code"]) == (404, "invalid_url")
    assert refusal == (404, "invalid_url")


@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", "Bearer ", "Basic Og=="])
def test_a_wrong_key_is_refused_at_the_upgrade(door: Door, authorization: str | None) -> None:
    """401 is what the SDK makes an AuthError of."""
    assert asyncio.run(door.refusal(authorization)) == (401, "invalid_api_key")


def test_case_12_without_room_a_program_gets_a_status_and_a_browser_an_event(
    system: System,
) -> None:
    """Browsers cannot read statuses (providers.md 1.9 allows both)."""

    async def run(door: Door) -> tuple[tuple[int, str], dict[str, Any], int | None]:
        secret = door.get_secret()
        async with door.connect() as client:
            await begin(client)
            refusal = await door.refusal("Bearer key-of-acme")
            async with door.connect_browser(secret) as other:
                return refusal, await other.hear(), await other.close_code()

    with another_door(system, STREAMS_PER_KEY_MAX="1") as door:
        refusal, told, code = asyncio.run(run(door))

    assert refusal == (429, "rate_limit_error")
    assert told["error"]["type"] == "limitation"
    assert told["error"]["code"] == "rate_limit_error"
    assert code == 1013


def test_a_server_that_goes_away_sends_the_last_text_and_no_committed(system: System) -> None:
    """A client must not take half a transcript for the whole of it."""

    async def run(door: Door) -> tuple[Client, int | None]:
        async with door.connect() as client:
            await begin(client, turns=True)
            await client.append(build_frames(1, 30))
            await client.hear_until("item.created")
            door.ingest.request_stop()
            return client, await client.close_code()

    with another_door(system) as door:
        client, close_code = asyncio.run(run(door))

    assert client.transcripts == ["1-30"]
    assert client.told[-1]["error"]["code"] == "internal_error"
    assert "input_audio_buffer.committed" not in client.types
    assert close_code == 1001


# --- client secrets ------------------------------------------------------------------------------


def test_a_secret_opens_one_session_in_a_browser(door: Door) -> None:
    """`realtime` is answered and the secret is not; used up, it is refused."""

    async def run() -> tuple[Client, tuple[int, str]]:
        secret = door.get_secret()
        async with door.connect_browser(secret) as client:
            await begin(client)
            await speak(client, 1, 25)
            await client.say(COMMIT)
            await client.hear_until("committed")
        return client, await door.refusal(subprotocols=browser(secret))

    client, refusal = asyncio.run(run())

    assert client.connection.subprotocol == "realtime"
    assert client.appended == "1-25"
    assert refusal == (401, "session_expired")


def test_a_used_secret_is_refused_by_every_process(system: System, door: Door) -> None:
    """The stream that it has opened is on the bus, and may be opened once."""
    other = Door(system.ingests[1])

    async def run() -> tuple[tuple[int, str], list[Client], list[str]]:
        secret = door.get_secret()
        async with other.connect_browser(secret) as client:
            await begin(client)
            refusal = await door.refusal(subprotocols=browser(secret))
        # Two that came before either had opened its stream.
        secret = door.get_secret()
        async with door.connect_browser(secret) as one, other.connect_browser(secret) as two:
            clients = [one, two]
            for client in clients:
                await client.say(build_update())
            kinds = [await _first_after_created(client) for client in clients]
        return refusal, clients, kinds

    refusal, clients, kinds = asyncio.run(run())
    (loser,) = (client for client in clients if client.types[-1] == "error")

    assert refusal == (401, "session_expired")
    assert sorted(kinds) == ["error", "transcription_session.updated"]
    assert loser.told[-1]["error"]["code"] == "session_expired"


async def _first_after_created(client: Client) -> str:
    await client.hear_until("created")
    return str((await client.hear())["type"])


def test_a_secret_that_is_none_is_refused(system: System, door: Door) -> None:
    """Expired, changed, of another door, of a tenant that is gone, and a key that mints no more."""
    key = TOKEN_SECRET.encode()
    good = SecretClaims(tenant="acme", stream_id="s-1", expires_at_s=1 << 40)
    spent = SecretClaims(tenant="acme", stream_id="s-2", expires_at_s=1)
    stranger = SecretClaims(tenant="nobody", stream_id="s-3", expires_at_s=1 << 40)
    session = SessionClaims(tenant="acme", session_id="s-4", expires_at_s=1 << 40)

    async def run() -> list[tuple[int, str]]:
        return [
            await door.refusal(subprotocols=browser(secret))
            for secret in (
                sign_secret(spent, key),
                sign_secret(good, key)[:-1] + "A",
                sign_secret(good, b"another"),
                sign_secret(stranger, key),
                sign_token(session, key),
                "",
            )
        ]

    assert asyncio.run(run()) == [(401, "session_expired"), *[(401, "invalid_api_key")] * 5]
    for path in ("transcription_sessions", "client_secrets"):
        for wrong in (sign_secret(good, key), "key-of-nobody"):
            response = door.post(path, key=wrong)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        ({"turn_detection": True, "expires_after": 7}, "invalid_parameters"),
        (b" " * 131_073, "invalid_parameters"),
    ],
)
@pytest.mark.parametrize("path", ["transcription_sessions", "client_secrets"])
def test_a_broken_request_for_a_secret_is_refused(
    door: Door, path: str, body: object, code: str
) -> None:
    """The port is open to strangers' mistakes; none costs more than an answer."""
    response = door.post(path, body=body)

    assert (response.status_code, response.json()["error"]["code"]) == (400, code)
    assert response.headers["cache-control"] == "no-store"


# --- OpenAI's dialects ---------------------------------------------------------------------------


def test_an_openai_client_commits_each_turn_and_goes_on_after_a_mistake(door: Door) -> None:
    """The general form, with a key and no turn detection."""
    settings = {
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "transcription": {"model": "gpt-realtime-whisper", "language": "en"},
                "turn_detection": None,
            }
        },
    }

    async def run() -> Client:
        async with door.connect(path="/v1/realtime?intent=transcription") as client:
            await client.hear_until("session.created")
            await client.say(COMMIT)
            await client.say({"type": "session.update", "session": settings})
            await client.hear_until("session.updated")
            for first in (1, 41):
                await client.append(build_frames(first, 40, sample_rate_hz=24_000))
                await client.say(COMMIT)
                await client.say({"type": "response.create"})
                await client.hear_until("completed")
        return client

    client = asyncio.run(run())
    errors = [m["error"]["code"] for m in client.told if m["type"] == "error"]

    assert client.transcripts == ["1-40", "41-80"]
    assert client.appended == "1-4041-80"
    assert errors[0] == "input_audio_buffer_commit_empty"
    assert errors.count("invalid_event") in (1, 2)  # the last may come behind the last item
    assert client.types.count("conversation.item.added") == 2


def test_an_openai_secret_remembers_its_settings(door: Door) -> None:
    """A browser then sends audio and nothing else."""
    session = {
        "type": "transcription",
        "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}},
    }
    answer = door.post("client_secrets", body={"session": session}).json()

    async def run() -> Client:
        async with door.connect_browser(answer["value"], vendor="openai") as client:
            await client.append(build_frames(1, 175))
            await client.hear_until("completed")
            await client.say(COMMIT)
            await client.hear_until("completed")
        return client

    client = asyncio.run(run())

    assert answer["session"]["audio"]["input"]["format"]["rate"] == 16_000
    assert client.told[0]["session"]["audio"]["input"]["format"]["rate"] == 16_000
    assert client.transcripts == ["1-150", "151-175"]


def test_an_openai_beta_client_is_told_in_its_words(door: Door) -> None:
    """By header; with turn detection, which is its default."""

    async def run() -> Client:
        headers = {"OpenAI-Beta": "realtime=v1"}
        async with door.connect(path="/v1/realtime?intent=transcription", **headers) as client:
            session = {
                "input_audio_format": "pcm16",
                "input_audio_transcription": {"model": "gpt-4o-transcribe", "language": "en"},
            }
            await client.say({"type": "transcription_session.update", "session": session})
            await client.append(build_frames(1, 150, sample_rate_hz=24_000))
            await client.hear_until("completed")
        return client

    client = asyncio.run(run())

    assert [kind for kind in client.types if "delta" not in kind] == [
        "transcription_session.created",
        "transcription_session.updated",
        "input_audio_buffer.speech_started",
        "conversation.item.created",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.input_audio_transcription.completed",
    ]
    assert client.transcripts == ["1-150"]


# --- what nobody may read ------------------------------------------------------------------------


def test_no_secret_key_or_text_is_in_a_log_or_an_error(system: System) -> None:
    """Logs are read by people who may not read the speech or use the key."""
    # No id in the logs can hold this text by chance: five digits on both sides of the dash.
    text = "29501-29531"
    private = ["key-of-acme", "key-of-beta", TOKEN_SECRET, "a-misplaced-key"]
    told: list[str] = []

    async def run(door: Door) -> None:
        private.append(door.get_secret())
        private.extend(private[-1].split(".")[1:])
        async with door.connect_browser(private[4]) as client:
            await begin(client)
            told.append(str(await door.refusal(subprotocols=browser(private[4]))))
            await client.append(build_frames(29_501, 31))
            await client.say(COMMIT)
            await client.hear_until("committed")
            assert client.appended == text
        for authorization in ("Bearer a-misplaced-key", f"Bearer {private[4]}x"):
            told.append(str(await door.refusal(authorization)))
        for update in (
            build_update(turn_detection={"type": text}),
            build_update(input_audio_format=text),
        ):
            async with door.connect("Key key-of-acme") as client:
                await client.say(update)
                told.append(str(await client.hear_until("error")))
                await client.close_code()
        told.append(door.post(body=f'{{"turn_detection":"{text}"}}'.encode()).text)

    with another_door(system) as door:
        asyncio.run(run(door))
    logs = [service.log_path.read_text() for service in system.services]

    assert any("stream opened" in log for log in logs)
    assert len(told) == 6
    assert not any(word in line for line in [*logs, *told] for word in [*private, text])


def test_our_own_adapter_is_a_client_of_the_door(door: Door, tmp_path: Path) -> None:
    """One Speechbus can be the provider of another: times and text pass through exactly."""
    variables = {
        "KOTOBA_API_KEY": "key-of-acme",
        "KOTOBA_ASR_URL": f"ws://127.0.0.1:{door.ingest.port}/v1/realtime",
    }
    with System(
        tmp_path, transcriber_settings={"PROVIDERS": "kotoba"}, environment=variables
    ) as other:
        received = asyncio.run(
            stream_frames(
                other.ingest.url,
                other.key,
                n_frames=100,
                hello={"providers": ["kotoba"], "language": "en"},
            )
        )

    assert_exact(received, 100)
