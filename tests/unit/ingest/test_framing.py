"""The outer structure of containers, followed as their bytes come."""

import random
from functools import cache
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.formats.framing import (
    LEADING_BYTES_MAX,
    AdtsFraming,
    Framing,
    Mp3Framing,
    OggFraming,
    WebmFraming,
)
from speechbus_ingest.formats.names import Container
from speechbus_ingest.formats.undecodable import UndecodableError
from tests.support.encoded import SAMPLE_RATES_HZ, build_tone, encode, find_borders
from tests.support.mutations import mutate

FRAMINGS: Final[dict[Container, type[Framing]]] = {
    "webm": WebmFraming,
    "mp3": Mp3Framing,
    "aac": AdtsFraming,
    "ogg": OggFraming,
}
each_framing = pytest.mark.parametrize("container", FRAMINGS)
each_of_frames = pytest.mark.parametrize("container", ["mp3", "aac"])
ID3: Final = b"ID3\x04\x00\x00\x00\x00\x01\x05" + bytes(133)


@cache
def recording(container: Container, *, is_live: bool = True) -> bytes:
    """0.3 s."""
    rate = SAMPLE_RATES_HZ[container]
    return encode(container, build_tone(rate, 0.3), sample_rate_hz=rate, is_live=is_live)


def problem_of(container: Container, data: bytes, cuts: tuple[int, ...] = ()) -> str | None:
    """What is said of a stream; None: nothing."""
    framing = FRAMINGS[container]()
    borders = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    try:
        for low, high in pairwise(borders):
            framing.feed(data[low:high])
        framing.finish()
    except UndecodableError as error:
        return error.problem
    return None


@each_framing
@given(cuts=st.lists(st.integers(0, 5_000)).map(tuple), is_live=st.booleans())
def test_whole_recordings_hold_however_they_are_cut(
    container: Container, cuts: tuple[int, ...], *, is_live: bool
) -> None:
    """Live or from a file, with tags before the first frame."""
    data = recording(container, is_live=is_live)
    before = ID3 if container in {"mp3", "aac"} else b""

    assert problem_of(container, before + data, cuts) is None


@each_framing
@given(n=st.integers(1, 400))
def test_a_recording_without_its_last_bytes_is_cut_off(container: Container, n: int) -> None:
    """Unless the cut is between two frames, which then is an end like any other."""
    data = recording(container)[:-n]
    ends = {problem_of(container, data[:-k]) for k in range(3)}

    assert ends <= {None, "truncated"}
    assert "truncated" in ends


@each_framing
def test_mutated_recordings_hold_or_are_named(container: Container) -> None:
    """Never another exception, whatever lengths say."""
    seed = random.Random(container)
    originals = [recording(container), recording(container, is_live=False)]
    problems = {
        problem_of(container, mutate(seed.choice(originals), seed), (seed.randrange(3_000),))
        for _ in range(1_000)
    }

    assert problems <= {None, "truncated", "damaged", "changed"}
    assert {None, "truncated"} <= problems


@each_of_frames
def test_behind_frames_only_tags_and_zeros_are_left_alone(container: Container) -> None:
    """Titles and lyrics have too many forms to follow; zeros are what was reserved and not used."""
    data = recording(container)

    for behind in (b"TAG" + bytes(125), b"APETAGEX" + bytes(99), b"LYRICSBEGIN?", bytes(999), ID3):
        assert problem_of(container, data + behind) is None
    for behind in (b"tag" + bytes(125), bytes(999) + data, b"\xff" + bytes(99)):
        assert problem_of(container, data + behind) == "damaged"
    footed = ID3[:5] + b"\x10" + ID3[6:] + b"3DI" + bytes(7)
    assert problem_of(container, data + footed + data) is None


@each_of_frames
def test_what_is_before_frames_is_left_alone(container: Container) -> None:
    """Who records a stream that runs already begins inside a frame."""
    data = recording(container)
    garbage = b"garbage of a stream that runs already"
    middle = len(data) // 2

    assert problem_of(container, garbage + data, (5, 50)) is None
    assert problem_of(container, garbage) is None
    assert problem_of(container, garbage + data[:-1]) == "truncated"
    assert problem_of(container, garbage + data[:middle] + garbage + data[middle:]) == "damaged"
    assert problem_of(container, b"x" * (LEADING_BYTES_MAX + 9) + data) == "damaged"


@each_of_frames
def test_a_broken_sync_word_is_damage(container: Container) -> None:
    """Of each frame, from the second on: before the first there may be anything."""
    data = recording(container)
    borders = find_borders(container, data)

    assert len(borders) > 9
    for at in borders[1:]:
        assert problem_of(container, data[:at] + b"\0" + data[at + 1 :]) == "damaged"
