"""Palabra's clients on the real system: real processes, real sockets, the echo provider."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import pytest
import websockets

from speechbus_contracts import (
    StreamClosed,
    StreamOpened,
    decode_event,
)
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_numbers import build_frames
from tests.support.native_client import watch_bus
from tests.support.palabra import (
    KEYS,
    PATIENCE_S,
    Client,
    Door,
    another_door,
    events_of,
    publish_translation,
)
from tests.support.system import System

pytestmark = pytest.mark.nats

FRAME_BYTES: Final = 640
"""20 ms at 16 kHz."""
HALF_SECOND: Final = 25
"""Frames after which the echo provider gives a partial."""
FINALIZE: Final = {"message_type": "finalize"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {"API_KEYS": KEYS, "LOG_LEVEL": "DEBUG", "PALABRA_SESSIONS_PER_KEY_MAX": "2"}
    with System(
        tmp_path_factory.mktemp("palabra"),
        ingest_settings=settings,
        transcriber_settings={"LOG_LEVEL": "DEBUG"},
    ) as running:
        yield running


@pytest.fixture(scope="module")
def door(system: System) -> Door:
    return Door(system.ingest)


async def speak(client: Client, n_frames: int) -> list[dict[str, Any]]:
    """Send numbered audio, in step with the partials, up to 3 s; return what was heard."""
    heard: list[dict[str, Any]] = []
    for first in range(1, n_frames + 1, HALF_SECOND):
        await client.send(build_frames(first, HALF_SECOND))
        heard += await client.hear_until(f"1-{first + HALF_SECOND - 1}")
    return heard


def test_the_program_of_the_documentation_works_unchanged(door: Door) -> None:
    """Whoever has a Palabra client points it here and is done."""

    async def run() -> None:
        token = door.get_token()
        async with door.connect(token, language="en", sample_rate="16000") as client:
            first = await speak(client, 150)
            await client.send(build_frames(151, 150))
            second = await client.hear_until("151-300")

        assert [message["segment"]["text"] for message in first] == [
            f"1-{frame}" for frame in range(25, 151, 25)
        ]
        assert {message["message_type"] for message in first + second} == {"transcription"}
        assert [message["is_eos"] for message in first] == [False] * 5 + [True]
        assert len({message["transcription_id"] for message in first}) == 1
        assert first[0]["transcription_id"] < second[-1]["transcription_id"]
        assert first[1] == {
            "message_type": "transcription",
            "transcription_id": first[0]["transcription_id"],
            "language": "en",
            "is_eos": False,
            "segment": {"text": "1-50", "start_time": 0.0, "end_time": 1.0},
            "delta": {"text": "50", "start_time": 0.5, "end_time": 1.0},
        }
        assert second[-1]["segment"] == {"text": "151-300", "start_time": 3.0, "end_time": 6.0}

    asyncio.run(run())


@pytest.mark.parametrize("rate_hz", [8_000, 48_000])
def test_audio_of_any_rate_is_timed_by_its_samples(door: Door, rate_hz: int) -> None:
    """`sample_rate` is needed only when it is not 16000, and must not be guessed then."""

    async def run() -> list[dict[str, Any]]:
        async with door.connect(door.get_token(), sample_rate=str(rate_hz)) as client:
            await client.send(build_frames(1, 60, sample_rate_hz=rate_hz))
            await client.say(FINALIZE)
            return await client.hear_until("1-60<fin>")

    assert asyncio.run(run())[-1]["segment"]["end_time"] == 1.2


def test_finalize_is_answered_with_the_marker_as_often_as_it_is_sent(door: Door) -> None:
    """Voice agents end each turn with it; the stream goes on."""

    async def run() -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        async with door.connect(door.get_token(), language="en") as client:
            await client.send(build_frames(1, 30))
            await client.say(FINALIZE)
            heard += await client.hear_until("1-30<fin>")
            await client.say(FINALIZE)
            heard += await client.hear_until("<fin>")
            await client.send(build_frames(31, 10))
            await client.say(FINALIZE)
            heard += await client.hear_until("31-40<fin>")
        return heard

    finals = [message for message in asyncio.run(run()) if message["is_eos"]]

    assert [message["segment"] for message in finals] == [
        {"text": "1-30<fin>", "start_time": 0.0, "end_time": 0.6},
        {"text": "<fin>", "start_time": 0.6, "end_time": 0.6},
        {"text": "31-40<fin>", "start_time": 0.6, "end_time": 0.8},
    ]
    assert len({message["transcription_id"] for message in finals}) == 3


def test_a_sample_cut_in_two_by_a_finalize_is_put_together_again(door: Door) -> None:
    """Clients cut their bytes where they like; a shifted byte would be noise from there on."""
    audio = build_frames(1, 50)
    cut = HALF_SECOND * FRAME_BYTES + 1

    async def run() -> list[dict[str, Any]]:
        async with door.connect(door.get_token()) as client:
            await client.send(audio[:cut])
            await client.say(FINALIZE)
            heard = await client.hear_until("1-25<fin>")
            await client.send(audio[cut:])
            await client.say(FINALIZE)
            return heard + await client.hear_until("26-50<fin>")

    assert asyncio.run(run())[-1]["segment"]["end_time"] == 1.0


def test_finalize_is_answered_by_the_next_worker_when_its_own_dies(
    system: System, door: Door
) -> None:
    """The flush is in the audio on the bus; a client that waits for its marker gets it."""

    async def run() -> list[dict[str, Any]]:
        async with door.connect(door.get_token()) as client:
            await speak(client, HALF_SECOND)
            system.add_service("transcriber")  # not in a thread, with which it would end
            system.transcribers[0].freeze()
            await client.send(build_frames(26, 20))
            await client.say(FINALIZE)
            system.transcribers[0].kill()
            return await client.hear_until("1-45<fin>")

    assert asyncio.run(run())[-1]["is_eos"]


def test_half_a_sample_at_the_end_costs_nothing_but_itself(system: System, door: Door) -> None:
    """The client closes in the middle of a sample; what it said before is transcribed."""

    async def run() -> StreamClosed:
        async with events_of(system, "closed") as closed:
            async with door.connect(door.get_token()) as client:
                await client.send(build_frames(1, 40) + b"\x01")
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    event = decode_event(await closed.get())
                    assert isinstance(event, StreamClosed)
                    if event.audio_ms == 800:
                        return event

    event = asyncio.run(run())

    assert (event.reason, event.finals, event.gap_ms) == ("end", 1, 0)


def test_without_the_filler_filter_deltas_are_appended(door: Door) -> None:
    """Clients that concatenate get the segment's text, whatever the recognizer rewrote."""

    async def run() -> list[dict[str, Any]]:
        async with door.connect(door.get_token(), enable_filler_filter="false") as client:
            await client.send(build_frames(1, 150))
            return await client.hear_until("1-150")

    appended = ""
    for message in asyncio.run(run()):
        appended += message["delta"]["text"]

        assert message["segment"]["text"] == appended


