"""A client of the native door comes back to its stream: what it is told, and what it is refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from speechbus_cli.client import Received, StreamRequest, stream_audio
from speechbus_cli.door_messages import DoorQueued, DoorReady
from speechbus_contracts import (
    AnyEvent,
    SegmentFinal,
    StreamClosed,
    StreamReconfigured,
    WriteSubject,
    build_dedup_headers,
    encode_event,
)
from speechbus_runtime.bus import connect_bus, encode_headers
from speechbus_runtime.publisher import AckedPublisher
from tests.support.frame_numbers import Tiling, build_frames, check_tiling
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
FRAME_SAMPLES: Final = 320
RESUME_S: Final = 2.0
RESUMABLE: Final[dict[str, Any]] = {"resumable": True, "skip_silence": False}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(
        tmp_path_factory.mktemp("resuming"),
        ingests=2,
        ingest_settings={
            "API_KEYS": f"{System.tenant}:{System.key},other:other-key",
            "RESUME_S": str(RESUME_S),
        },
    ) as running:
        yield running


async def hear_accepted(client: NativeClient, n_samples: int) -> None:
    """Read until so much is stored."""
    while (await client.hear_until("accepted"))["samples"] < n_samples:
        pass


def sequence_of(client: NativeClient) -> int:
    """Return what the client says of the events that it has."""
    return max(int(message.get("sequence", 0)) for message in client.messages)


async def refuse(system: System, key: str = System.key, **hello: object) -> str:
    """Say a hello and return the code of the error."""
    async with connect_native(system.ingest, key) as client:
        await client.say(
            {"type": "hello", "format": "pcm_s16le", "sample_rate_hz": 16_000, **hello}
        )
        code, close_code = await client.answer()
        assert close_code == 1008
        return code


def test_a_stream_goes_on_with_whatever_half_a_message_was_left(system: System) -> None:
    """A cut connection leaves half a sample; ids, times and events go on as if nothing was."""

    async def run() -> tuple[NativeClient, NativeClient, list[dict[str, Any]]]:
        pcm = build_frames(1, 400)
        async with connect_native(system.ingest, system.key) as first:
            ready = await first.open(**RESUMABLE)
            assert (ready["accepted_samples"], ready["resume_within_s"]) == (0, RESUME_S)
            await first.send(pcm[: 640 * 170 + 3])
            await hear_accepted(first, 170 * FRAME_SAMPLES + 1)
            first.cut(is_reset=True)
        stream_id = first.stream_id
        async with connect_native(system.ingests[1], system.key) as second:
            resume = {"stream_id": stream_id, "samples": 1_000, "sequence": sequence_of(first)}
            ready = await second.open(resume=resume)
            assert ready["accepted_samples"] == 170 * FRAME_SAMPLES + 1
            await second.send(pcm[2 * ready["accepted_samples"] :])
            await second.end()
        # Whoever did not hear that it was over may ask once more.
        async with connect_native(system.ingest, system.key) as third:
            await third.open(resume={"stream_id": stream_id, "sequence": sequence_of(first)})
            await third.hear_rest()
        return first, second, third.messages

    first, second, again = asyncio.run(run())

    assert check_tiling([*first.finals, *second.finals], 400) == EXACT
    assert (second.closed.reason, second.closed.audio_ms) == ("end", 8_000)
    kinds = [message["type"] for message in again]
    assert kinds[0] == "ready"
    assert again[0]["accepted_samples"] == 400 * FRAME_SAMPLES
    assert kinds[-1] == "stream.closed"
    told = [message["type"] for message in second.messages if "sequence" in message]
    assert kinds[1:] == told


def test_the_newer_connection_wins_and_the_older_one_is_told(system: System) -> None:
    """A phone that changes its network comes back before anybody misses the old connection.

    Here or there, back and forth, and twice at once: one is left, and it has the whole stream.
    """
    pcm = build_frames(1, 300)
    here, there = system.ingests[:2]

    async def run() -> tuple[list[tuple[str, int | None]], set[int], NativeClient]:
        answers: list[tuple[str, int | None]] = []
        accepted: set[int] = set()
        async with AsyncExitStack() as stack:

            async def connect_to(ingest: Service) -> NativeClient:
                return await stack.enter_async_context(connect_native(ingest, system.key))

            client = await connect_to(here)
            await client.open(**RESUMABLE)
            await client.send(pcm[: 640 * 100])
            await hear_accepted(client, 100 * FRAME_SAMPLES)
            resume = {"stream_id": client.stream_id}
            for ingest in (here, there, here, there):
                newer = await connect_to(ingest)
                accepted.add((await newer.open(resume=resume))["accepted_samples"])
                answers.append(await client.answer())
                client = newer
            rivals = [await connect_to(here), await connect_to(here)]
            for rival in rivals:
                await rival.say(
                    {
                        "type": "hello",
                        "format": "pcm_s16le",
                        "sample_rate_hz": 16_000,
                        "resume": resume,
                    }
                )
            async with asyncio.TaskGroup() as tasks:
                hearing = [tasks.create_task(rival.answer()) for rival in rivals]
                done, left = await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
                answers += [task.result() for task in done]
                winner = rivals[hearing.index(left.pop())]
                for task in hearing:
                    task.cancel()
            await winner.send(pcm[640 * 100 :])
            await winner.end()
        return answers, accepted, winner

    answers, accepted, winner = asyncio.run(run())

    assert answers == [("resumed", 1008)] * 5
    assert accepted == {100 * FRAME_SAMPLES}
    assert check_tiling(winner.finals, 300) == EXACT
    assert (winner.closed.reason, winner.closed.audio_ms) == ("end", 6_000)


@pytest.mark.parametrize("at_frame", [100, 150])
def test_a_language_whose_chunk_died_with_its_ingest_is_said_again(
    system: System, at_frame: int
) -> None:
    """The event is stored before the chunk, and perhaps before the audio that lies before it."""

    async def change(stream_id: str) -> None:
        bus = await connect_bus(system.nats.url, name="dying-ingest")
        event = StreamReconfigured(
            stream_id=stream_id,
            tenant=system.tenant,
            at_sample=at_frame * FRAME_SAMPLES,
            at_ms=at_frame * 20,
            language="fr",
        )
        await AckedPublisher(bus).publish(
            str(WriteSubject(system.tenant, stream_id, "reconfigured")),
            encode_event(event),
            headers=encode_headers(build_dedup_headers(f"{stream_id}:reconfigured-x:0")),
        )
        await bus.shut_down()

    async def run() -> list[SegmentFinal]:
        pcm = build_frames(1, 300)
        async with connect_native(system.ingest, system.key) as first:
            await first.open(**RESUMABLE, language="en")
            await first.send(pcm[: 640 * 100])
            await hear_accepted(first, 100 * FRAME_SAMPLES)
            await change(first.stream_id)
            first.cut(is_reset=True)
        async with connect_native(system.ingests[1], system.key) as second:
            await second.open(resume={"stream_id": first.stream_id})
            await second.send(pcm[640 * 100 :])
            await second.end()
        return second.finals

    finals = asyncio.run(run())

    assert check_tiling(finals, 300) == EXACT
    assert all((final.end_ms <= at_frame * 20) == (final.language == "en") for final in finals)
    assert all((final.start_ms < at_frame * 20) == (final.language == "en") for final in finals)
    assert {final.language for final in finals} == {"en", "fr"}


def test_a_client_that_does_not_come_back_in_time_is_gone(system: System) -> None:
    """What it said is transcribed; later it is told to open another stream."""

    async def run() -> tuple[StreamClosed, Tiling, str]:
        async with watch_bus(system) as log:
            async with connect_native(system.ingest, system.key) as client:
                await client.open(**RESUMABLE)
                await client.send(build_frames(1, 60))
                client.cut(is_reset=False)
            closed = await closed_of(log, client.stream_id)
            tiling = check_tiling(finals_of(log.events[client.stream_id]), 60)
            return closed, tiling, await refuse(system, resume={"stream_id": client.stream_id})

    closed, tiling, code = asyncio.run(run())

    assert (closed.reason, closed.audio_ms) == ("client_gone", 1_200)
    assert tiling == EXACT
    assert code == "resume.closed"


def test_what_cannot_be_resumed_is_refused_with_its_reason(system: System) -> None:
    """And a stranger's stream looks like one that never was."""

    async def run() -> list[str]:
        async with (
            connect_native(system.ingest, system.key) as plain,
            connect_native(system.ingest, system.key) as client,
        ):
            await plain.open()
            await client.open(**RESUMABLE)
            stream = {"stream_id": client.stream_id}
            codes = [
                await refuse(system, resume={"stream_id": "01a1f813-a740-7bf3-a1c9-d27e40816cfe"}),
                await refuse(system, "other-key", resume=stream),
                await refuse(system, resume={"stream_id": plain.stream_id}),
                await refuse(system, resume=stream, sample_rate_hz=8_000),
                await refuse(system, resume=stream, format="ogg"),
                await refuse(system, resumable=True, format="wav"),
                await refuse(system, resumable=True, channels=2, split_channels=True),
                await refuse(system, resume={"stream_id": "a.b"}),
            ]
            client.cut(is_reset=True)
        async with connect_native(system.ingests[1], system.key) as elsewhere:
            await elsewhere.say(
                {
                    "type": "hello",
                    "format": "pcm_s16le",
                    "sample_rate_hz": 16_000,
                    "resume": {**stream, "samples": 91 * 16_000},
                }
            )
            codes.append((await elsewhere.answer())[0])
        return codes

    assert asyncio.run(run()) == [
        "resume.unknown",
        "resume.unknown",
        "resume.unknown",
        "resume.sample_rate",
        "hello.not_resumable",
        "hello.not_resumable",
        "hello.not_resumable",
        "hello.token",
        "resume.too_far",
    ]


