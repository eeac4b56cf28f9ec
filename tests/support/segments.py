"""Events of one stream, as the bus has them, with what a test does not care about filled in."""

from typing import Any, Final

from hypothesis import strategies as st

from speechbus_contracts import (
    Gap,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamClosed,
    StreamCovered,
    StreamFlushed,
    build_transcription_id,
)

__all__ = [
    "EVENTS",
    "STREAM",
    "closed",
    "covered",
    "final",
    "flushed",
    "gap",
    "item",
    "partial",
    "retracted",
]

STREAM: Final = "01a1f813-a740-7bf3-a1c9-d27e40816cfe"
_OF_STREAM: Final[dict[str, Any]] = {"stream_id": STREAM, "tenant": "acme", "epoch": 1}


def item(index: int) -> str:
    """The id of segment `index`."""
    return build_transcription_id(STREAM, index)


def _segment(index: int, text: str, end_ms: int, start_ms: int, covered_ms: int) -> dict[str, Any]:
    return _OF_STREAM | {
        "transcription_id": item(index),
        "index": index,
        "revision": 0,
        "language": "en",
        "text": text,
        "start_ms": start_ms,
        "end_ms": end_ms,
        "provider": "echo",
        "covered_ms": covered_ms,
        "audio_received_at": 0,
        "emitted_at": 0,
    }


def partial(index: int, text: str, end_ms: int = 500, *, start_ms: int = 0) -> SegmentPartial:
    """Segment `index` as it is heard now."""
    return SegmentPartial(**_segment(index, text, end_ms, start_ms, 0))


def final(
    index: int, text: str, end_ms: int = 900, *, start_ms: int = 0, covered_ms: int = 0
) -> SegmentFinal:
    """The last word on segment `index`; covers what ends with it unless told otherwise."""
    return SegmentFinal(**_segment(index, text, end_ms, start_ms, covered_ms or end_ms))


def retracted(index: int) -> SegmentRetracted:
    """Segment `index` came to nothing."""
    return SegmentRetracted(**_OF_STREAM, transcription_id=item(index), index=index, finals=index)


def covered(next_index: int, covered_ms: int) -> StreamCovered:
    """Nothing was said up to there."""
    return StreamCovered(
        **_OF_STREAM, covered_ms=covered_ms, next_index=next_index, audio_received_at=0
    )


def gap(next_index: int, from_ms: int, to_ms: int) -> Gap:
    """Nobody transcribes this."""
    return Gap(
        **_OF_STREAM,
        from_ms=from_ms,
        to_ms=to_ms,
        reason="provider",
        next_index=next_index,
        gap_ms_total=to_ms - from_ms,
        audio_received_at=0,
    )


def flushed(chunk: int, at_ms: int = 900) -> StreamFlushed:
    """The answer to flush chunk `chunk`."""
    return StreamFlushed(**_OF_STREAM, chunk=chunk, at_ms=at_ms)


def closed(reason: str = "end") -> StreamClosed:
    """The last event."""
    return StreamClosed(**_OF_STREAM, reason=reason, audio_ms=0, finals=0, gap_ms=0)


_INDICES = st.integers(0, 3)
_TEXTS = st.sampled_from(["", "good", "good day", "goo", "はい"])
EVENTS = st.lists(
    st.one_of(
        st.builds(partial, _INDICES, _TEXTS),
        st.builds(final, _INDICES, _TEXTS),
        st.builds(retracted, _INDICES),
        st.builds(gap, _INDICES, st.just(0), st.integers(0, 900)),
        st.builds(covered, _INDICES, st.integers(0, 900)),
        st.builds(flushed, st.integers(0, 3)),
    ),
    max_size=12,
)
"""Anything that a stream may say, in any order."""