def test_by_hand_segments_end_when_the_client_says_so(door: Door) -> None:
    """The recognizer ends one after 3 s; a client in manual mode sees one that goes on."""

    async def run() -> list[dict[str, Any]]:
        async with door.connect(door.get_token(), finalization_mode="manual") as client:
            await client.send(build_frames(1, 175))
            await client.hear_until("1-150 151-175")
            await client.say(FINALIZE)
            return await client.hear_until("1-150 151-175<fin>")

    assert [message["is_eos"] for message in asyncio.run(run())] == [True]


def test_a_pause_as_long_as_the_client_says_ends_a_segment(door: Door) -> None:
    """`finalization_timeout` needs no word of the client, and nothing of the recognizer."""

    async def run() -> list[dict[str, Any]]:
        async with door.connect(door.get_token(), finalization_timeout="0.5") as client:
            await client.send(build_frames(1, 30))
            heard = await client.hear_until("1-25")
            return heard + await client.hear_until("1-30")

    assert [message["is_eos"] for message in asyncio.run(run())] == [False, True]


def test_translations_on_the_bus_reach_the_client_with_the_id_of_their_source(
    system: System, door: Door
) -> None:
    """Whoever translates: the client joins by the id."""

    async def run() -> tuple[StreamOpened, dict[str, Any], dict[str, Any]]:
        async with (
            events_of(system, "opened") as opened,
            door.connect(door.get_token(), language="en-US", translate_languages="es,de") as client,
        ):
            event = decode_event(await opened.get())
            source = (await speak(client, 150))[-1]
            await publish_translation(
                system, source["transcription_id"], "es", "uno a ciento cincuenta"
            )
            assert isinstance(event, StreamOpened)
            return event, source, await client.hear()

    event, source, translated = asyncio.run(run())

    assert (event.language, event.target_languages, event.door) == (
        "en-US",
        ("es", "de"),
        "palabra",
    )
    assert source["language"] == "en-US"
    assert translated == {
        "message_type": "translated_transcription",
        "transcription_id": source["transcription_id"],
        "language": "es",
        "is_eos": True,
        "segment": {"text": "uno a ciento cincuenta", "start_time": 0.0, "end_time": 3.0},
    }


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"message_type":"x"}', "[" * 5_000, "\x00é"])
def test_a_text_that_is_no_known_message_is_ignored(door: Door, text: str) -> None:
    """After the upgrade this protocol has no application errors."""

    async def run() -> list[dict[str, Any]]:
        async with door.connect(door.get_token()) as client:
            await client.say(text)
            await client.send(b"")
            await client.send(build_frames(1, HALF_SECOND))
            return await client.hear_until("1-25")

    assert len(asyncio.run(run())) == 1


