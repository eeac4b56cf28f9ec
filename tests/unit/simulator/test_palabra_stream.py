"""The simulated Palabra, message by message: the pure part."""

import struct
from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_simulator.actions import Close
from speechbus_wire import palabra as wire
from tests.support.frame_numbers import build_frames
from tests.support.simulated_sessions import RATE_HZ, PalabraClient


def test_echo_tells_the_frames_and_when_they_were() -> None:
    """Partials every half second, a final every three, the rest at a finalize."""
    client = PalabraClient()
    client.speak(1, 175)
    client.finalize()

    assert client.finals == ["1-150", "151-175<fin>"]
    partials = [m for m in client.messages if isinstance(m, wire.Transcription) and not m.is_eos]
    said = [f"1-{last}" for last in range(25, 150, 25)]
    assert [p.segment.text for p in partials] == [*said, "151-175"]
    last = client.messages[-1]
    assert (last.segment.start_time, last.segment.end_time) == (3.0, 3.5)
    client.finalize()
    assert client.messages[-1].segment.text == "<fin>"


def test_silence_between_the_numbers_takes_time_and_no_text() -> None:
    """Clients send it to keep the session."""
    client = PalabraClient()
    client.speak(1, 50)
    client.stream.receive(bytes(10_240), now_s=client.now_s + 0.32)
    client.now_s += 0.32
    client.speak(51, 50)
    client.finalize()

    assert client.finals == ["1-100<fin>"]
    assert client.messages[-1].segment.end_time == 2.32


@given(cuts=st.lists(st.integers(0, 22_400), max_size=10))
def test_case_22_audio_cut_elsewhere_says_the_same(cuts: list[int]) -> None:
    """Also in the middle of a sample."""
    pcm = build_frames(1, 35)
    said: list[list[wire.ServerMessage]] = []
    for borders in ([0, len(pcm)], sorted({0, *cuts, len(pcm)})):
        client = PalabraClient("is_real_time = false\nsegment_ms = 300\npartial_ms = 100")
        for low, high in pairwise(borders):
            client.stream.receive(pcm[low:high], now_s=client.now_s)
        client.wait(0)
        said.append(client.messages)

    assert said[0] == said[1]


def test_planned_texts_are_said_in_turn() -> None:
    """Word by word, then whole."""
    client = PalabraClient('mode = "text"\ntexts = [{text = "good morning", ms = 1000}]')
    client.speak(1, 100)

    assert [m.segment.text for m in client.messages] == ["good", "good morning"] * 2


def test_case_14_a_session_without_audio_is_closed() -> None:
    """After ten seconds, with 1001."""
    client = PalabraClient()
    client.speak(1, 5)
    client.wait(9.8)
    assert client.actions == []
    client.wait(0.2)
    assert client.actions == [Close(1001)]


def test_answers_take_as_long_as_the_script_says() -> None:
    """Latency is what most timeouts are about."""
    client = PalabraClient("latency_ms = 700")
    client.speak(1, 25)
    client.wait(0.5)
    assert client.messages == []
    client.wait(0.2)
    assert [m.segment.text for m in client.messages] == ["1-25"]


@pytest.mark.parametrize(
    ("encoding", "spelling"),
    [("pcm_f32le", "<f"), ("pcm_f32be", ">f"), ("pcm_s32le", "<i"), ("pcm_s32be", ">i")],
)
def test_every_lossless_format_is_heard(encoding: str, spelling: str) -> None:
    """As exactly as whole numbers of 16 bit."""
    pcm = array("h", build_frames(1, 100))
    scaled = [sample / 32_768 if spelling[1] == "f" else sample << 16 for sample in pcm]
    client = PalabraClient("is_real_time = false", audio_format=encoding)
    audio = struct.pack(f"{spelling[0]}{len(pcm)}{spelling[1]}", *scaled)
    client.stream.receive(audio, now_s=client.now_s)
    client.finalize()

    assert client.finals == ["1-100<fin>"]


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_telephone_audio_takes_its_time(encoding: str) -> None:
    """One byte a sample."""
    client = PalabraClient(
        'mode = "text"\ntexts = [{text = "hello", ms = 500}]', audio_format=encoding
    )
    client.stream.receive(bytes(RATE_HZ // 2), now_s=client.now_s)
    client.wait(0)

    assert client.finals == ["hello"]


def test_deltas_add_up_to_the_text() -> None:
    """Word by word, each with its own time; the filler filter changes nothing without a fault."""
    script = 'mode = "text"\ntexts = [{text = "good morning all", ms = 1500}]'
    for has_filler_filter in (True, False):
        client = PalabraClient(script, has_filler_filter=has_filler_filter)
        client.speak(1, 75)
        spoken = [m for m in client.messages if isinstance(m, wire.Transcription)]
        assert [m.delta for m in spoken] == [
            wire.Span(text="good", start_time=0.0, end_time=0.5),
            wire.Span(text=" morning", start_time=0.5, end_time=1.0),
            wire.Span(text=" all", start_time=1.0, end_time=1.5),
        ]
        assert spoken[-1].segment.text == "good morning all"


def test_numbers_are_not_appended_to() -> None:
    """Without the filler filter nothing is taken back, so echo mode has finals only."""
    client = PalabraClient(has_filler_filter=False)
    client.speak(1, 150)

    (final,) = client.messages
    assert isinstance(final, wire.Transcription)
    assert (final.segment.text, final.delta) == ("1-150", final.segment)


def test_case_09_times_begin_at_zero_in_every_session() -> None:
    """And ids of one are unknown in the next."""
    sessions = [PalabraClient("segment_ms = 1000", session=n) for n in (1, 2)]
    for client in sessions:
        client.speak(1, 50)

    first, second = (client.messages[-1] for client in sessions)
    assert first.segment == second.segment
    assert first.segment.start_time == 0.0
    assert first.transcription_id != second.transcription_id
