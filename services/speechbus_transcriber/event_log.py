"""Guarded writes of one stream's events: the server refuses them once somebody else owns it."""

from functools import partial
from typing import Final

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    Gap,
    SegmentFinal,
    SegmentRetracted,
    StreamClosed,
    StreamCovered,
    StreamFlushed,
    TranslationFinal,
    WriteSubject,
    build_guard_headers,
    encode_event,
    event_dedup_id,
    segment_dedup_id,
    translation_dedup_id,
)
from speechbus_runtime.bus import encode_headers
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from speechbus_runtime.tracing import Span, Tracing
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.measures import Measures

__all__ = ["EventLog", "LoggedEvent"]

FINALS_MAX: Final = 64
"""Finals whose spans are remembered for their translations; those come within seconds."""

LoggedEvent = (
    SegmentFinal
    | SegmentRetracted
    | StreamCovered
    | StreamFlushed
    | Gap
    | StreamClosed
    | TranslationFinal
)


class EventLog:
    """Writes a stream's events under its claim.

    Args:
        owned: the stream and the token of its claim.
        publisher: stores the events.
        measures: count gaps, and writes of those who have lost their stream.
        tracing: makes a span for each final, gap and end.
    """

    def __init__(
        self,
        owned: OwnedStream,
        publisher: AckedPublisher,
        measures: Measures,
        tracing: Tracing | None = None,
    ) -> None:
        self._tenant = owned.opened.tenant
        self._stream_id = owned.opened.stream_id
        self._token = owned.token
        self._previous = owned.token
        self._claim_subject = str(WriteSubject(self._tenant, self._stream_id, "claim"))
        self._publisher = publisher
        self._measures = measures
        self._tracing = tracing or Tracing()
        self._traceparent = owned.traceparent
        self._last_index = owned.checkpoint.next_index - 1
        self._finals: dict[str, str] = {}

    async def write(self, event: LoggedEvent, *, parent: str = "") -> int:
        """Store one event; waits as long as NATS is away. One at a time (nats.md, pitfall 4).

        Args:
            event: of this stream.
            parent: `traceparent` of the session that it comes from; empty: of none.

        Returns:
            Its sequence in TRANSCRIPT.

        Raises:
            StaleGuardError: the stream has another owner.
        """
        subject, dedup_id = self._describe(event)
        headers = build_guard_headers(
            dedup_id,
            token=self._token,
            claim_subject=self._claim_subject,
            previous=self._previous,
        )
        with self._start_span(event, parent or self._traceparent) as span:
            try:
                ack = await self._publisher.publish(
                    str(subject),
                    encode_event(event),
                    headers=encode_headers(headers | span.headers),
                    store=TRANSCRIPT_STORE,
                )
            except StaleGuardError:
                self._measures.count_fenced()
                raise
        # A translator may have stepped in before: then this is its event, from before our last one.
        self._previous = max(self._previous, ack.seq)
        if isinstance(event, SegmentFinal):
            self._note_final(event, span)
        elif isinstance(event, Gap) and not ack.duplicate:
            self._measures.count_gap(event)
        return ack.seq

    def _note_final(self, final: SegmentFinal, span: Span) -> None:
        if final.index > self._last_index:  # else it is a correction, whenever that was made
            self._last_index = final.index
            waited_ms = max(0, final.emitted_at - final.audio_received_at)
            self._measures.record_final(final.provider, waited_s=waited_ms / 1000)
        if span.traceparent:
            self._finals[final.transcription_id] = span.traceparent
            if len(self._finals) > FINALS_MAX:
                del self._finals[next(iter(self._finals))]

    def _start_span(self, event: LoggedEvent, parent: str) -> Span:
        if not self._tracing.is_on:
            return Span(None, parent)
        started_at_ms = None
        about: dict[str, str | int | float | bool]
        match event:
            case SegmentFinal():
                name = "final"
                # From the end of what was said: as long as the span is, its speaker waited.
                started_at_ms = min(event.audio_received_at, event.emitted_at)
                about = {"speechbus.provider": event.provider, "speechbus.segment": event.index}
            case TranslationFinal():
                name = "translation"
                parent = self._finals.get(event.transcription_id, parent)
                about = {"speechbus.provider": event.provider, "speechbus.language": event.language}
            case Gap():
                name = "gap"
                about = {
                    "speechbus.reason": event.reason,
                    "speechbus.duration": (event.to_ms - event.from_ms) / 1000,
                }
            case StreamClosed():
                name = "close stream"
                about = {"speechbus.reason": event.reason}
            case _:
                return Span(None, parent)
        about["speechbus.stream.id"] = self._stream_id
        return self._tracing.start(
            name, kind="producer", parent=parent, started_at_ms=started_at_ms, attributes=about
        )

    def _describe(self, event: LoggedEvent) -> tuple[WriteSubject, str]:
        subject = partial(WriteSubject, self._tenant, self._stream_id)
        match event:
            case SegmentFinal():
                return subject("final"), segment_dedup_id(event.transcription_id, event.revision)
            case SegmentRetracted():
                return subject("retracted"), self._dedup_id("retracted", event.index)
            case StreamCovered():
                return subject("covered"), self._dedup_id("covered", event.covered_ms)
            case StreamFlushed():
                return subject("flushed"), self._dedup_id("flushed", event.chunk)
            case Gap():
                return subject("gap"), self._dedup_id("gap", event.to_ms)
            case StreamClosed():
                return subject("closed"), self._dedup_id("closed", 0)
            case TranslationFinal():
                return subject("translation", event.language), translation_dedup_id(
                    event.transcription_id, event.language, event.revision
                )

    def _dedup_id(self, kind: str, ordinal: int) -> str:
        return event_dedup_id(self._stream_id, kind, ordinal)
