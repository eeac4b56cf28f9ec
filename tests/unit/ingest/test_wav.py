"""WAV as it streams in, cut anywhere."""

import random
import struct
import wave
from array import array
from io import BytesIO
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.formats.undecodable import UndecodableError
from speechbus_ingest.formats.wav import HEADER_BYTES_MAX, WavHeader, WavReader

SAMPLES: Final = [0, 1, -1, 256, -32_768, 32_767]
PCM: Final = struct.pack(f"<{len(SAMPLES)}h", *SAMPLES)
TAIL: Final = bytes.fromhex("000000001000800000aa00389b71")


def fmt(
    tag: int = 1, *, channels: int = 1, rate: int = 16_000, sample_bytes: int = 2, more: bytes = b""
) -> bytes:
    """A `fmt ` chunk."""
    frame = channels * sample_bytes
    body = struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, 8 * sample_bytes) + more
    return chunk(b"fmt ", body)


def chunk(name: bytes, body: bytes) -> bytes:
    """Any chunk, padded."""
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def wav(
    samples: bytes = PCM,
    *before: bytes,
    size: int | None = None,
    form: bytes = b"RIFF",
    after: bytes = b"",
) -> bytes:
    """A whole file; `size` is what the `data` chunk says of itself."""
    head = b"".join(before or (fmt(),))
    data = b"data" + struct.pack("<I", len(samples) if size is None else size) + samples
    body = b"WAVE" + head + data + bytes(len(samples) % 2) + after
    return form + struct.pack("<I", len(body) & 0xFFFFFFFF) + body


def read(data: bytes, *, cuts: tuple[int, ...] = (), is_split: bool = False) -> list[list[int]]:
    """The samples of each channel."""
    reader = WavReader(is_split=is_split)
    borders = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    pieces = [reader.feed(data[low:high]) for low, high in pairwise(borders)]
    reader.finish()
    channels = zip(*(piece for piece in pieces if piece), strict=True)
    return [array("h", b"".join(channel)).tolist() for channel in channels]


def problem_of(data: bytes) -> str:
    """What is said of a file that cannot be read to its end."""
    with pytest.raises(UndecodableError) as caught:
        read(data)
    return caught.value.problem


FORMS: Final = {
    "u8": (fmt(1, sample_bytes=1), bytes([128, 129, 0, 255]), [0, 256, -32_768, 32_512]),
    "s16": (fmt(), PCM, SAMPLES),
    "s24": (
        fmt(1, sample_bytes=3),
        b"".join((sample << 8).to_bytes(3, "little", signed=True) for sample in SAMPLES),
        SAMPLES,
    ),
    "s32": (
        fmt(1, sample_bytes=4),
        struct.pack("<6i", *(sample << 16 for sample in SAMPLES)),
        SAMPLES,
    ),
    "f32": (
        fmt(3, sample_bytes=4),
        struct.pack("<6f", *(sample / 32_768 for sample in SAMPLES)),
        SAMPLES,
    ),
    "f64": (
        fmt(3, sample_bytes=8, more=bytes(2)),
        struct.pack("<6d", *(sample / 32_768 for sample in SAMPLES)),
        SAMPLES,
    ),
    "mulaw": (fmt(7, sample_bytes=1), b"\xff\x7f\x00\x80", [0, 0, -32_124, 32_124]),
    "alaw": (fmt(6, sample_bytes=1), b"\xd5\x55\xaa\x2a", [8, -8, 32_256, -32_256]),
    "extensible": (
        fmt(0xFFFE, more=struct.pack("<HHI", 22, 16, 4) + b"\x01\x00" + TAIL),
        PCM,
        SAMPLES,
    ),
    "extensible float": (
        fmt(0xFFFE, sample_bytes=4, more=struct.pack("<HHI", 22, 32, 4) + b"\x03\x00" + TAIL),
        struct.pack("<6f", *(sample / 32_768 for sample in SAMPLES)),
        SAMPLES,
    ),
}


@pytest.mark.parametrize("form", sorted(FORMS))
@given(cuts=st.lists(st.integers(0, 150)).map(tuple))
def test_every_spelling_cut_anywhere_gives_its_samples(form: str, cuts: tuple[int, ...]) -> None:
    """Also inside the header, and inside a sample."""
    head, samples, expected = FORMS[form]

    assert read(wav(samples, head), cuts=cuts) == [expected]


DS64: Final = chunk(b"ds64", struct.pack("<QQQI", 100, len(PCM), 6, 0))
SIZES: Final = {
    "true": wav(),
    "zero": wav(size=0),
    "all ones": wav(size=0xFFFFFFFF),
    "sox": wav(size=0x7FFFF000 - 36),
    "arecord": wav(size=0x80000000),
    "rf64": wav(PCM, DS64, fmt(), size=0xFFFFFFFF, form=b"RF64"),
    "rf64, live": wav(PCM, chunk(b"ds64", bytes(28)), fmt(), size=0xFFFFFFFF, form=b"RF64"),
}


@pytest.mark.parametrize("size", sorted(SIZES))
@given(cuts=st.lists(st.integers(0, 150)).map(tuple))
def test_every_way_to_say_the_size_is_understood(size: str, cuts: tuple[int, ...]) -> None:
    """Who sends live cannot know it, and each program writes something else instead."""
    assert read(SIZES[size], cuts=cuts) == [SAMPLES]


