"""The native door on the real system: real processes, real sockets, the echo provider."""

import asyncio
import random
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import psutil
import pytest
import websockets

from speechbus_cli.embedded_nats import choose_port
from speechbus_contracts import SegmentFinal, StreamClosed, StreamReconfigured
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_numbers import Tiling, build_frames, check_tiling
from tests.support.metrics import scrape
from tests.support.native_client import (
    NativeClient,
    closed_of,
    connect_native,
    finals_of,
    watch_bus,
)
from tests.support.system import Service, System

pytestmark = pytest.mark.nats

EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
KEY: Final = "a-key-that-must-not-be-logged"
FRAME_BYTES: Final = 640
"""20 ms at 16 kHz."""
HELLO: Final = {"type": "hello", "format": "pcm_s16le", "sample_rate_hz": 16_000}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(
        tmp_path_factory.mktemp("native"),
        ingest_settings={"API_KEYS": f"acme:{KEY}", "LOG_LEVEL": "DEBUG"},
        transcriber_settings={"LOG_LEVEL": "DEBUG", "SESSIONS_MAX": "200"},
    ) as running:
        yield running


async def speak(system: System, pieces: Sequence[bytes], **hello: object) -> NativeClient:
    """Send audio as fast as the door takes it, end, and return what was heard."""
    async with connect_native(system.ingest, KEY) as client:
        await client.open(**hello)
        for piece in pieces:
            await client.send(piece)
        await client.end()
        return client


def cut_evenly(pcm: bytes, size: int) -> list[bytes]:
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


def test_metrics_have_a_port_that_clients_do_not_reach(system: System) -> None:
    """What a system carries is nobody's business but its operator's."""
    port = choose_port("127.0.0.1", 0)
    ingest = system.add_service("ingest", HEALTH_PORT=str(port))

    async def look() -> float:
        async with connect_native(ingest, KEY) as client:
            await client.open()
            samples = await asyncio.to_thread(scrape, f"http://127.0.0.1:{port}")
            await client.end()
        return samples["speechbus_ingest_streams"]

    assert asyncio.run(look()) == 1
    assert ingest.probe("/metrics") == 404
    ingest.kill()


# --- what is accepted --------------------------------------------------------------------------


def test_a_stream_is_answered_from_ready_to_closed(system: System) -> None:
    """The shape of the whole conversation, as a client has to expect it."""
    client = asyncio.run(speak(system, [build_frames(1, 160)]))

    kinds = [message["type"] for message in client.messages]
    assert client.messages[0] == {
        "type": "ready",
        "stream_id": client.stream_id,
        "accepted_samples": 0,
    }
    assert set(kinds[1:3]) == {"stream.opened", "stream.claimed"}
    assert [(f.text, f.start_ms, f.end_ms, f.index) for f in client.finals] == [
        ("1-150", 0, 3_000, 0),
        ("151-160", 3_000, 3_200, 1),
    ]
    closed = client.closed
    assert (closed.reason, closed.audio_ms, closed.finals, closed.gap_ms) == ("end", 3_200, 2, 0)
    assert client.connection.close_code == 1000


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_audio_of_any_rate_is_transcribed_to_the_frame(system: System, rate_hz: int) -> None:
    """The rate is the client's; nobody on the way resamples or rounds."""
    pcm = build_frames(1, 333, sample_rate_hz=rate_hz)

    client = asyncio.run(speak(system, cut_evenly(pcm, 7_000), sample_rate_hz=rate_hz))

    assert check_tiling(client.finals, 333) == EXACT
    assert client.closed.audio_ms == 6_660


def test_the_size_of_messages_changes_nothing(system: System) -> None:
    """Clients cut where their libraries do, also inside a sample; the transcript is the same."""
    pcm = build_frames(1, 420)
    dice = random.Random(20)
    anywhere: list[bytes] = []
    at = 0
    while at < len(pcm):
        size = dice.randrange(1, 9_999)
        anywhere.append(pcm[at : at + size])
        at += size
    cuts = [
        *[cut_evenly(pcm, ms * 32) for ms in (20, 100, 320, 1_000)],
        cut_evenly(pcm, 333),
        anywhere,
    ]

    async def run() -> list[NativeClient]:
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(speak(system, cut)) for cut in cuts]
        return [client.result() for client in clients]

    heard = [
        [(final.index, final.text, final.start_ms, final.end_ms) for final in client.finals]
        for client in asyncio.run(run())
    ]

    assert heard == [
        [
            (0, "1-150", 0, 3_000),
            (1, "151-300", 3_000, 6_000),
            (2, "301-420", 6_000, 8_400),
        ]
    ] * len(cuts)


