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
    """Grows with each caption of this segment; readers keep the highest.

    It is the sequence in TRANSCRIPT of the last event that the caption takes into account.
    """
    state: CaptionState
    """`complete`: all asked for; `incomplete`: some are missing; `late`: something came after the
    deadline (`missing` says whether all is here); `orphan`: a translation whose source never
    came."""
    source: SegmentFinal | None
    """Null with `orphan` only."""
    translations: Mapping[str, str] = {}
    """Text by BCP 47 tag."""
    missing: tuple[str, ...] = ()
    """Languages asked for and not here."""
    reasons: Mapping[str, str] = {}
    """Why, by language, of those of `missing` of which it is known."""
    is_retracted: bool = False
    """Remove the segment: it was taken back after its final."""
