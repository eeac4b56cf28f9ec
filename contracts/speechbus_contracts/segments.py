"""Recognized speech: partials that replace each other, and finals."""

from typing import Literal

import msgspec

from speechbus_contracts.events import Integer, StreamEvent

__all__ = ["Delta", "SegmentFinal", "SegmentPartial", "SegmentRetracted", "Word"]


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One word, in stream time."""

    text: str
    start_ms: Integer
    end_ms: Integer
    confidence: float | None = None


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """A hint at what changed; the full text beside it is what counts."""

    text: str
    mode: Literal["append", "replace"]


class _Segment(StreamEvent, frozen=True, kw_only=True):
    transcription_id: str
    """`<stream_id>-<index>`; the same from the first partial to the final, whoever transcribes."""
    index: Integer
    """Counts the stream's segments, from 0."""
    revision: Integer
    """Counts the segment's events of one epoch, from 0.

    A final replaces every partial. Of two partials the one of the higher epoch counts, then of the
    higher revision; of two finals the one of the higher revision.
    """
    epoch: Integer
    """Generation of the worker that wrote it."""
    language: str | None
    """BCP 47 tag of the speech; null: unknown."""
    text: str
    """The whole segment so far."""
    start_ms: Integer
    end_ms: Integer
    provider: str
    covered_ms: Integer
    """Audio before this is in finals (this one included), in gaps, or held no speech."""
    audio_received_at: Integer
    """When ingest had the audio at `end_ms` (of finals: at `covered_ms`), ms since 1970."""
    emitted_at: Integer
    """ms since 1970, on the worker's clock."""
    delta: Delta | None = None
    words: tuple[Word, ...] | None = None
    speaker: str | None = None
    channel: Integer | None = None
    confidence: float | None = None
    """0 to 1; null: the provider tells none."""
    provider_transcription_id: str | None = None
    target_languages: tuple[str, ...] = ()
    """Translations that were asked for."""
    promised_languages: tuple[str, ...] = ()
    """Those of them that the segment's provider translates into; translators do the others."""


class SegmentPartial(_Segment, frozen=True, kw_only=True, tag="segment.partial"):
    """What is understood so far; the next event of this segment replaces it."""


class SegmentFinal(_Segment, frozen=True, kw_only=True, tag="segment.final"):
    """The segment's last word (a correction would be a final of a higher revision)."""


class SegmentRetracted(StreamEvent, frozen=True, kw_only=True, tag="segment.retracted"):
    """Partials of this segment may have been shown and no final follows: remove them."""

    transcription_id: str
    index: Integer
    epoch: Integer
    finals: Integer
    """Finals of the stream so far."""
