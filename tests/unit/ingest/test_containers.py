"""Containers, decoded in this process: what comes out, and how it ends when it cannot."""

import random
import re
from array import array
from collections.abc import Callable
from functools import cache
from typing import Final

import pytest

from speechbus_ingest.formats.containers import decode
from speechbus_ingest.formats.decoder_wire import Job
from speechbus_ingest.formats.names import CONTAINERS, Container
from speechbus_ingest.formats.undecodable import Problem, UndecodableError
from tests.support.encoded import SAMPLE_RATES_HZ, build_tone, encode, find_borders

SECONDS: Final = {"webm": 1.5, "mp3": 1.5, "aac": 1.5, "ogg": 3.0, "flac": 6.0}
"""Enough for a middle: pages of Ogg have 1 s, and FFmpeg's FLAC parser looks almost 3 s ahead."""
LOSSLESS: Final[tuple[Container, ...]] = ("flac",)
each_container = pytest.mark.parametrize("container", CONTAINERS)


class Pieces:
    """A source that gives what it has in pieces of given lengths, over and over."""

    def __init__(self, data: bytes, lengths: list[int]) -> None:
        self._data = data
        self._lengths = lengths
        self._n_pieces = 0
        self.n_read = 0
        self.n_ends = 0
        """How often the end was found."""

    def read(self, n: int) -> bytes:
        """See `Source`."""
        length = self._lengths[self._n_pieces % len(self._lengths)]
        self._n_pieces += 1
        piece = self._data[self.n_read : self.n_read + min(n, length)]
        self.n_read += len(piece)
        self.n_ends += not piece
        return piece


def decode_all(
    container: Container, data: bytes, *lengths: int, channels: int | None = None
) -> tuple[int, list[bytes], Problem | None]:
    """Return sample rate, PCM of each channel, and what is said at the end."""
    rate, pieces, problem = 0, list[list[bytes]](), None
    try:
        for block in decode(Pieces(data, list(lengths) or [1 << 20]), Job(container, channels)):
            rate = block.sample_rate_hz
            pieces.append(block.channels)
    except UndecodableError as error:
        problem = error.problem
    return rate, [b"".join(channel) for channel in zip(*pieces, strict=True)], problem


@cache
def recording(container: Container, *, channels: int = 1) -> tuple[bytes, bytes]:
    """PCM, and the same encoded."""
    rate = SAMPLE_RATES_HZ[container]
    pcm = build_tone(rate, SECONDS[container], channels=channels)
    return pcm, encode(container, pcm, sample_rate_hz=rate, channels=channels)


@each_container
@pytest.mark.parametrize("is_live", [True, False])
def test_all_of_a_recording_comes_out_at_its_own_rate(
    container: Container, *, is_live: bool
) -> None:
    """A frame or two of padding come along where the format does not tell their number."""
    rate = SAMPLE_RATES_HZ[container]
    pcm = build_tone(rate, SECONDS[container])
    data = encode(container, pcm, sample_rate_hz=rate, is_live=is_live)
    found_rate, channels, problem = decode_all(container, data)
    (decoded,) = channels

    assert (found_rate, problem) == (rate, None)
    assert 0 <= len(decoded) - len(pcm) <= 2 * 2 * 1_152
    if container in LOSSLESS:
        assert decoded == pcm


@each_container
@pytest.mark.parametrize("is_live", [True, False])
def test_a_recording_is_read_to_the_clients_end(container: Container, *, is_live: bool) -> None:
    """Some say their length: whoever sends one must not be told of an end that he has not said."""
    rate = SAMPLE_RATES_HZ[container]
    data = encode(container, build_tone(rate, 0.5), sample_rate_hz=rate, is_live=is_live)
    source = Pieces(data, [500])
    list(decode(source, Job(container)))

    assert source.n_read == len(data)
    assert source.n_ends >= 1


def test_clusters_without_a_size_end_where_the_next_begins() -> None:
    """As browsers write them; FFmpeg knows their sizes."""
    _, data = recording("webm")
    heads = re.compile(rb"\x1f\x43\xb6\x75[\x40-\x7f].", re.DOTALL)
    unsized, n_clusters = heads.subn(b"\x1f\x43\xb6\x75\x01" + b"\xff" * 7, data)

    assert n_clusters
    assert decode_all("webm", unsized) == decode_all("webm", data)


