"""Where a stream stands, from its log alone."""

from collections.abc import Iterable

import msgspec

from speechbus_contracts import (
    AnyEvent,
    Gap,
    SegmentFinal,
    SegmentRetracted,
    StreamCovered,
)
from speechbus_transcriber.overlap import Said

__all__ = ["Checkpoint", "build_checkpoint"]


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker needs to carry a stream on."""

    covered_ms: int = 0
    """Audio before this is in finals or gaps, or held no speech."""
    next_index: int = 0
    """Index of the next segment (an unfinished one keeps its index)."""
    finals: int = 0
    gap_ms: int = 0
    audio_received_at: int | None = None
    """When ingest had the audio at `covered_ms`, ms since 1970; None: nothing covered yet."""
    said: Said = Said()
    """What the last final has said: where it does not cover its end, it is heard again."""


def build_checkpoint(events: Iterable[AnyEvent]) -> Checkpoint:
    """Combine the last final, covered, gap and retracted event of one stream, in any order."""
    found = Checkpoint()
    final_index = retracted_index = -1
    finals_before = 0
    for event in events:
        match event:
            case SegmentFinal():
                final_index = event.index
                said = Said().add(event.text, to_ms=event.end_ms)
                found = msgspec.structs.replace(found, said=said)
                found = _advance(found, event.covered_ms, event.index + 1, event.audio_received_at)
            case StreamCovered():
                found = _advance(found, event.covered_ms, event.next_index, event.audio_received_at)
            case Gap():
                found = _advance(found, event.to_ms, event.next_index, event.audio_received_at)
                found = msgspec.structs.replace(found, gap_ms=event.gap_ms_total)
            case SegmentRetracted():
                retracted_index, finals_before = event.index, event.finals
                found = _advance(found, 0, event.index + 1, 0)
            case _:
                pass
    return msgspec.structs.replace(
        found, finals=finals_before + max(0, final_index - retracted_index)
    )


def _advance(
    found: Checkpoint, covered_ms: int, next_index: int, audio_received_at: int
) -> Checkpoint:
    is_further = covered_ms > found.covered_ms
    return msgspec.structs.replace(
        found,
        covered_ms=max(found.covered_ms, covered_ms),
        next_index=max(found.next_index, next_index),
        audio_received_at=audio_received_at if is_further else found.audio_received_at,
    )
