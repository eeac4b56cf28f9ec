"""Guarded writes of one stream's events: the server refuses them once somebody else owns it."""

from speechbus_contracts import (
    Gap,
    SegmentFinal,
    SegmentRetracted,
    StreamClosed,
    StreamCovered,
    StreamFlushed,
    WriteKind,
    WriteSubject,
    build_guard_headers,
    encode_event,
    event_dedup_id,
    segment_dedup_id,
)
from speechbus_runtime.bus import encode_headers
from speechbus_runtime.publisher import AckedPublisher
from speechbus_transcriber.claim import OwnedStream

__all__ = ["EventLog", "LoggedEvent"]

LoggedEvent = SegmentFinal | SegmentRetracted | StreamCovered | StreamFlushed | Gap | StreamClosed


class EventLog:
    """Writes a stream's events under its claim.

    Args:
        owned: the stream and the token of its claim.
        publisher: stores the events.
    """

    def __init__(self, owned: OwnedStream, publisher: AckedPublisher) -> None:
        self._tenant = owned.opened.tenant
        self._stream_id = owned.opened.stream_id
        self._token = owned.token
        self._claim_subject = str(WriteSubject(self._tenant, self._stream_id, "claim"))
        self._publisher = publisher

    async def write(self, event: LoggedEvent) -> None:
        """Store one event; waits as long as NATS is away. One at a time (nats.md, pitfall 4).

        Raises:
            StaleGuardError: the stream has another owner.
        """
        kind, dedup_id = self._describe(event)
        headers = build_guard_headers(
            dedup_id, token=self._token, claim_subject=self._claim_subject
        )
        await self._publisher.publish(
            str(WriteSubject(self._tenant, self._stream_id, kind)),
            encode_event(event),
            headers=encode_headers(headers),
        )

    def _describe(self, event: LoggedEvent) -> tuple[WriteKind, str]:
        match event:
            case SegmentFinal():
                return "final", segment_dedup_id(event.transcription_id, event.revision)
            case SegmentRetracted():
                return "retracted", self._dedup_id("retracted", event.index)
            case StreamCovered():
                return "covered", self._dedup_id("covered", event.covered_ms)
            case StreamFlushed():
                return "flushed", self._dedup_id("flushed", event.chunk)
            case Gap():
                return "gap", self._dedup_id("gap", event.to_ms)
            case StreamClosed():
                return "closed", self._dedup_id("closed", 0)

    def _dedup_id(self, kind: WriteKind, ordinal: int) -> str:
        return event_dedup_id(self._stream_id, kind, ordinal)
