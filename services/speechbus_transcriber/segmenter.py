"""Turns what a session heard into the stream's segments: ids, revisions, what is covered.

Pure: state in, events and state out. All times are the stream's.
"""

from typing import Final, TypeVar

import msgspec

from speechbus_contracts import (
    Gap,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamCovered,
    Word,
    build_transcription_id,
)
from speechbus_transcriber.checkpoint import Checkpoint
from speechbus_transcriber.overlap import Said, trim_repeated
from speechbus_transcriber.providers.interface import Heard

__all__ = ["COVERED_EVERY_MS", "SegmentContext", "SegmentEvent", "Segmenter", "begin"]

COVERED_EVERY_MS: Final = 10_000
"""A checkpoint in silence is written this often: a new worker re-reads at most this much."""

SegmentEvent = SegmentPartial | SegmentFinal | SegmentRetracted | StreamCovered | Gap


class SegmentContext(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while one worker runs one session of a stream."""

    stream_id: str
    tenant: str
    epoch: int
    provider: str
    language: str | None
    target_languages: tuple[str, ...]
    promised_languages: tuple[str, ...] = ()
    """Those of them that the session's provider translates into."""
    channel: int | None = None
    """Of the source, as `stream.opened` says."""


class Segmenter(msgspec.Struct, frozen=True, kw_only=True):
    """Where the segments of a stream stand."""

    next_index: int
    """Index of the open segment, or of the next one if none is open."""
    covered_ms: int
    """Stream time up to which everything is in finals or gaps, or held no speech."""
    checkpoint_ms: int
    """`covered_ms` as the log has it."""
    finals: int
    gap_ms: int
    revision: int = 0
    """Of the open segment's next event."""
    is_shown: bool = False
    """A partial of the open segment may have reached a subscriber."""
    shown_text: str = ""
    shown_end_ms: int = -1
    said: Said = Said()
    """What finals have said."""

    def hear(
        self, heard: Heard, context: SegmentContext, *, audio_received_at: int, now_ms: int
    ) -> tuple[list[SegmentEvent], "Segmenter"]:
        """Publish what one result means.

        Args:
            heard: the result, in stream time.
            context: the session it came from.
            audio_received_at: when ingest had the audio behind it, ms since 1970.
            now_ms: ms since 1970.

        Returns:
            Events in order, and the state for the next result.
        """
        end_ms = heard.end_ms
        if not heard.is_final:
            if not heard.text or (heard.text == self.shown_text and end_ms == self.shown_end_ms):
                return [], self
            partial = _build(
                SegmentPartial, self, heard, context, self.covered_ms, audio_received_at, now_ms
            )
            return [partial], msgspec.structs.replace(
                self,
                revision=self.revision + 1,
                is_shown=True,
                shown_text=heard.text,
                shown_end_ms=end_ms,
            )
        covered_ms = end_ms if heard.covered_ms is None else heard.covered_ms
        if end_ms > self.covered_ms:
            heard = trim_repeated(heard, self.said)
        if end_ms <= self.covered_ms or not heard.text:
            # Nothing new: said before by another session, or filler that came to nothing.
            return self.cover(covered_ms, context, audio_received_at=audio_received_at)
        covered_ms = max(covered_ms, self.covered_ms)
        final = _build(SegmentFinal, self, heard, context, covered_ms, audio_received_at, now_ms)
        return [final], Segmenter(
            next_index=self.next_index + 1,
            covered_ms=covered_ms,
            checkpoint_ms=covered_ms,
            finals=self.finals + 1,
            gap_ms=self.gap_ms,
            said=self.said.add(heard.text, to_ms=end_ms),
        )

    def cover(
        self, covered_ms: int, context: SegmentContext, *, audio_received_at: int
    ) -> tuple[list[SegmentEvent], "Segmenter"]:
        """Note that nothing was said up to `covered_ms` (stream time) beyond the finals so far."""
        retracted, after = self.retract(context)
        covered_ms = max(covered_ms, self.covered_ms)
        after = msgspec.structs.replace(after, covered_ms=covered_ms)
        if covered_ms - after.checkpoint_ms < COVERED_EVERY_MS:
            return [*retracted], after
        covered = StreamCovered(
            stream_id=context.stream_id,
            tenant=context.tenant,
            epoch=context.epoch,
            covered_ms=covered_ms,
            next_index=after.next_index,
            audio_received_at=audio_received_at,
        )
        return [*retracted, covered], msgspec.structs.replace(after, checkpoint_ms=covered_ms)

    def retract(self, context: SegmentContext) -> tuple[list[SegmentEvent], "Segmenter"]:
        """Take back the open segment if anybody may have seen it: nothing will follow."""
        if not self.is_shown:
            return [], self
        retracted = SegmentRetracted(
            stream_id=context.stream_id,
            tenant=context.tenant,
            transcription_id=build_transcription_id(context.stream_id, self.next_index),
            index=self.next_index,
            epoch=context.epoch,
            finals=self.finals,
        )
        return [retracted], Segmenter(
            next_index=self.next_index + 1,
            covered_ms=self.covered_ms,
            checkpoint_ms=self.checkpoint_ms,
            finals=self.finals,
            gap_ms=self.gap_ms,
            said=self.said,
        )

    def lose(
        self, from_ms: int, to_ms: int, context: SegmentContext, *, reason: str, now_ms: int
    ) -> tuple[list[SegmentEvent], "Segmenter"]:
        """Name audio that nobody will transcribe; an open segment cannot go on behind it."""
        retracted, after = self.retract(context)
        gap_ms = self.gap_ms + to_ms - from_ms
        gap = Gap(
            stream_id=context.stream_id,
            tenant=context.tenant,
            epoch=context.epoch,
            from_ms=from_ms,
            to_ms=to_ms,
            reason=reason,
            next_index=after.next_index,
            gap_ms_total=gap_ms,
            audio_received_at=now_ms,
        )
        covered_ms = max(self.covered_ms, to_ms)
        return [*retracted, gap], msgspec.structs.replace(
            after, covered_ms=covered_ms, checkpoint_ms=covered_ms, gap_ms=gap_ms
        )

    def disown(self, final: SegmentFinal) -> tuple[Gap, "Segmenter"]:
        """Put a gap in the place of a final that could not be stored."""
        gap_ms = self.gap_ms + final.covered_ms - final.start_ms
        gap = Gap(
            stream_id=final.stream_id,
            tenant=final.tenant,
            epoch=final.epoch,
            from_ms=final.start_ms,
            to_ms=final.covered_ms,
            reason="refused",
            next_index=final.index + 1,
            gap_ms_total=gap_ms,
            audio_received_at=final.audio_received_at,
        )
        return gap, msgspec.structs.replace(self, gap_ms=gap_ms, finals=self.finals - 1)


def begin(checkpoint: Checkpoint, *, is_shown: bool) -> Segmenter:
    """Return the state behind a checkpoint.

    Args:
        checkpoint: from the log.
        is_shown: an earlier owner may have shown partials of the next segment.
    """
    return Segmenter(
        next_index=checkpoint.next_index,
        covered_ms=checkpoint.covered_ms,
        checkpoint_ms=checkpoint.covered_ms,
        finals=checkpoint.finals,
        gap_ms=checkpoint.gap_ms,
        is_shown=is_shown,
        said=checkpoint.said,
    )


_Segment = TypeVar("_Segment", SegmentPartial, SegmentFinal)


def _build(
    kind: type[_Segment],
    state: Segmenter,
    heard: Heard,
    context: SegmentContext,
    covered_ms: int,
    audio_received_at: int,
    now_ms: int,
) -> _Segment:
    words = heard.words
    return kind(
        stream_id=context.stream_id,
        tenant=context.tenant,
        transcription_id=build_transcription_id(context.stream_id, state.next_index),
        index=state.next_index,
        revision=state.revision,
        epoch=context.epoch,
        language=heard.language or context.language,
        text=heard.text,
        start_ms=heard.start_ms,
        end_ms=heard.end_ms,
        provider=context.provider,
        covered_ms=covered_ms,
        audio_received_at=audio_received_at,
        emitted_at=now_ms,
        words=None
        if words is None
        else tuple(
            Word(
                text=word.text,
                start_ms=word.start_ms,
                end_ms=word.end_ms,
                confidence=word.confidence,
            )
            for word in words
        ),
        channel=context.channel,
        confidence=heard.confidence,
        provider_transcription_id=heard.provider_transcription_id,
        target_languages=context.target_languages,
        promised_languages=context.promised_languages,
    )