def test_our_own_client_goes_on_where_an_ingest_was_stopped(system: System) -> None:
    """A rolling restart of ingest is no reason to end anything, and nobody has to notice."""

    async def run() -> tuple[StreamClosed | None, list[AnyEvent | DoorReady | DoorQueued]]:
        heard: list[AnyEvent | DoorReady | DoorQueued] = []
        has_final, is_stopped = asyncio.Event(), asyncio.Event()

        def receive(received: Received) -> None:
            if received.event is not None:
                heard.append(received.event)
            if isinstance(received.event, SegmentFinal):
                has_final.set()

        async def speak() -> AsyncIterator[bytes]:
            yield build_frames(1, 200)
            await is_stopped.wait()
            yield build_frames(201, 50)

        stopping = await asyncio.to_thread(system.add_service, "ingest")
        async with asyncio.TaskGroup() as tasks:
            streaming = tasks.create_task(
                stream_audio(
                    f"{stopping.url},{system.ingest.url}",
                    key=system.key,
                    request=StreamRequest(sample_rate_hz=16_000),
                    audio=speak(),
                    receive=receive,
                )
            )
            await has_final.wait()
            assert await asyncio.to_thread(stopping.stop) == 0
            is_stopped.set()
        return streaming.result(), heard

    closed, heard = asyncio.run(run())

    assert closed is not None
    assert (closed.reason, closed.audio_ms) == ("end", 5_000)
    finals = [event for event in heard if isinstance(event, SegmentFinal)]
    assert check_tiling(finals, 250) == EXACT
    assert sum(isinstance(event, DoorReady) for event in heard) == 2
