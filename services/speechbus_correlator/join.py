"""What caption a final becomes: pure decisions, the same in every instance."""

from speechbus_contracts import (
    CaptionJoined,
    ContractError,
    SegmentFinal,
    WriteSubject,
    decode_event,
    parse_transcription_id,
)

__all__ = ["is_told", "join_final", "parse_final"]


def parse_final(subject: str, payload: bytes) -> SegmentFinal:
    """Return the final in a message of the write tree.

    Its ids go into a subject and a header, and its tenant decides who reads the caption. So they
    must be those of the subject, on which the server checked the writer's right.

    Raises:
        ContractError: no final, or one that does not belong on this subject.
    """
    event = decode_event(payload)
    if not isinstance(event, SegmentFinal):
        raise ContractError("only finals belong on a final's subject")
    if str(WriteSubject(event.tenant, event.stream_id, "final")) != subject:
        raise ContractError("a final names another stream than its subject")
    if parse_transcription_id(event.transcription_id) != (event.stream_id, event.index):
        raise ContractError("a final's transcription id is not that of its stream and index")
    return event


def join_final(final: SegmentFinal, *, revision: int) -> CaptionJoined:
    """Return the caption of a final that has no translations yet.

    Args:
        final: the segment.
        revision: of the caption, from 0; how to find the right one says `is_told`.
    """
    # A client may ask for a language twice; it is missing once.
    missing = tuple(dict.fromkeys(final.target_languages))
    return CaptionJoined(
        stream_id=final.stream_id,
        tenant=final.tenant,
        transcription_id=final.transcription_id,
        revision=revision,
        state="incomplete" if missing else "complete",
        source=final,
        missing=missing,
    )


def is_told(final: SegmentFinal, earlier: CaptionJoined) -> bool:
    """Tell whether a stored caption of the same segment makes this final's own unnecessary.

    True for a repetition, and for a final that was corrected before its turn came. False when
    `final` is the correction: its caption takes the next revision that is free.
    """
    return earlier.source is not None and earlier.source.revision >= final.revision
