"""What the correlator puts out: a segment with its translations."""

from collections.abc import Mapping
from typing import Literal

from speechbus_contracts.events import Integer, StreamEvent
from speechbus_contracts.segments import SegmentFinal

__all__ = ["CaptionJoined", "CaptionState"]

CaptionState = Literal["complete", "incomplete", "late", "orphan"]


class CaptionJoined(StreamEvent, frozen=True, kw_only=True, tag="caption.joined"):
    """One segment and the translations that belong to it."""

    transcription_id: str
    revision: Integer
    """Counts the captions of this segment, from 0; readers keep the highest."""
    state: CaptionState
    """`complete`: all asked for; `incomplete`: some are missing; `late`: completed after an
    incomplete one; `orphan`: a translation whose source never came."""
    source: SegmentFinal | None
    """Null with `orphan` only."""
    translations: Mapping[str, str] = {}
    """Text by BCP 47 tag."""
    missing: tuple[str, ...] = ()
    """Languages asked for and not here."""