def test_half_a_sample_at_the_end_costs_nothing_but_itself(system: System) -> None:
    """A client that ends inside a sample loses that half sample only."""
    client = asyncio.run(speak(system, [build_frames(1, 40), b"", b"\x01"]))

    assert check_tiling(client.finals, 40) == EXACT
    assert (client.closed.reason, client.closed.audio_ms) == ("end", 800)


def test_the_language_changes_to_the_sample_and_its_client_is_told(system: System) -> None:
    """Half a sample that waits belongs to what comes behind."""
    pcm = build_frames(1, 50)
    cut = 20 * FRAME_BYTES + 1

    async def run() -> NativeClient:
        async with connect_native(system.ingest, KEY) as client:
            await client.open(language="en", providers=["echo"])
            await client.send(pcm[:cut])
            await client.say({"type": "configure", "language": "ja"})
            await client.hear_until("stream.reconfigured")
            await client.send(pcm[cut:])
            await client.say({"type": "configure", "language": None})
            await client.end()
            return client

    client = asyncio.run(run())

    assert [(final.text, final.language) for final in client.finals] == [
        ("1-20", "en"),
        ("21-50", "ja"),
    ]
    assert [
        (event.at_sample, event.at_ms, event.language)
        for event in client.events
        if isinstance(event, StreamReconfigured)
    ] == [(6_400, 400, "ja"), (16_000, 1_000, None)]
    assert client.closed.audio_ms == 1_000


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "configure"}, "message.invalid"),
        ({"type": "configure", "language": 7}, "message.invalid"),
        ({"type": "configure", "language": "en US"}, "message.language"),
        ({"type": "configure", "language": ""}, "message.language"),
    ],
)
def test_what_cannot_be_a_language_is_an_error_and_costs_nothing_said_before(
    system: System, message: object, code: str
) -> None:
    """The client is told what is wrong; what it sent is transcribed."""

    async def run() -> tuple[str, int | None, list[str]]:
        async with watch_bus(system) as log, connect_native(system.ingest, KEY) as client:
            await client.open(providers=["echo"])
            await client.send(build_frames(1, 30))
            await client.say(message)
            error, close = await client.answer()
            await closed_of(log, client.stream_id)
            return error, close, [final.text for final in finals_of(log.events[client.stream_id])]

    assert asyncio.run(run()) == (code, 1008, ["1-30"])


def test_a_flush_gives_a_final_at_once_and_the_stream_goes_on(system: System) -> None:
    """Voice agents flush at the end of a turn; half a sample that waits is not lost by it."""
    pcm = build_frames(1, 50)
    cut = 20 * FRAME_BYTES + 1

    async def run() -> NativeClient:
        async with connect_native(system.ingest, KEY) as client:
            await client.open()
            await client.send(pcm[:cut])
            await client.say({"type": "flush"})
            final = await client.hear_until("segment.final")
            assert final["text"] == "1-20"
            await client.hear_until("stream.flushed")
            await client.send(pcm[cut:])
            await client.end()
            return client

    client = asyncio.run(run())

    assert [final.text for final in client.finals] == ["1-20", "21-50"]
    assert client.closed.audio_ms == 1_000


@pytest.mark.parametrize("pieces", [[], [b""], [b"\x01"]])
def test_a_stream_without_audio_closes_as_any_other(system: System, pieces: list[bytes]) -> None:
    """A microphone that was never opened must not leave a stream behind."""
    client = asyncio.run(speak(system, pieces))

    closed = client.closed
    assert client.finals == []
    assert (closed.reason, closed.audio_ms, closed.finals, closed.gap_ms) == ("end", 0, 0, 0)


