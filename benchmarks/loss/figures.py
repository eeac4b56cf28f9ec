"""Reads the figures of a row from what its clients got. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from speechbus_contracts import SegmentFinal, SegmentPartial
from tests.support.conversation import check_conversation
from tests.support.frame_client import Received
from tests.support.frame_numbers import FRAME_MS

__all__ = ["Figures", "read_figures"]

ON_TIME_S: Final = 1.0
"""A partial or final this much later than the quickest of its stream is late."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a row, the worst stream's."""

    lost_s: float
    doubled_s: float
    time_error_ms: int
    gap_s: float
    latest_s: float
    """The latest final, behind the sound that it ends with."""
    caught_up_s: float
    """From the last partial or final on time before the first late one until the first on time
    behind the last late one, so that what broke is counted in; 0: none was late."""
    behind: int
    """Streams whose last partial or final was late: they never caught up."""
    unclosed: int
    """Streams that were not closed in order."""
    breaks: int
    """Sessions at providers that failed."""
    has_broken: bool
    """Whether as many sessions failed as had to."""

    @property
    def is_kept(self) -> bool:
        """Whether the promise was: nothing lost, doubled or given up, and times right."""
        is_whole = not (self.lost_s or self.doubled_s or self.gap_s or self.unclosed)
        return self.has_broken and is_whole and self.time_error_ms <= FRAME_MS


def read_figures(
    streams: Sequence[Received], *, n_frames: int, began_s: float, breaks: int, breaks_min: int
) -> Figures:
    """Compare what clients got with what they sent.

    Args:
        streams: of `tests.support.conversation`.
        n_frames: sent by each.
        began_s: when they began, on the loop's clock; the audio was sent in real time from then on.
        breaks: sessions at providers that failed.
        breaks_min: so many had to.
    """
    tilings = [check_conversation(stream.finals, n_frames) for stream in streams]
    caught_up = [_find_caught_up(stream, began_s) for stream in streams]
    delays_s = [delay_s for stream in streams for delay_s in _list_delays_s(stream, began_s)]
    return Figures(
        lost_s=max(tiling.missing for tiling in tilings) * FRAME_MS / 1000,
        doubled_s=max(tiling.doubled for tiling in tilings) * FRAME_MS / 1000,
        time_error_ms=max(tiling.time_error_ms_max for tiling in tilings),
        gap_s=max(sum(gap.to_ms - gap.from_ms for gap in stream.gaps) for stream in streams) / 1000,
        latest_s=max(delays_s, default=0.0),
        caught_up_s=max(span_s for span_s, _ in caught_up),
        behind=sum(is_behind for _, is_behind in caught_up),
        unclosed=sum(stream.closed is None for stream in streams),
        breaks=breaks,
        has_broken=breaks >= breaks_min,
    )


def _list_delays_s(stream: Received, began_s: float) -> list[float]:
    """How long after its last sound was sent each final arrived; opening the stream included."""
    return [
        arrived_s - began_s - event.end_ms / 1000
        for arrived_s, event in zip(stream.arrived_at_s, stream.events, strict=True)
        if isinstance(event, SegmentFinal)
    ]


def _find_caught_up(stream: Received, began_s: float) -> tuple[float, bool]:
    """Return how long the stream was late, and whether it still is at its end."""
    shown = [
        (arrived_s - began_s, arrived_s - began_s - event.end_ms / 1000)
        for arrived_s, event in zip(stream.arrived_at_s, stream.events, strict=True)
        if isinstance(event, SegmentPartial | SegmentFinal)
    ]
    quickest_s = min((delay_s for _, delay_s in shown), default=0.0)
    late = [n for n, (_, delay_s) in enumerate(shown) if delay_s > quickest_s + ON_TIME_S]
    if not late:
        return 0.0, False
    from_s = shown[late[0] - 1][0] if late[0] else 0.0
    is_behind = late[-1] == len(shown) - 1
    until_s = shown[late[-1] if is_behind else late[-1] + 1][0]
    return until_s - from_s, is_behind
