"""Frame-numbered audio: how loss, doubling and wrong times are measured (design section 11)."""

from array import array
from collections.abc import Iterable

import msgspec

from speechbus_contracts import SegmentFinal

__all__ = ["FRAME_MS", "Tiling", "build_frames", "check_tiling"]

FRAME_MS = 20
NUMBER_MAX = 32_000


def build_frames(first: int, n_frames: int, *, sample_rate_hz: int = 16_000) -> bytes:
    """Return PCM s16le whose frame k (counted from 1) holds the value k, from frame `first`."""
    samples_per_frame = sample_rate_hz * FRAME_MS // 1000
    pcm = array("h")
    for frame in range(first, first + n_frames):
        pcm.extend([(frame - 1) % NUMBER_MAX + 1] * samples_per_frame)
    return pcm.tobytes()


class Tiling(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream's finals say about its audio, in frames."""

    missing: int
    doubled: int
    time_error_ms_max: int
    """Largest distance between where a run is said to be and where its frames were sent."""
    is_ordered: bool


def check_tiling(finals: Iterable[SegmentFinal], n_frames: int) -> Tiling:
    """Compare echo finals with the frames 1 to `n_frames` that were sent (below 32,000)."""
    seen: dict[int, int] = {}
    order: list[int] = []
    time_error_ms = 0
    for final in finals:
        at_ms = final.start_ms
        for run in final.text.split():
            first, last = (int(number) for number in run.split("-"))
            time_error_ms = max(time_error_ms, abs(at_ms - (first - 1) * FRAME_MS))
            at_ms += (last - first + 1) * FRAME_MS
            for number in range(first, last + 1):
                seen[number] = seen.get(number, 0) + 1
                order.append(number)
        time_error_ms = max(time_error_ms, abs(at_ms - final.end_ms))
    return Tiling(
        missing=sum(number not in seen for number in range(1, n_frames + 1)),
        doubled=sum(count - 1 for count in seen.values()),
        time_error_ms_max=time_error_ms,
        is_ordered=order == sorted(order),
    )