def test_fields_that_the_door_does_not_know_are_ignored(system: System) -> None:
    """A newer client talks to an older server."""
    client = asyncio.run(speak(system, [build_frames(1, 5)], mood="good", extra={"a": [1]}))

    assert [final.text for final in client.finals] == ["1-5"]


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        ("", "hello.invalid_json"),
        ("{", "hello.invalid_json"),
        ('{"type":"hello","more":' + "[" * 50_000, "hello.invalid_json"),
        ("[]", "hello.invalid"),
        ("null", "hello.invalid"),
        ({"type": "hello"}, "hello.invalid"),
        ({"type": "end"}, "hello.invalid"),
        ({"format": "pcm_s16le", "sample_rate_hz": 16_000}, "hello.invalid"),
        ({**HELLO, "type": 1}, "hello.invalid"),
        ({**HELLO, "sample_rate_hz": "16000"}, "hello.invalid"),
        ({**HELLO, "sample_rate_hz": 16_000.5}, "hello.invalid"),
        ({**HELLO, "sample_rate_hz": None}, "hello.sample_rate"),
        ({**HELLO, "language": 7}, "hello.invalid"),
        ({**HELLO, "providers": "echo"}, "hello.invalid"),
        ({**HELLO, "target_languages": ["de"] * 17}, "hello.invalid"),
        ({**HELLO, "format": "wma"}, "hello.unknown_format"),
        ({**HELLO, "format": ""}, "hello.unknown_format"),
        ({**HELLO, "sample_rate_hz": 7_999}, "hello.sample_rate"),
        ({**HELLO, "sample_rate_hz": 48_001}, "hello.sample_rate"),
        ({**HELLO, "sample_rate_hz": -16_000}, "hello.sample_rate"),
        ({**HELLO, "language": ""}, "hello.token"),
        ({**HELLO, "language": "e n"}, "hello.token"),
        ({**HELLO, "language": "en.>"}, "hello.token"),
        ({**HELLO, "language": "é"}, "hello.token"),
        ({**HELLO, "target_languages": ["de", "*"]}, "hello.token"),
        ({**HELLO, "providers": ["x" * 65]}, "hello.token"),
        (build_frames(1, 1), "hello.invalid"),
        (b"", "hello.invalid"),
    ],
)
def test_a_wrong_hello_is_refused_with_its_reason(system: System, hello: object, code: str) -> None:
    """The first thing a new client gets wrong; the answer has to say what."""

    async def run() -> tuple[str, int | None]:
        async with connect_native(system.ingest, KEY) as client:
            if isinstance(hello, bytes):
                await client.send(hello)
            else:
                await client.say(hello)
            return await client.answer()

    assert asyncio.run(run()) == (code, 1008)


@pytest.mark.parametrize(
    "text", ["", "hello", "[]", '{"type":"stop"}', '{"type":7}', "{}", "[" * 50_000]
)
def test_a_text_that_is_no_control_message_ends_the_stream(system: System, text: str) -> None:
    """A misspelt `end` would otherwise keep a stream open; what was said before it is kept."""

    async def run() -> tuple[tuple[str, int | None], StreamClosed, list[SegmentFinal]]:
        async with watch_bus(system) as log, connect_native(system.ingest, KEY) as client:
            await client.open()
            await client.send(build_frames(1, 30))
            await client.say(text)
            answer = await client.answer()
            closed = await closed_of(log, client.stream_id)
            return answer, closed, finals_of(log.events[client.stream_id])

    answer, closed, finals = asyncio.run(run())

    assert answer == ("message.invalid", 1008)
    assert (closed.reason, closed.audio_ms) == ("client_gone", 600)
    assert check_tiling(finals, 30) == EXACT


@pytest.mark.parametrize("late", [build_frames(1, 1), '{"type":"flush"}', '{"type":"end"}'])
def test_nothing_may_follow_the_end(system: System, late: bytes | str) -> None:
    """Audio behind the end marker would be accepted and never transcribed: it is refused."""

    async def run() -> tuple[tuple[str, int | None], StreamClosed]:
        async with watch_bus(system) as log, connect_native(system.ingest, KEY) as client:
            await client.open()
            await client.send(build_frames(1, 10))
            system.transcribers[0].freeze()  # else the stream may be closed before the mistake
            try:
                await client.say({"type": "end"})
                await client.connection.send(late)
                answer = await client.answer()
            finally:
                system.transcribers[0].thaw()
            return answer, await closed_of(log, client.stream_id)

    answer, closed = asyncio.run(run())

    assert answer == ("message.invalid", 1008)
    assert (closed.reason, closed.audio_ms) == ("end", 200)


def test_a_message_of_five_megabytes_is_too_big(system: System) -> None:
    """One message cannot make ingest hold what it likes; the audio before it is transcribed."""

    async def run() -> tuple[int | None, StreamClosed]:
        async with watch_bus(system) as log, connect_native(system.ingest, KEY) as client:
            await client.open()
            await client.send(build_frames(1, 10))
            with suppress(websockets.ConnectionClosed):  # noticed while sending
                await client.send(bytes(5_000_000))
            _, code = await client.answer()
            return code, await closed_of(log, client.stream_id)

    code, closed = asyncio.run(run())

    assert code == 1009
    assert (closed.reason, closed.audio_ms) == ("client_gone", 200)