# --- who may come in ---------------------------------------------------------------------------


def test_a_session_is_answered_as_documented(door: Door) -> None:
    """The seed's program reads `data.publisher` after `raise_for_status`."""
    seed = {"subscriber_count": 0, "publisher_count": 1, "publisher_can_subscribe": True}
    response = door.post_session(body={"data": seed})

    assert response.status_code == 201
    assert response.json()["ok"] is True
    assert response.json()["data"]["subscriber"] == []
    assert response.json()["data"]["publisher"]


@pytest.mark.parametrize(
    ("tenant", "key"), [("acme", "key-of-beta"), ("beta", "key-of-acme"), ("acme", ""), ("", "x")]
)
def test_credentials_that_do_not_belong_together_are_refused(
    door: Door, tenant: str, key: str
) -> None:
    """Nobody gets a session of another tenant."""
    response = door.post_session(tenant=tenant, key=key)

    assert response.status_code == 401
    assert response.json()["ok"] is False


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"", 400), (b'{"data":{"subscriber_count":11}}', 400), (b" " * 65_537, 413)],
)
def test_a_broken_request_for_a_session_is_refused(door: Door, body: bytes, status: int) -> None:
    """The port is open to strangers' mistakes; none costs more than an answer."""
    response = door.post_session(body=body)

    assert response.status_code == status
    assert [error["status"] for error in response.json()["errors"]] == [status]


def test_an_upgrade_needs_a_token_that_is_one(door: Door) -> None:
    """401 is what clients take for wrong credentials; everything else they would retry."""
    subscriber = door.post_session(body={"data": {"subscriber_count": 1}}).json()["data"]

    async def run() -> list[int]:
        tokens = [None, "", "nonsense", door.get_token() + "x", subscriber["subscriber"][0]]
        return [(await door.refusal(token))[0] for token in tokens]

    assert asyncio.run(run()) == [401] * 5


@pytest.mark.parametrize("place", ["token", "bearer"])
def test_the_key_itself_is_a_token_in_either_place(door: Door, place: str) -> None:
    """Newer clients make no session; they send one API key."""

    async def run() -> None:
        key = "key-of-acme"
        token, bearer = (key, None) if place == "token" else (None, key)
        async with door.connect(token, bearer=bearer) as client:
            await client.send(build_frames(1, HALF_SECOND))
            await client.hear_until("1-25")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"format": "opus"}, 'invalid parameter "format": one of: pcm_s16le'),
        ({"format": "mulaw"}, 'missing parameter "sample_rate": required for mulaw'),
        ({"sample_rate": "7999"}, "8000 to 48000"),
        ({"language": "en US"}, 'invalid parameter "language"'),
        ({"translate_languages": "es,*"}, 'invalid parameter "translate_languages"'),
        ({"enable_filler_filter": "yes"}, "true or false"),
        ({"finalization_mode": "never"}, "auto or manual"),
        ({"finalization_timeout": "0"}, "seconds, more than 0"),
    ],
)
def test_a_wrong_parameter_is_told_at_the_upgrade(
    door: Door, query: dict[str, str], told: str
) -> None:
    """Afterwards there is nothing to tell it with."""
    status, detail = asyncio.run(door.refusal(door.get_token(), **query))

    assert status == 400
    assert told in detail


# --- one session per identity --------------------------------------------------------------------


def test_a_second_session_of_one_token_is_refused_until_the_first_ends(door: Door) -> None:
    """Two clients by mistake on one token would each be billed and each be wrong."""

    async def run() -> None:
        token, other = door.get_token(), door.get_token()
        async with door.connect(token):
            assert (await door.refusal(token))[0] == 409
            async with door.connect(other):
                pass
        await door.wait_until_free(token)

    asyncio.run(run())


def test_a_client_that_went_without_a_goodbye_can_come_back(door: Door) -> None:
    """A crashed client restarts at once and has the same token."""

    async def run() -> None:
        token = door.get_token()
        async with door.connect(token) as client:
            await client.send(build_frames(1, HALF_SECOND))
            await client.hear_until("1-25")
            client.connection.transport.abort()
            await door.wait_until_free(token)

    asyncio.run(run())


