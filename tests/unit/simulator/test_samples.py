"""Samples in every spelling that the vendors take."""

import math
import struct
from itertools import pairwise
from typing import Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_simulator.samples import Encoding, SampleReader

ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)
WIDE: Final = {"pcm_f32le": "<f", "pcm_f32be": ">f", "pcm_s32le": "<i", "pcm_s32be": ">i"}


@pytest.mark.parametrize("encoding", WIDE)
@given(samples=st.lists(st.integers(-32_768, 32_767), max_size=20))
def test_frame_numbers_survive_every_lossless_spelling(
    encoding: Encoding, samples: list[int]
) -> None:
    """So that echo mode is exact in them."""
    spelling = WIDE[encoding]
    scaled = [s / 32_768 if spelling[1] == "f" else s << 16 for s in samples]
    audio = struct.pack(f"{spelling[0]}{len(samples)}{spelling[1]}", *scaled)

    assert SampleReader(encoding).read(audio).tolist() == samples


@pytest.mark.parametrize(
    ("encoding", "codes", "samples"),
    [
        ("mulaw", b"\x00\x7f\x80\xff\x8f", [-32_124, 0, 32_124, 0, 16_764]),
        ("alaw", b"\x2a\x55\xaa\xd5\x80", [-32_256, -8, 32_256, 8, 5_504]),
    ],
)
def test_telephone_codes_are_those_of_g711(
    encoding: Encoding, codes: bytes, samples: list[int]
) -> None:
    """Both ends, both zeros, and one between."""
    assert SampleReader(encoding).read(codes).tolist() == samples


@pytest.mark.parametrize(
    ("value", "sample"),
    [(math.nan, 0), (math.inf, 32_767), (-math.inf, -32_768), (1.5, 32_767), (-1.0, -32_768)],
)
def test_floats_beyond_full_scale_are_as_loud_as_can_be(value: float, sample: int) -> None:
    """And what is no number is silence."""
    assert SampleReader("pcm_f32le").read(struct.pack("<f", value)).tolist() == [sample]


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(audio=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_samples_do_not_depend_on_how_the_bytes_are_cut(
    encoding: Encoding, audio: bytes, cuts: list[int]
) -> None:
    """Clients cut where they like."""
    reader = SampleReader(encoding)
    borders = sorted({0, *(min(cut, len(audio)) for cut in cuts), len(audio)})
    heard = [sample for low, high in pairwise(borders) for sample in reader.read(audio[low:high])]

    assert heard == SampleReader(encoding).read(audio).tolist()