# --- who goes without a word -------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["reset", "fin", "close"])
def test_what_a_vanished_client_said_is_transcribed(system: System, manner: str) -> None:
    """A phone in a tunnel says no goodbye; its stream ends and its finals are stored."""

    async def run() -> tuple[StreamClosed, list[SegmentFinal]]:
        async with watch_bus(system) as log:
            async with connect_native(system.ingest, KEY) as client:
                await client.open()
                for piece in cut_evenly(build_frames(1, 170), 3_200):
                    await client.send(piece)
                await client.hear_until("segment.partial")
                if manner != "close":
                    client.cut(is_reset=manner == "reset")
            closed = await closed_of(log, client.stream_id)
            return closed, finals_of(log.events[client.stream_id])

    closed, finals = asyncio.run(run())

    assert closed.reason == "client_gone"
    if manner != "reset":  # a reset may overtake audio that ingest has not read yet
        assert closed.audio_ms == 3_400
        assert check_tiling(finals, 170) == EXACT
    assert finals[-1].end_ms == closed.audio_ms


def test_a_stream_that_no_provider_takes_is_told_what_to_look_at(system: System) -> None:
    """Client and operator, each in their place."""

    async def run() -> NativeClient:
        async with connect_native(system.ingest, KEY) as client:
            await client.open(providers=["nobody"])
            await client.hear_rest()
            return client

    client = asyncio.run(run())

    assert client.closed.reason == "no_provider"
    assert client.connection.close_code == 1000
    assert "'providers'" in (client.connection.close_reason or "")
    (transcriber,) = system.transcribers
    (line,) = [
        line for line in transcriber.log_path.read_text().splitlines() if "no provider here" in line
    ]
    assert msgspec.json.decode(line)["wanted"] == ["nobody"]


def test_who_leaves_during_the_handshake_leaves_nothing(system: System) -> None:
    """Port scanners and closed browser tabs: no stream, no error of ours."""

    async def run() -> None:
        for is_reset in (False, True):
            async with connect_native(system.ingest, KEY) as client:
                client.cut(is_reset=is_reset)
            async with connect_native(system.ingest, KEY) as client:
                await client.say(HELLO)
                client.cut(is_reset=is_reset)
            reader, writer = await asyncio.open_connection("127.0.0.1", system.ingest.port)
            del reader
            writer.write(b"GET /v1/streams HTTP/1.1\r\nUpgrade: webso")
            writer.transport.abort()

    asyncio.run(run())


