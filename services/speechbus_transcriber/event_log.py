"""Guarded writes of one stream's events: the server refuses them once somebody else owns it."""

from functools import partial

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
from speechbus_transcriber.claim import OwnedStream
from speechbus_transcriber.measures import Measures

__all__ = ["EventLog", "LoggedEvent"]

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
    """

    def __init__(self, owned: OwnedStream, publisher: AckedPublisher, measures: Measures) -> None:
        self._tenant = owned.opened.tenant
        self._stream_id = owned.opened.stream_id
        self._token = owned.token
        self._previous = owned.token
        self._claim_subject = str(WriteSubject(self._tenant, self._stream_id, "claim"))
        self._publisher = publisher
        self._measures = measures

    async def write(self, event: LoggedEvent) -> int:
        """Store one event; waits as long as NATS is away. One at a time (nats.md, pitfall 4).

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
        try:
            ack = await self._publisher.publish(
                str(subject),
                encode_event(event),
                headers=encode_headers(headers),
                store=TRANSCRIPT_STORE,
            )
        except StaleGuardError:
            self._measures.count_fenced()
            raise
        # A translator may have stepped in before: then this is its event, from before our last one.
        self._previous = max(self._previous, ack.seq)
        if isinstance(event, Gap) and not ack.duplicate:
            self._measures.count_gap(event)
        return ack.seq

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
