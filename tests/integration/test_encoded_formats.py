"""WAV and containers through the whole system, at both doors."""

import asyncio
import os
import signal
from array import array
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import psutil
import pytest

from speechbus_contracts import StreamClosed, StreamFlushed, StreamOpened
from speechbus_ingest.formats.names import CONTAINERS, Container
from tests.support.bus_log import wait_until
from tests.support.encoded import SAMPLE_RATES_HZ, build_tone, build_wav, encode
from tests.support.frame_numbers import Tiling, build_frames, check_tiling
from tests.support.native_client import (
    PATIENCE_S,
    NativeClient,
    closed_of,
    connect_native,
    watch_bus,
)
from tests.support.palabra import KEYS, Door
from tests.support.system import System

pytestmark = pytest.mark.nats

KEY: Final = "key-of-acme"
N_FRAMES: Final = 200
EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
HELLO: Final = {"sample_rate_hz": None, "providers": ["echo"]}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {"API_KEYS": KEYS, "DECODERS_MAX": "9"}
    with System(tmp_path_factory.mktemp("encoded"), ingest_settings=settings) as running:
        yield running


@cache
def numbered(audio_format: str) -> bytes:
    """The numbered frames, in a lossless format."""
    pcm = build_frames(1, N_FRAMES)
    if audio_format == "flac":
        return encode("flac", pcm, sample_rate_hz=16_000)
    return build_wav(pcm, sample_rate_hz=16_000)


@cache
def record(container: Container) -> bytes:
    """3 s of sound."""
    rate = SAMPLE_RATES_HZ[container]
    return encode(container, build_tone(rate, 3.0), sample_rate_hz=rate)


async def send(client: NativeClient, data: bytes, *, piece_bytes: int = 1_001) -> None:
    for at in range(0, len(data), piece_bytes):
        await client.send(data[at : at + piece_bytes])


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_every_sample_of_a_lossless_format_arrives_at_its_time(
    system: System, audio_format: str
) -> None:
    """However the client's messages cut it."""

    async def run() -> NativeClient:
        async with connect_native(system.ingest, KEY) as client:
            await client.open(format=audio_format, **HELLO)
            await send(client, numbered(audio_format))
            await client.end()
        return client

    client = asyncio.run(run())
    assert check_tiling(client.finals, N_FRAMES) == EXACT
    assert (client.closed.reason, client.closed.audio_ms) == ("end", N_FRAMES * 20)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_container_is_carried_at_its_own_rate(system: System, container: Container) -> None:
    """The stream begins with its first samples, so that it knows the rate."""

    async def run() -> NativeClient:
        async with connect_native(system.ingest, KEY) as client:
            await client.open(format=container, **HELLO)
            await send(client, record(container))
            await client.end()
        return client

    client = asyncio.run(run())
    opened = client.events[0]
    assert isinstance(opened, StreamOpened)
    assert opened.sample_rate_hz == SAMPLE_RATES_HZ[container]
    assert client.closed.reason == "end"
    assert 3_000 <= client.closed.audio_ms <= 3_060


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_a_broken_recording_ends_in_one_clear_error(system: System, audio_format: str) -> None:
    """What came before the break is transcribed, and its finals come before the goodbye."""
    data = numbered(audio_format)[:-50]

    async def run() -> NativeClient:
        async with connect_native(system.ingest, KEY) as client:
            await client.open(format=audio_format, **HELLO)
            await send(client, data)
            await client.end()
        return client

    client = asyncio.run(run())
    errors = [message for message in client.messages if message["type"] == "error"]
    assert [error["code"] for error in errors] == ["audio.undecodable"]
    assert errors[0]["message"].startswith("The audio cannot be decoded: it ")
    assert client.connection.close_code == 1008
    assert client.closed.reason == "undecodable"
    tiling = check_tiling(client.finals, N_FRAMES)
    assert tiling.missing < 30
    assert (tiling.doubled, tiling.time_error_ms_max <= 20) == (0, True)