@given(
    before=st.lists(st.binary(max_size=9), max_size=3),
    after=st.lists(st.binary(max_size=9), max_size=3),
    n_samples=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 200)).map(tuple),
)
def test_other_chunks_are_no_samples(
    before: list[bytes], after: list[bytes], n_samples: int, cuts: tuple[int, ...]
) -> None:
    """Titles, cue points and cover pictures, each padded when it is odd."""
    samples = bytes(range(128, 128 + n_samples))
    extra = [chunk(b"LIST", body) for body in before]
    data = wav(
        samples,
        *extra,
        fmt(1, sample_bytes=1),
        *extra,
        after=b"".join(chunk(b"id3 ", body) for body in after),
    )

    assert read(data, cuts=cuts) == [[256 * n for n in range(n_samples)]]


def test_channels_are_mixed_or_split() -> None:
    """As those of raw formats are."""
    frames = struct.pack("<6h", 100, 300, -1, -3, 7, 7)
    data = wav(frames, fmt(channels=2, rate=44_100))
    reader = WavReader()
    reader.feed(data)

    assert read(data) == [[200, -2, 7]]
    assert read(data, is_split=True) == [[100, -1, 7], [300, -3, 7]]
    assert reader.header == WavHeader(
        encoding="pcm_s16le", channels=2, sample_rate_hz=44_100, frame_bytes=4
    )


def test_what_the_standard_library_writes_is_read() -> None:
    """Another implementation's idea of the format."""
    for sample_bytes in (1, 2, 3, 4):
        target = BytesIO()
        with wave.open(target, "wb") as writer:
            writer.setnchannels(2)
            writer.setsampwidth(sample_bytes)
            writer.setframerate(8_000)
            writer.writeframes(bytes([128 if sample_bytes == 1 else 0]) * sample_bytes * 10)

        assert read(target.getvalue()) == [[0] * 5]


PACKED: Final = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 16_000, 48_000, 3, 12))
PROBLEMS: Final = {
    "nothing": (b"", "no_audio"),
    "another format": (b"OggS" + bytes(60), "damaged"),
    "big-endian": (b"RIFX" + wav()[4:], "damaged"),
    "no fmt": (wav(PCM, chunk(b"LIST", b"")), "damaged"),
    "short fmt": (wav(PCM, chunk(b"fmt ", bytes(14))), "damaged"),
    "adpcm": (wav(PCM, fmt(2)), "codec"),
    "mp3 inside": (wav(PCM, fmt(0x55)), "codec"),
    "12 bit without padding": (wav(PCM, PACKED), "codec"),
    "unknown subformat": (wav(PCM, fmt(0xFFFE, more=bytes(24))), "codec"),
    "extensible without its extension": (wav(PCM, fmt(0xFFFE)), "codec"),
    "no channels": (wav(PCM, fmt(channels=0)), "channels"),
    "nine channels": (wav(PCM, fmt(channels=9)), "channels"),
    "96 kHz": (wav(PCM, fmt(rate=96_000)), "sample_rate"),
    "no rate": (wav(PCM, fmt(rate=0)), "sample_rate"),
    "endless header": (wav(PCM, b"LIST" + struct.pack("<I", HEADER_BYTES_MAX), fmt()), "damaged"),
    "half a header": (wav()[:30], "truncated"),
    "half the samples": (wav()[:-4], "truncated"),
    "two files": (wav() + wav(), "changed"),
}


@pytest.mark.parametrize("case", sorted(PROBLEMS))
def test_what_cannot_be_read_is_said(case: str) -> None:
    """One word each, which the doors explain."""
    data, problem = PROBLEMS[case]

    assert problem_of(data) == problem


def test_samples_before_the_end_of_a_cut_file_are_there() -> None:
    """What was heard until then is transcribed."""
    reader = WavReader()
    samples = array("h", reader.feed(wav()[:-4])[0]).tolist()

    assert samples == SAMPLES[:-2]
    with pytest.raises(UndecodableError):
        reader.finish()


def test_nine_thousand_mutated_files_are_read_or_refused() -> None:
    """Never another exception, and never more samples than there are bytes."""
    seed = random.Random(20261129)
    originals = [wav(samples * 40, head) for head, samples, _ in FORMS.values()]
    originals += SIZES.values()
    n_refused = 0
    for _ in range(9_000):
        data = mutate(seed.choice(originals), seed)
        cut = seed.randrange(len(data) + 1)
        reader = WavReader(is_split=seed.random() < 0.2)
        n_bytes = 0
        try:
            for piece in (data[:cut], data[cut:]):
                n_bytes += sum(map(len, reader.feed(piece)))
            reader.finish()
        except UndecodableError:
            n_refused += 1
        assert n_bytes <= 2 * len(data)  # one byte of G.711 makes two

    assert 1_000 < n_refused < 9_000


def mutate(data: bytes, seed: random.Random) -> bytes:
    """Flip, cut, insert or repeat something, mostly near the beginning."""
    changed = bytearray(data)
    for _ in range(seed.randint(1, 4)):
        at = min(int(seed.expovariate(1 / 30)), len(changed))
        match seed.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([seed.randrange(256)])
            case 1:
                del changed[at : at + seed.randint(1, 20)]
            case 2:
                changed[at:at] = seed.randbytes(seed.randint(1, 20))
            case _:
                changed[at:at] = changed[at : at + seed.randint(1, 40)]
    return bytes(changed[: seed.randint(0, 2 * len(changed))])