def test_what_a_client_sent_before_it_closed_is_transcribed(system: System, door: Door) -> None:
    """Also when answers to it could not be sent any more, and it was not read yet."""
    n_clients, n_frames = 30, 300

    async def speak_and_go(token: str) -> None:
        async with door.connect(token) as client:
            for first in range(1, n_frames + 1, HALF_SECOND):
                await client.send(build_frames(first, HALF_SECOND))

    async def run() -> list[StreamClosed]:
        tokens = [door.get_session()[1] for _ in range(n_clients)]
        async with watch_bus(system) as log:
            async with asyncio.TaskGroup() as tasks:
                for token in tokens:
                    tasks.create_task(speak_and_go(token))
            await wait_until(lambda: len(_closed(log)) == n_clients)
            return _closed(log)

    assert [closed.audio_ms for closed in asyncio.run(run())] == [n_frames * 20] * n_clients


def _closed(log: BusLog) -> list[StreamClosed]:
    events = (event for events in log.events.values() for event in events)
    return [event for event in events if isinstance(event, StreamClosed)]


def test_a_key_has_as_many_sessions_as_the_setting_says(door: Door) -> None:
    """Clients of the newer kind share one key; the limit here is 2."""

    async def run() -> None:
        key = "key-of-beta"
        async with door.connect(key), door.connect(key):
            assert (await door.refusal(key))[0] == 409
        await door.wait_until_free(key)

    asyncio.run(run())


# --- how connections end -------------------------------------------------------------------------


def test_a_message_that_is_too_large_ends_the_connection_with_1009(door: Door) -> None:
    """Memory of one client is bounded."""

    async def run() -> int | None:
        async with door.connect(door.get_token()) as client:
            with suppress(websockets.ConnectionClosed):
                await client.send(bytes(5 << 20))
            return await client.close_code()

    assert asyncio.run(run()) == 1009


def test_a_silent_client_gets_its_last_final_before_it_is_sent_away(system: System) -> None:
    """Palabra closes such a stream with 1001; what was said is not lost here."""

    async def run(door: Door) -> tuple[list[dict[str, Any]], int | None]:
        async with door.connect(door.get_token()) as client:
            await client.send(build_frames(1, 30))
            heard = await client.hear_until("1-30")
            return heard, await client.close_code()

    with another_door(system, IDLE_S="1") as door:
        heard, code = asyncio.run(run(door))

    assert heard[-1]["is_eos"]
    assert code == 1001


def test_a_server_that_goes_away_sends_the_last_finals_and_1001(system: System) -> None:
    """Clients take 1001 for a reason to connect again, elsewhere."""

    async def run(door: Door) -> tuple[list[dict[str, Any]], int | None]:
        async with door.connect(door.get_token()) as client:
            await client.send(build_frames(1, 30))
            heard = await client.hear_until("1-25")
            door.ingest.request_stop()
            heard += await client.hear_until("1-30")
            return heard, await client.close_code()

    with another_door(system) as door:
        heard, code = asyncio.run(run(door))

    assert heard[-1]["is_eos"]
    assert code == 1001


def test_processes_that_share_a_secret_take_each_others_tokens(system: System, door: Door) -> None:
    """Behind a load balancer the session is made here and used there."""
    secret = "thirty-two characters at the least"
    with (
        another_door(system, TOKEN_SECRET=secret) as one,
        another_door(system, TOKEN_SECRET=secret) as other,
    ):

        async def run() -> int:
            async with other.connect(one.get_token()):
                return (await other.refusal(door.get_token()))[0]

        assert asyncio.run(run()) == 401


def test_no_token_key_or_text_is_in_a_log(system: System) -> None:
    """Logs are read by people who may not read the speech or use the key."""
    # No id in the logs can hold this text by chance: five digits on both sides of the dash.
    text = "29501-29531"
    secrets = ["key-of-acme", "key-of-beta"]

    async def run(door: Door) -> None:
        secrets.append(door.get_token())
        secrets.extend(secrets[-1].split(".")[1:])
        async with door.connect(secrets[2]) as client:
            assert (await door.refusal(secrets[2]))[0] == 409
            assert (await door.refusal("key-of-acme", language="?"))[0] == 400
            await client.send(build_frames(29_501, 31))
            await client.say(FINALIZE)
            await client.hear_until(f"{text}<fin>")
        async with door.connect(None, bearer="key-of-acme"):
            pass

    with another_door(system) as door:
        asyncio.run(run(door))
    logs = [service.log_path.read_text() for service in system.services]

    assert any("stream opened" in log for log in logs)
    assert not any(secret in log for log in logs for secret in [*secrets, text, "<fin>"])