def test_what_is_no_audio_is_told_and_the_stream_closed(system: System) -> None:
    """While the client goes on sending: nothing of it is kept."""

    async def run() -> NativeClient:
        async with connect_native(system.ingest, KEY) as client:
            await client.open(format="webm", **HELLO)
            await client.send(b"<html>" * 1_000)
            await client.hear_rest()
        return client

    client = asyncio.run(run())
    kinds = [message["type"] for message in client.messages]
    assert [kind for kind in kinds if kind != "stream.claimed"] == [
        "ready",
        "error",
        "stream.opened",
        "stream.closed",
    ]
    assert (client.closed.reason, client.closed.audio_ms) == ("undecodable", 0)


def test_a_flush_means_all_that_was_sent(system: System) -> None:
    """Also when it comes before the decoder has read the bytes before it, or before any audio."""

    async def run() -> NativeClient:
        async with connect_native(system.ingest, KEY) as client:
            await client.open(format="wav", **HELLO)
            await client.say({"type": "flush"})
            data = numbered("wav")
            half = len(data) // 2
            await client.send(data[:half])
            await client.say({"type": "flush"})
            await client.hear_until("stream.flushed")
            await client.hear_until("stream.flushed")
            await client.send(data[half:])
            await client.end()
        return client

    client = asyncio.run(run())
    flushed = [event.at_ms for event in client.events if isinstance(event, StreamFlushed)]
    assert flushed == [0, N_FRAMES * 10 - 1]  # half of what is behind the header
    assert check_tiling(client.finals, N_FRAMES).missing == 0


@pytest.mark.parametrize("audio_format", ["pcm_s16le", "flac"])
def test_case_23_each_channel_becomes_a_stream_of_its_own(
    system: System, audio_format: str
) -> None:
    """With ids that belong together, times on one clock, and its channel in every segment."""
    left, right = (array("h", build_frames(first, 100)) for first in (1, 101))
    pcm = array("h", [sample for frame in zip(left, right, strict=True) for sample in frame])
    data = pcm.tobytes()
    if audio_format == "flac":
        data = encode("flac", data, sample_rate_hz=16_000, channels=2)

    async def run() -> NativeClient:
        async with connect_native(system.ingest, KEY) as client:
            await client.open(
                format=audio_format,
                sample_rate_hz=16_000,
                channels=2,
                split_channels=True,
                providers=["echo"],
            )
            await send(client, data)
            await client.end()
        return client

    client = asyncio.run(run())
    ids = [f"{client.stream_id}-ch0", f"{client.stream_id}-ch1"]
    said = {(final.stream_id, final.channel, final.end_ms, final.text) for final in client.finals}
    closed = [event for event in client.events if isinstance(event, StreamClosed)]
    assert client.messages[0]["stream_ids"] == ids
    assert said == {(ids[0], 0, 2_000, "1-100"), (ids[1], 1, 2_000, "101-200")}
    assert [(event.reason, event.audio_ms) for event in closed] == [("end", 2_000)] * 2
    assert client.connection.close_code == 1000


def test_another_number_of_channels_than_was_said_is_told(system: System) -> None:
    """Which speaker is on which channel is then anybody's guess."""

    async def run() -> tuple[NativeClient, str, int | None]:
        async with connect_native(system.ingest, KEY) as client:
            await client.open(format="wav", channels=2, split_channels=True, **HELLO)
            await client.send(numbered("wav"))
            return client, *await client.answer()

    client, code, close_code = asyncio.run(run())
    assert (code, close_code) == ("audio.undecodable", 1008)
    assert len([event for event in client.events if isinstance(event, StreamClosed)]) == 2