def test_a_client_that_never_reads_costs_bounded_memory(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its events wait in a bounded queue; its audio is transcribed all the same."""
    n_flushes = 100  # ten a second: that is the bound of what a client can cause
    before = psutil.Process(system.ingest.pid).memory_info().rss

    async def run() -> list[SegmentFinal]:
        narrow = socket.socket()
        # Little room for events on their way, so that they pile up in ingest early.
        narrow.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        narrow.connect(("127.0.0.1", system.ingest.port))
        narrow.setblocking(False)  # noqa: FBT003 - the name says it
        async with (
            watch_bus(system) as log,
            connect_native(system.ingest, KEY, sock=narrow, is_reading=False) as client,
        ):
            await client.open(sample_rate_hz=8_000)
            for frame in range(1, n_flushes + 1):
                await client.send(build_frames(frame, 1, sample_rate_hz=8_000))
                await client.say({"type": "flush"})
            await client.say({"type": "end"})
            await closed_of(log, client.stream_id)
            client.cut(is_reset=True)
            return finals_of(log.events[client.stream_id])

    finals = asyncio.run(run())
    growth = psutil.Process(system.ingest.pid).memory_info().rss - before

    with capsys.disabled():
        sys.stdout.write(
            f"\na client that never reads {2 * n_flushes} events: {growth >> 10} kB of ingest\n"
        )
    assert check_tiling(finals, n_flushes) == EXACT
    assert growth < 16 << 20


# --- who may come in ---------------------------------------------------------------------------


async def refusal(ingest: Service, key: str, token: str | None = None) -> tuple[int, str, str]:
    """Return status, content type and code of an upgrade that is refused."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect_native(ingest, key, token=token):
            pass
    response = refused.value.response
    body = msgspec.json.decode(response.body or b"", type=dict[str, Any])
    assert body["type"] == "error"
    assert body["message"]
    return response.status_code, response.headers["content-type"], body["code"]


@pytest.mark.parametrize(("key", "token"), [("", None), ("wrong", None), ("", "wrong"), ("", "")])
def test_a_client_without_a_good_key_is_refused_before_the_upgrade(
    system: System, key: str, token: str | None
) -> None:
    """401 is what every HTTP library understands; the body tells people what to do."""
    status, content_type, code = asyncio.run(refusal(system.ingest, key, token))

    assert (status, content_type, code) == (401, "application/json", "unauthorized")


def test_a_key_may_be_in_the_address(system: System) -> None:
    """Browsers cannot set headers on a WebSocket."""

    async def run() -> str:
        async with connect_native(system.ingest, "", token=KEY) as client:
            await client.open()
            await client.end()
            return client.closed.reason

    assert asyncio.run(run()) == "end"


def test_limits_of_a_key_are_told_and_end_with_its_streams(system: System) -> None:
    """One tenant cannot take the house; 429 tells its client to come back."""
    ingest = system.add_service("ingest", STREAMS_PER_KEY_MAX="2")

    async def run() -> tuple[int, str]:
        async with connect_native(ingest, KEY) as first, connect_native(ingest, KEY) as second:
            await first.open()
            await second.open()
            status, _, code = await refusal(ingest, KEY)
            await first.end()
            async with connect_native(ingest, KEY) as third:
                await third.open()
                await third.end()
            return status, code

    assert asyncio.run(run()) == (429, "too_many_streams")
    assert ingest.stop() == 0


@pytest.mark.parametrize(
    ("settings", "reason"), [({"IDLE_S": "1"}, "idle"), ({"DURATION_S": "1"}, "limit")]
)
def test_a_stream_that_is_idle_or_too_long_is_ended_and_told(
    system: System, settings: dict[str, str], reason: str
) -> None:
    """A client that forgot its stream holds no worker for ever; its last finals come to it."""
    ingest = system.add_service("ingest", **settings)

    async def run() -> tuple[NativeClient, tuple[str, int | None]]:
        async with connect_native(ingest, KEY) as client:
            await client.open()
            await client.send(build_frames(1, 10))
            return client, await client.answer()

    client, answer = asyncio.run(run())

    assert answer == (reason, 1008)
    assert (client.closed.reason, client.closed.audio_ms) == (reason, 200)
    assert check_tiling(client.finals, 10) == EXACT
    assert ingest.stop() == 0


# --- many of them ------------------------------------------------------------------------------


def test_streams_that_are_over_leave_nothing_behind(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that lives for months: places, descriptors and memory come back.

    The limit of streams is below their number, so that a place not given back would be missed.
    """
    ingest = system.add_service("ingest", STREAMS_MAX="60", STREAMS_PER_KEY_MAX="60")
    processes = [psutil.Process(ingest.pid), psutil.Process(system.transcribers[0].pid)]

    async def one(number: int) -> None:
        async with connect_native(ingest, KEY) as client:
            await client.open()
            await client.send(build_frames(1, 10))
            match number % 3:
                case 0:
                    await client.end()
                case 1:
                    await client.say("mistake")
                    await client.hear_rest()
                case _:
                    client.cut(is_reset=True)

    async def many(count: int) -> None:
        async with watch_bus(system) as log:
            for first in range(0, count, 50):
                async with asyncio.TaskGroup() as clients:
                    for number in range(first, first + 50):
                        clients.create_task(one(number))
                await _wait_for_closed(log, first + 50)

    asyncio.run(many(100))
    before = [(process.memory_info().rss, process.num_fds()) for process in processes]
    asyncio.run(many(300))
    after = [(process.memory_info().rss, process.num_fds()) for process in processes]

    growths = [now[0] - then[0] for now, then in zip(after, before, strict=True)]
    with capsys.disabled():
        sys.stdout.write(f"\n300 streams over: {[growth >> 10 for growth in growths]} kB stay\n")
    assert [now[1] for now in after] == [then[1] for then in before]
    assert max(growths) < 6 << 20
    assert ingest.stop() == 0


async def _wait_for_closed(log: BusLog, n_streams: int) -> None:
    await wait_until(
        lambda: n_streams == sum(isinstance(e[-1], StreamClosed) for e in log.events.values())
    )


def test_no_mistake_of_a_client_is_an_error_of_ours(system: System) -> None:
    """After all of the above: nobody is paged for it, and no key has got into a log."""
    for service in system.services:
        text = service.log_path.read_text()
        lines = [msgspec.json.decode(line, type=dict[str, Any]) for line in text.splitlines()]

        assert [line for line in lines if line["level"] in {"ERROR", "CRITICAL"}] == []
        assert KEY not in text
