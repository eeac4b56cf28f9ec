"""Raw audio of every spelling, made into PCM s16le mono."""

import struct
import warnings
from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.formats.names import CHANNELS_MAX, RAW_FORMATS, AudioFormat, RawFormat
from speechbus_ingest.formats.raw import RawConverter

each_format = pytest.mark.parametrize("encoding", RAW_FORMATS)


def convert(encoding: RawFormat, data: bytes, *, channels: int = 1) -> list[int]:
    """All samples at once."""
    converter = RawConverter(encoding, channels)
    return array("h", converter.convert(data)[0]).tolist()


@each_format
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400)), channels=st.integers(1, 8))
def test_bytes_cut_anywhere_give_the_same_samples(
    encoding: RawFormat, data: bytes, cuts: list[int], channels: int
) -> None:
    """Clients cut where their sockets do, also inside a sample."""
    converter = RawConverter(encoding, channels)
    borders = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    pieces = [converter.convert(data[low:high])[0] for low, high in pairwise(borders)]

    assert array("h", b"".join(pieces)).tolist() == convert(encoding, data, channels=channels)


@given(samples=st.lists(st.integers(-32_768, 32_767), max_size=50))
def test_what_has_16_bits_comes_out_as_it_was(samples: list[int]) -> None:
    """Nothing on the way may quantize again: frame numbers must survive."""
    n = len(samples)

    assert convert("pcm_s16le", struct.pack(f"<{n}h", *samples)) == samples
    for order, name in (("<", "le"), (">", "be")):
        wide = struct.pack(f"{order}{n}i", *(sample << 16 for sample in samples))
        floats = struct.pack(f"{order}{n}f", *(sample / 32_768 for sample in samples))
        assert convert("pcm_s32le" if name == "le" else "pcm_s32be", wide) == samples
        assert convert("pcm_f32le" if name == "le" else "pcm_f32be", floats) == samples


def test_what_is_too_loud_or_no_number_is_bounded() -> None:
    """A float of a broken client must not wrap around into noise."""
    floats = struct.pack("<6f", 2.0, -2.0, float("nan"), float("inf"), float("-inf"), 1.0)

    assert convert("pcm_f32le", floats) == [32_767, -32_768, 0, 32_767, -32_768, 32_767]
    assert convert("pcm_f32be", b"\x7f\x80\x00\x01\xff\xc0\x00\x00") == [0, 0]
    assert convert("pcm_s32le", struct.pack("<2i", 2**31 - 1, -(2**31))) == [32_767, -32_768]


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_g711_is_decoded_as_the_standard_library_did(encoding: RawFormat) -> None:
    """All 256 codes; `audioop` is gone from Python 3.13, so it is only compared with here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop")
    decode = audioop.ulaw2lin if encoding == "mulaw" else audioop.alaw2lin
    codes = bytes(range(256))

    assert convert(encoding, codes) == array("h", decode(codes, 2)).tolist()


def test_case_23_channels_are_mixed_to_their_mean() -> None:
    """Every provider hears one channel; a stereo call has both of its sides in it."""
    frames = struct.pack("<6h", 100, 300, -32_768, -32_768, 32_767, 32_767)

    assert convert("pcm_s16le", frames, channels=2) == [200, -32_768, 32_767]
    assert convert("pcm_s16le", struct.pack("<8h", *range(8)), channels=CHANNELS_MAX) == [4]


def test_only_what_travels_already_is_plain() -> None:
    """Its bytes are not looked at."""
    assert AudioFormat().is_plain
    assert not AudioFormat(channels=2).is_plain
    assert not AudioFormat(encoding="pcm_f32le").is_plain
