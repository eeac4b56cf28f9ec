"""Message headers: names, and the values that make writes idempotent and guarded."""

from typing import Final

__all__ = [
    "CONTENT_TYPE",
    "CONTENT_TYPE_JSON",
    "EXPECTED_LAST_SUBJECT_SEQUENCE",
    "EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT",
    "MSG_ID",
    "MSG_TTL",
    "PREVIOUS_SEQUENCE",
    "TRACEPARENT",
    "build_claim_headers",
    "build_dedup_headers",
    "build_guard_headers",
    "build_session_headers",
    "caption_dedup_id",
    "claim_dedup_id",
    "event_dedup_id",
    "job_dedup_id",
    "resumed_dedup_id",
    "segment_dedup_id",
    "translation_dedup_id",
    "translation_missing_dedup_id",
]

MSG_ID: Final = "Nats-Msg-Id"
MSG_TTL: Final = "Nats-TTL"
EXPECTED_LAST_SUBJECT_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
PREVIOUS_SEQUENCE: Final = "Speechbus-Previous-Sequence"
TRACEPARENT: Final = "traceparent"
CONTENT_TYPE: Final = "content-type"
CONTENT_TYPE_JSON: Final = "application/json"


def build_dedup_headers(dedup_id: str) -> dict[str, str]:
    """Headers of a write that may be repeated: the second one is dropped by the server."""
    return {CONTENT_TYPE: CONTENT_TYPE_JSON, MSG_ID: dedup_id}


def build_claim_headers(
    dedup_id: str, *, last_claim_sequence: int, previous: int = 0
) -> dict[str, str]:
    """Headers of a claim: refused unless `last_claim_sequence` (0: none) is still the last.

    Args:
        dedup_id: names the claim.
        last_claim_sequence: sequence of the last claim, 0: there is none.
        previous: of the first claim, sequence of `opened`; 0: readers look into the store for
            what a former owner may have written last.
    """
    claim = build_dedup_headers(dedup_id) | {
        EXPECTED_LAST_SUBJECT_SEQUENCE: str(last_claim_sequence)
    }
    return claim | {PREVIOUS_SEQUENCE: str(previous)} if previous else claim


def build_guard_headers(
    dedup_id: str, *, token: int, claim_subject: str, previous: int = 0
) -> dict[str, str]:
    """Headers of a write that the server refuses once somebody else has claimed the stream.

    Args:
        dedup_id: names the event.
        token: sequence of the writer's claim.
        claim_subject: of the stream.
        previous: sequence of the writer's event before this one, at first that of its claim:
            readers see whether they have missed it. 0: not told.
    """
    guard = build_dedup_headers(dedup_id) | {
        EXPECTED_LAST_SUBJECT_SEQUENCE: str(token),
        EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: claim_subject,
    }
    return guard | {PREVIOUS_SEQUENCE: str(previous)} if previous else guard


def build_session_headers(dedup_id: str, *, last_sequence: int, ttl_s: int) -> dict[str, str]:
    """Headers of the next word about a session.

    Args:
        dedup_id: unique to this write.
        last_sequence: the word before it, 0: none; refused unless that is still the last.
        ttl_s: the store forgets it after so many seconds, at least 1.
    """
    return build_dedup_headers(dedup_id) | {
        EXPECTED_LAST_SUBJECT_SEQUENCE: str(last_sequence),
        MSG_TTL: f"{ttl_s}s",
    }


def job_dedup_id(stream_id: str, epoch: int) -> str:
    """One job per stream and epoch, whoever asks for it."""
    return f"{stream_id}:job:{epoch}"


def claim_dedup_id(stream_id: str, epoch: int, worker_id: str) -> str:
    """One claim per stream, epoch and worker.

    Without the worker, JetStream with replicas answers the loser of a race with the winner's
    sequence and `duplicate`, before it looks at the expected sequence: two owners, one token.
    """
    return f"{stream_id}:claim:{worker_id}:{epoch}"


def resumed_dedup_id(stream_id: str, ingest_epoch: int, connection_id: str) -> str:
    """One taking of a stream per ingest epoch and connection: one ingest may have two rivals."""
    return f"{stream_id}:resumed:{connection_id}:{ingest_epoch}"


def event_dedup_id(stream_id: str, kind: str, ordinal: int) -> str:
    """One event of `kind` per stream and `ordinal`.

    The ordinal is `to_ms` of `gap`, `covered_ms` of `covered`, `chunk` of `flushed`, the segment's
    index of `retracted`, and 0 where a stream has only one such event (`opened`, `closed`).
    """
    return f"{stream_id}:{kind}:{ordinal}"


def segment_dedup_id(transcription_id: str, revision: int) -> str:
    """One final per segment and revision."""
    return f"{transcription_id}:{revision}"


def caption_dedup_id(transcription_id: str, revision: int) -> str:
    """One caption per segment and caption revision."""
    return f"{transcription_id}:caption:{revision}"


def translation_dedup_id(transcription_id: str, language: str, revision: int) -> str:
    """One translation per final, revision of that final, and target language."""
    return f"{transcription_id}:{language}:{revision}"


def translation_missing_dedup_id(transcription_id: str, language: str, revision: int) -> str:
    """One word that nobody translates, per final, revision of that final, and language."""
    return f"{transcription_id}:{language}:missing:{revision}"