def test_palabras_containers_are_taken_at_its_door(system: System) -> None:
    """With `finalize`, and with Palabra's silence about what went wrong."""

    async def run() -> tuple[str, int | None]:
        door = Door(system.ingest)
        async with door.connect(KEY, format="flac") as client:
            await client.send(numbered("flac"))
            await client.say({"message_type": "finalize"})
            heard = [await client.hear()]
            while not heard[-1]["segment"]["text"].endswith("<fin>"):
                heard.append(await client.hear())
        async with door.connect(KEY, format="webm") as client:
            await client.send(b"<html>" * 1_000)
            code = await client.close_code()
        return " ".join(m["segment"]["text"] for m in heard if m["is_eos"]), code

    text, code = asyncio.run(run())
    assert text.startswith("1-150 ")
    assert code == 1008


def test_a_killed_decoder_takes_its_own_stream_only(system: System) -> None:
    """The others go on, and so does the next one."""

    async def run() -> tuple[NativeClient, NativeClient]:
        data = record("ogg")
        async with (
            connect_native(system.ingest, KEY) as doomed,
            connect_native(system.ingest, KEY) as other,
        ):
            before = decoders_of(system)
            await doomed.open(format="ogg", **HELLO)
            await wait_until(lambda: bool(decoders_of(system) - before))
            (child,) = decoders_of(system) - before
            await other.open(format="ogg", **HELLO)
            for client in (doomed, other):
                await client.send(data[:-9_000])
                await client.hear_until("stream.opened")
            os.kill(child.pid, signal.SIGKILL)
            await doomed.hear_rest()
            await other.send(data[-9_000:])
            await other.end()
        return doomed, other

    doomed, other = asyncio.run(run())
    assert doomed.closed.reason == "undecodable"
    assert doomed.closed.audio_ms > 0
    assert "the decoder did not survive it" in str(doomed.messages)
    assert (other.closed.reason, other.closed.audio_ms) == ("end", 3_000)


def decoders_of(system: System) -> set[psutil.Process]:
    """The decoders of single streams."""
    return {
        child
        for process in psutil.Process(system.ingest.pid).children()
        for child in process.children()
    }


def test_what_a_vanished_client_had_sent_is_decoded_to_its_end(system: System) -> None:
    """Its connection ends in the middle of a message's audio."""

    async def run() -> tuple[str, int]:
        async with watch_bus(system) as log:
            async with connect_native(system.ingest, KEY) as client:
                await client.open(format="webm", **HELLO)
                await client.send(record("webm")[:-100])
                client.cut(is_reset=False)
            closed = await closed_of(log, client.stream_id)
        return closed.reason, closed.audio_ms

    reason, audio_ms = asyncio.run(run())
    assert reason == "client_gone"
    assert audio_ms > 2_900


def test_decoders_come_back_and_go_with_their_ingest(tmp_path: Path) -> None:
    """Killed, they are started again; SIGTERM and SIGKILL of ingest leave none behind."""
    settings = {"DECODERS_MAX": "1"}

    async def stream(system: System) -> list[str]:
        async with connect_native(system.ingest, System.key) as client:
            await client.open(format="mp3", **HELLO)
            async with connect_native(system.ingest, System.key) as second:
                await second.say({"type": "hello", "format": "mp3"})
                code, _ = await second.answer()
            await client.send(record("mp3"))
            await client.end()
        return [code, client.closed.reason]

    with System(tmp_path, ingest_settings=settings) as system:
        ingest = psutil.Process(system.ingest.pid)
        answers = [asyncio.run(stream(system))]
        (decoders,) = ingest.children()
        decoders.kill()
        decoders.wait(PATIENCE_S)
        answers.append(asyncio.run(stream(system)))
        family = ingest.children(recursive=True)
        system.ingest.kill()
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
        system.ingest.start()
        family = psutil.Process(system.ingest.pid).children(recursive=True)
        exit_code = system.ingest.stop()

    assert answers == [["too_many_streams", "end"]] * 2
    assert alive == []
    assert exit_code == 0
    assert not any(process.is_running() for process in family)
