"""The measuring rod itself: what `echo` reads, and what the tests make of its answers."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import SegmentFinal
from speechbus_transcriber.providers.echo import EchoProtocol
from speechbus_transcriber.providers.interface import (
    Finished,
    Flushed,
    Heard,
    InProcess,
    Result,
    SessionRequest,
)
from speechbus_wire.frame_numbers import FRAME_NUMBER_MAX
from tests.support.frame_numbers import Tiling, build_frames, check_tiling

FRAME_BYTES = 640
"""20 ms at 16 kHz."""


def hear(*pieces: bytes, sample_rate_hz: int = 16_000) -> list[Result]:
    """Send pieces of audio to a new session and finish it."""
    protocol = EchoProtocol(SessionRequest(sample_rate_hz=sample_rate_hz, language=None))
    for piece in pieces:
        protocol.audio_to_send(memoryview(piece), now_s=0.0)
    protocol.finish(now_s=0.0)
    return protocol.results_received()


def finals_of(results: Iterable[Result]) -> list[tuple[str, int, int]]:
    return [
        (result.text, result.start_ms, result.end_ms)
        for result in results
        if isinstance(result, Heard) and result.is_final
    ]


def segment_of(index: int, text: str, start_ms: int, end_ms: int) -> SegmentFinal:
    return SegmentFinal(
        stream_id="s1",
        tenant="acme",
        transcription_id=f"s1-{index}",
        index=index,
        revision=0,
        epoch=1,
        language=None,
        text=text,
        start_ms=start_ms,
        end_ms=end_ms,
        provider="echo",
        covered_ms=end_ms,
        audio_received_at=0,
        emitted_at=0,
    )


def test_results_fall_where_the_rod_says() -> None:
    """A partial every 0.5 s, a final every 3 s and at the end (design section 11)."""
    results = hear(build_frames(1, 180))
    heard = [result for result in results if isinstance(result, Heard)]

    assert [(result.is_final, result.text, result.start_ms, result.end_ms) for result in heard] == [
        (False, "1-25", 0, 500),
        (False, "1-50", 0, 1_000),
        (False, "1-75", 0, 1_500),
        (False, "1-100", 0, 2_000),
        (False, "1-125", 0, 2_500),
        (True, "1-150", 0, 3_000),
        (False, "151-175", 3_000, 3_500),
        (True, "151-180", 3_000, 3_600),
    ]
    assert [result.covered_ms for result in heard if result.is_final] == [3_000, 3_600]
    assert results[-2:] == [Flushed(), Finished()]


@given(
    cuts=st.lists(st.integers(0, 199 * 320)),
    first=st.sampled_from([1, 500, FRAME_NUMBER_MAX - 60]),
    rate=st.sampled_from([8_000, 16_000, 44_100, 48_000]),
)
def test_any_cut_of_the_audio_gives_the_same_results(
    cuts: list[int], first: int, rate: int
) -> None:
    """Otherwise it would measure our chunks, not our losses."""
    pcm = build_frames(first, 199, sample_rate_hz=rate)
    borders = sorted({0, *(2 * cut for cut in cuts), len(pcm)})
    pieces = [pcm[low:high] for low, high in pairwise(borders)]

    assert hear(*pieces, sample_rate_hz=rate) == hear(pcm, sample_rate_hz=rate)


def test_missing_frames_part_the_run() -> None:
    """The numbers that are not in the text are those that never came."""
    assert finals_of(hear(build_frames(1, 50), build_frames(81, 20))) == [("1-50 81-100", 0, 1_400)]


def test_doubled_frames_part_the_run() -> None:
    """A number that is in two runs came twice."""
    assert finals_of(hear(build_frames(1, 50), build_frames(41, 20))) == [("1-50 41-60", 0, 1_400)]


def test_frame_numbers_wrap_within_a_run() -> None:
    """A stream longer than 640 s loses nothing where the numbers begin again."""
    first = FRAME_NUMBER_MAX - 1

    assert finals_of(hear(build_frames(first, 4))) == [(f"{first}-2", 0, 80)]


def test_a_session_without_audio_has_no_final() -> None:
    """A flush of nothing is answered, and says nothing."""
    assert hear() == [Flushed(), Finished()]


def test_a_flush_leaves_the_rhythm_to_begin_anew() -> None:
    """Three seconds of a segment are counted from its own start."""
    protocol = EchoProtocol(SessionRequest(sample_rate_hz=16_000, language=None))
    protocol.audio_to_send(memoryview(build_frames(1, 10)), now_s=0.0)
    protocol.flush(now_s=0.0)
    protocol.audio_to_send(memoryview(build_frames(11, 150)), now_s=0.0)

    assert finals_of(protocol.results_received()) == [("1-10", 0, 200), ("11-160", 200, 3_200)]


def test_nothing_is_ever_awaited() -> None:
    """It runs inside the worker: no connection, no messages, no deadlines."""
    protocol = EchoProtocol(SessionRequest(sample_rate_hz=16_000, language=None))

    assert protocol.connect_request() == InProcess()
    assert list(protocol.messages_to_open()) == []
    assert protocol.next_deadline_s() is None


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (
            [("1-150", 0, 3_000), ("151-200", 3_000, 4_000)],
            Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True),
        ),
        (
            [("1-150", 0, 3_000), ("161-200", 3_000, 3_800)],
            Tiling(missing=10, doubled=0, time_error_ms_max=200, is_ordered=True),
        ),
        (
            [("1-150", 0, 3_000), ("141-200", 2_800, 4_000)],
            Tiling(missing=0, doubled=10, time_error_ms_max=0, is_ordered=False),
        ),
        (
            [("1-150", 30, 3_030), ("151-200", 3_000, 4_000)],
            Tiling(missing=0, doubled=0, time_error_ms_max=30, is_ordered=True),
        ),
    ],
    ids=["whole", "lost", "doubled", "late"],
)
def test_the_tiling_tells_what_went_wrong(
    runs: list[tuple[str, int, int]], expected: Tiling
) -> None:
    """Every figure about loss rests on this count."""
    finals = [segment_of(index, *run) for index, run in enumerate(runs)]

    assert check_tiling(finals, 200) == expected


@given(
    lost=st.sets(st.integers(1, 400)),
    n_frames=st.just(400),
)
def test_the_tiling_counts_exactly_the_frames_that_never_came(
    lost: set[int], n_frames: int
) -> None:
    """From the finals alone, whatever was lost on the way."""
    pieces = [build_frames(k, 1) for k in range(1, n_frames + 1) if k not in lost]
    finals = [segment_of(i, *final) for i, final in enumerate(finals_of(hear(*pieces)))]
    tiling = check_tiling(finals, n_frames)

    assert (tiling.missing, tiling.doubled, tiling.is_ordered) == (len(lost), 0, True)
    assert (tiling.time_error_ms_max == 0) == (not lost or min(lost) > n_frames - len(lost))


def test_frames_hold_their_own_number() -> None:
    """The rod's markings."""
    pcm = build_frames(FRAME_NUMBER_MAX, 2)

    assert len(pcm) == 2 * FRAME_BYTES
    assert set(memoryview(pcm[:FRAME_BYTES]).cast("h")) == {FRAME_NUMBER_MAX}
    assert set(memoryview(pcm[FRAME_BYTES:]).cast("h")) == {1}