@each_container
def test_a_recording_cut_anywhere_gives_the_same_samples(container: Container) -> None:
    """Messages are cut where the client's recorder and the network cut them."""
    _, data = recording(container)
    whole = decode_all(container, data)
    seed = random.Random(container)
    cuts = [[1], [7], [1_023], *([seed.randint(1, 3_000) for _ in range(50)] for _ in range(3))]

    assert [decode_all(container, data, *lengths) == whole for lengths in cuts] == [True] * 6


@each_container
def test_channels_are_mixed_or_split(container: Container) -> None:
    """To the mean, or into one stream for each."""
    _, data = recording(container, channels=2)
    _, (mixed,), _ = decode_all(container, data)
    _, (left, right), _ = decode_all(container, data, channels=2)
    mean = [round((a + b) / 2) for a, b in zip(array("h", left), array("h", right), strict=True)]

    assert max(abs(a - b) for a, b in zip(array("h", mixed), mean, strict=True)) <= 1
    assert left != right
    assert decode_all(container, data, channels=3) == (0, [], "channels")


@each_container
def test_what_is_no_such_recording_is_refused(container: Container) -> None:
    """Nothing, garbage, silence of the wrong format, and the other formats."""
    garbage = random.Random(1).randbytes(20_000)
    others = [recording(other)[1] for other in CONTAINERS if other != container]

    assert decode_all(container, b"") == (0, [], "no_audio")
    for data in (garbage, bytes(20_000), b"<html>" * 999, *others):
        rate, channels, problem = decode_all(container, data)
        assert (rate, channels) == (0, []), problem
        assert problem in {"damaged", "codec"}


