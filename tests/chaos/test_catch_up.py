"""A stream whose provider was away catches up over its silence, and every time stays right."""

from pathlib import Path
from typing import Final

import pytest

from speechbus_contracts import SegmentFinal
from tests.support.frame_numbers import FRAME_MS, Tiling, build_frames
from tests.support.provider_streams import play

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

N_FRAMES: Final = 600
PERIOD: Final = 200
SOUNDING: Final = 50
LOUD: Final = 3_000
"""Added to each number, so that its frame is far louder than the silence around."""
OUTAGE: Final = """
segment_ms = 1000
faults = [
  {kind = "refuse", session = 1, status = 503},
  {kind = "refuse", session = 2, status = 503},
  {kind = "refuse", session = 3, status = 503},
]
"""


LONG_OUTAGE: Final = OUTAGE.replace(
    "session = 3, status = 503}", "session = 3, status = 429, retry_after_s = 6}"
)


def sounds(frame: int) -> bool:
    """3 s of silence, 1 s of sound, and so on."""
    return (frame - 1) % PERIOD >= PERIOD - SOUNDING


def build(first: int, n_frames: int) -> bytes:
    """Frames with loud numbers where they sound."""
    return b"".join(
        build_frames(frame + LOUD, 1) if sounds(frame) else bytes(len(build_frames(1, 1)))
        for frame in range(first, first + n_frames)
    )


def read_frames(final: SegmentFinal) -> list[int]:
    """The frames that a final names, counted from the stream's first."""
    frames: list[int] = []
    for run in final.text.split():
        first, last = (int(number) - LOUD for number in run.split("-"))
        frames += range(first, last + 1)
    return frames


def test_what_sounds_is_heard_once_and_where_it_was_however_much_silence_is_left_out(
    tmp_path: Path,
) -> None:
    """The provider takes real time only, and was away for the first 4 s."""
    (received,) = play(
        tmp_path,
        {"palabra": OUTAGE},
        {"providers": ["palabra"], "skip_silence": True},
        n_frames=N_FRAMES,
        build=build,
    )

    named = [frame for final in received.finals for frame in read_frames(final)]
    assert named == [frame for frame in range(1, N_FRAMES + 1) if sounds(frame)]
    assert received.gaps == []
    assert received.closed is not None
    assert received.closed.audio_ms == N_FRAMES * FRAME_MS
    for final in received.finals:
        within = range(final.start_ms // FRAME_MS + 1, final.end_ms // FRAME_MS + 1)
        assert read_frames(final) == [frame for frame in within if sounds(frame)]


def test_a_stream_too_far_behind_jumps_and_names_what_it_left_out(tmp_path: Path) -> None:
    """By a setting, for those who need the present more than the whole."""
    n_frames = 450
    (received,) = play(
        tmp_path,
        {"palabra": LONG_OUTAGE},
        {"providers": ["palabra"]},
        n_frames=n_frames,
        environment={"SPEECHBUS_TRANSCRIBER_LAG_MAX_S": "5"},
    )

    (gap,) = received.gaps
    assert gap.reason == "lag"
    left_out = range(gap.from_ms // FRAME_MS + 1, gap.to_ms // FRAME_MS + 1)
    tiling = received.check_tiling(n_frames)
    assert len(left_out) > 0
    assert tiling == Tiling(missing=len(left_out), doubled=0, time_error_ms_max=0, is_ordered=True)
    assert not any(
        final.start_ms < gap.to_ms and final.end_ms > gap.from_ms for final in received.finals
    )
