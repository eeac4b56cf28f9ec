"""Frame-numbered audio with pauses: measures loss and time where silence may be left out.

Frame k holds k plus `LOUD` where somebody speaks, so that it is far louder than the zeros between.
"""

from collections.abc import Iterable

from speechbus_contracts import SegmentFinal
from tests.support.frame_numbers import FRAME_MS, Tiling, build_frames

__all__ = [
    "PAUSE_FRAMES",
    "SPEECH_FRAMES",
    "build_conversation",
    "check_conversation",
    "sounds",
]

LOUD = 3_000
FRAMES_MAX = 32_000 - LOUD
PAUSE_FRAMES = 125
SPEECH_FRAMES = 100
_SILENCE = bytes(len(build_frames(1, 1)))


def sounds(frame: int) -> bool:
    """Whether a frame (from 1) is speech: a pause of 2.5 s, 2 s of it, and so on."""
    return (frame - 1) % (PAUSE_FRAMES + SPEECH_FRAMES) >= PAUSE_FRAMES


def build_conversation(first: int, n_frames: int) -> bytes:
    """Return PCM s16le at 16 kHz of the frames from `first`; `FRAMES_MAX` is the last there is."""
    return b"".join(
        build_frames(frame + LOUD, 1) if sounds(frame) else _SILENCE
        for frame in range(first, first + n_frames)
    )


def check_conversation(finals: Iterable[SegmentFinal], n_frames: int) -> Tiling:
    """Compare finals of an echo with the frames 1 to `n_frames` that were sent."""
    seen: dict[int, int] = {}
    order: list[int] = []
    time_error_ms = 0
    for final in finals:
        frames: list[int] = []
        for run in final.text.split():
            first, last = (int(number) - LOUD for number in run.split("-"))
            frames += range(first, last + 1)
        # A final may begin and end in a pause: only what sounds has to lie within its times.
        if frames:
            early_ms = final.start_ms - (frames[0] - 1) * FRAME_MS
            late_ms = frames[-1] * FRAME_MS - final.end_ms
            time_error_ms = max(time_error_ms, early_ms, late_ms)
        for frame in frames:
            seen[frame] = seen.get(frame, 0) + 1
        order += frames
    spoken = [frame for frame in range(1, n_frames + 1) if sounds(frame)]
    return Tiling(
        missing=sum(frame not in seen for frame in spoken),
        doubled=sum(count - 1 for count in seen.values()),
        time_error_ms_max=time_error_ms,
        is_ordered=order == sorted(order),
    )