@each_container
def test_damage_ends_a_recording_and_what_came_before_stays(container: Container) -> None:
    """Going on behind it would give all that follows a wrong time."""
    _, data = recording(container)
    _, (whole,), _ = decode_all(container, data)
    middle = len(data) // 2
    for damaged in (
        data[:middle] + random.Random(2).randbytes(len(data) - middle),
        data[:middle] + random.Random(3).randbytes(5_000) + data[middle:],
    ):
        _, (decoded,), problem = decode_all(container, damaged)
        assert problem == "damaged"
        assert len(decoded) > len(whole) // 4
        assert decoded[: len(decoded) // 2] == whole[: len(decoded) // 2]


@each_container
@pytest.mark.parametrize("n_missing", [1, 3, 30])
def test_a_recording_that_was_cut_off_says_so(container: Container, n_missing: int) -> None:
    """A part of its last words may be missing, and who sent it can send it again."""
    _, data = recording(container)
    _, (whole,), _ = decode_all(container, data)
    _, (decoded,), problem = decode_all(container, data[:-n_missing])

    assert problem in {"truncated", "damaged"}
    assert len(whole) - len(decoded) <= 2 * 2 * 4_608
    assert decoded[: len(decoded) // 2] == whole[: len(decoded) // 2]


@pytest.mark.parametrize("container", ["mp3", "aac"])
def test_nothing_behind_a_broken_frame_comes_out(container: Container) -> None:
    """FFmpeg finds the next frame without a word, and all that follows would come too early."""
    _, data = recording(container)
    _, (whole,), _ = decode_all(container, data)
    start, end = find_borders(container, data)[20:22]
    for damaged in (
        data[:start] + b"\0" + data[start + 1 :],
        data[:start] + bytes(end - start) + data[end:],
        data[:start] + bytes(100) + data[start:],
    ):
        for lengths in ((1,), (7,), (1 << 20,)):
            _, (decoded,), problem = decode_all(container, damaged, *lengths)
            assert problem == "damaged"
            assert decoded == decode_all(container, data[:start])[1][0]
            assert decoded == whole[: len(decoded)]


def captured(move: Callable[[float], float], *, channels: int = 1) -> bytes:
    """The recording of a browser, with other times of capture."""
    pcm, _ = recording("webm", channels=channels)
    return encode("webm", pcm, sample_rate_hz=48_000, channels=channels, move=move)


@pytest.mark.parametrize("pause_s", [0.2, 0.9, 5.0, 59.0])
def test_pauses_of_a_recorder_become_silence(pause_s: float) -> None:
    """A machine that was busy, or asleep: times stay those of the capture."""
    data = captured(lambda at_s: at_s + (pause_s if at_s > 0.5 else 0))
    _, channels, problem = decode_all("webm", data, 1_000)
    _, (whole,), _ = decode_all("webm", recording("webm")[1])
    (decoded,) = channels
    silent_bytes = 96 * round(1_000 * pause_s)

    assert problem is None
    assert abs(len(decoded) - len(whole) - silent_bytes) <= 96
    assert decoded[:48_000] == whole[:48_000]
    assert decoded[-48_000:] == whole[-48_000:]
    assert bytes(silent_bytes - 96) in decoded


def test_a_pause_is_silence_on_each_channel() -> None:
    """They share one clock."""
    data = captured(lambda at_s: at_s + (0.9 if at_s > 0.5 else 0), channels=2)
    _, (left, right), _ = decode_all("webm", data, channels=2)

    assert len(left) == len(right) > 2.3 * 96_000
    assert bytes(86_000) in left
    assert bytes(86_000) in right


def test_small_pauses_add_up() -> None:
    """Each too short to be told from times that vary; no part of the recording comes early."""
    data = captured(lambda at_s: 1.3 * at_s)
    _, (decoded,), problem = decode_all("webm", data)

    assert problem is None
    assert abs(len(decoded) / 96_000 - 1.3 * SECONDS["webm"]) < 0.12


def test_times_that_vary_change_nothing() -> None:
    """Silence inside words would be worse."""
    seed = random.Random(1)
    data = captured(lambda at_s: at_s + seed.uniform(0, 0.018))

    assert decode_all("webm", data)[1:] == decode_all("webm", recording("webm")[1])[1:]


def test_a_pause_too_long_is_damage() -> None:
    """What came before stays."""
    _, channels, problem = decode_all("webm", captured(lambda at_s: at_s + 61 * (at_s > 0.5)))

    assert problem == "damaged"
    assert 0.4 < len(channels[0]) / 96_000 < 0.6


def test_rates_beyond_those_of_the_doors_are_refused() -> None:
    """FLAC knows any."""
    data = encode("flac", build_tone(96_000, 0.5), sample_rate_hz=96_000)

    assert decode_all("flac", data) == (0, [], "sample_rate")


@pytest.mark.parametrize("container", ["webm", "ogg"])
def test_recordings_in_a_row_are_decoded_one_after_the_other(container: Container) -> None:
    """A browser's recorder that is started again, and blobs of which each is a whole file."""
    _, data = recording(container)
    _, (whole,), _ = decode_all(container, data)
    row = data * 3
    seed = random.Random(container)
    cuts = [[1], [7], *([seed.randint(1, 3_000) for _ in range(50)] for _ in range(5))]

    for lengths in ([1 << 20], *cuts):
        assert decode_all(container, row, *lengths) == (48_000, [whole * 3], None)
    assert decode_all(container, data + data[:-9])[2] == "truncated"
    assert decode_all(container, data + data[:100])[1] == [whole]


def test_a_recording_behind_another_has_to_be_of_the_same_kind() -> None:
    """A stream has one sample rate, and is told of its channels once."""
    _, data = recording("webm")
    _, stereo = recording("webm", channels=2)
    _, (whole,), _ = decode_all("webm", data)

    assert decode_all("webm", data + stereo) == (48_000, [whole], "changed")


@pytest.mark.parametrize("container", ["mp3", "aac", "flac"])
def test_a_recording_behind_another_is_not_passed_over(container: Container) -> None:
    """AAC has no beginning and goes on; the others' beginnings are in the way."""
    _, data = recording(container)
    _, (whole,), _ = decode_all(container, data)
    _, (decoded,), problem = decode_all(container, data + data)

    assert decoded[: len(whole) - 4_608] == whole[: len(whole) - 4_608]
    assert problem == (None if container == "aac" else "damaged")
