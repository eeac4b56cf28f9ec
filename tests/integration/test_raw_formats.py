"""Raw formats through the whole system: numbered frames come out as they went in."""

import asyncio
import json
from array import array
from collections.abc import Callable, Iterator
from typing import Final

import pytest
import websockets

from speechbus_contracts import AnyEvent, SegmentFinal, StreamClosed, StreamOpened
from tests.support.frame_client import collect
from tests.support.frame_numbers import Tiling, build_frames, check_tiling
from tests.support.palabra import Door
from tests.support.system import System

pytestmark = pytest.mark.nats

N_FRAMES: Final = 200
PCM: Final = array("h", build_frames(1, N_FRAMES))
EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)


def spell(code: str, scale: Callable[[int], float | int], *, is_swapped: bool = False) -> bytes:
    """The numbered frames in another spelling."""
    samples = array(code, map(scale, PCM))
    if is_swapped:
        samples.byteswap()
    return samples.tobytes()


SPELLINGS: Final = {
    "pcm_f32le": spell("f", lambda sample: sample / 32_768),
    "pcm_f32be": spell("f", lambda sample: sample / 32_768, is_swapped=True),
    "pcm_s32le": spell("i", lambda sample: sample << 16),
    "pcm_s32be": spell("i", lambda sample: sample << 16, is_swapped=True),
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("formats")) as running:
        yield running


def stream(system: System, audio: bytes, **hello: object) -> list[AnyEvent]:
    """Send audio in odd pieces through the native door; return the events."""

    async def run() -> list[AnyEvent]:
        url = f"{system.ingest.url.replace('http', 'ws', 1)}/v1/streams?token={system.key}"
        async with websockets.connect(url) as socket:
            greeting = {"type": "hello", "sample_rate_hz": 16_000, "providers": ["echo"], **hello}
            await socket.send(json.dumps(greeting))
            for at in range(0, len(audio), 10_001):
                await socket.send(audio[at : at + 10_001])
            await socket.send('{"type":"end"}')
            events = [collect(str(message)) async for message in socket]
        return [event for event in events if event is not None]

    return asyncio.run(run())


@pytest.mark.parametrize("encoding", sorted(SPELLINGS))
def test_every_sample_of_a_raw_format_arrives_at_its_time(system: System, encoding: str) -> None:
    """Whatever the client's sound library gives."""
    events = stream(system, SPELLINGS[encoding], format=encoding)
    finals = [event for event in events if isinstance(event, SegmentFinal)]

    assert check_tiling(finals, N_FRAMES) == EXACT
    closed = events[-1]
    assert isinstance(closed, StreamClosed)
    assert closed.audio_ms == N_FRAMES * 20


def test_case_23_a_stereo_stream_is_one_stream(system: System) -> None:
    """Both channels have the same numbers here, so their mean has them, too."""
    stereo = array("h", [sample for sample in PCM for _ in range(2)]).tobytes()
    events = stream(system, stereo, format="pcm_s16le", channels=2)
    finals = [event for event in events if isinstance(event, SegmentFinal)]

    assert check_tiling(finals, N_FRAMES) == EXACT


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_telephone_audio_is_taken_as_it_is(system: System, encoding: str) -> None:
    """8 kHz, one byte a sample; the length tells that none was lost."""
    events = stream(system, bytes(range(256)) * 125, format=encoding, sample_rate_hz=8_000)
    closed = events[-1]

    assert isinstance(closed, StreamClosed)
    assert closed.audio_ms == 4_000


def test_wishes_about_the_text_reach_the_stream(system: System) -> None:
    """Providers that know fillers or keywords read them there."""
    events = stream(
        system, b"", format="pcm_s16le", filler_filter=False, keywords=["Speechbus", "会議"]
    )
    opened = events[0]

    assert isinstance(opened, StreamOpened)
    assert (opened.has_filler_filter, opened.keywords) == (False, ("Speechbus", "会議"))


def test_palabras_raw_formats_are_taken_at_its_door(system: System) -> None:
    """With the rate that its clients must name."""

    async def run() -> str:
        door = Door(system.ingest)
        query = {"format": "pcm_f32be", "sample_rate": "16000"}
        async with door.connect(system.key, **query) as client:
            await client.send(SPELLINGS["pcm_f32be"])
            await client.say({"message_type": "finalize"})
            heard = await client.hear_until("151-200<fin>")
        return " ".join(m["segment"]["text"] for m in heard if m["is_eos"])

    assert asyncio.run(run()) == "1-150 151-200<fin>"
