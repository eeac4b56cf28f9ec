"""What caption the events of one segment add up to: pure, the same in every instance.

Everything follows from the log: which events there are, in which order JetStream stored them, and
when. So a caption needs no memory of a process, and two processes that look at the same events make
the same caption, under the same revision: the sequence of the last event that counts.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from speechbus_contracts import (
    CaptionJoined,
    CaptionState,
    ContractError,
    SegmentFinal,
    SegmentRetracted,
    TranslationFinal,
    TranslationMissing,
    WriteSubject,
    decode_event,
    parse_transcription_id,
)

__all__ = [
    "ORPHAN_AFTER_MS",
    "Joined",
    "Part",
    "Stored",
    "Translation",
    "build_orphan",
    "join",
    "parse_part",
]

ORPHAN_AFTER_MS: Final = 120_000
"""A translation waits so long for its final."""

_UNDELIVERED: Final = "undelivered"
"""Why a translation is missing that its provider has promised: it is only slow, perhaps."""

Translation = TranslationFinal | TranslationMissing
Part = SegmentFinal | SegmentRetracted | Translation
"""What counts for a caption."""


class Stored(msgspec.Struct, frozen=True):
    """An event as the log has it."""

    sequence: int
    at_ms: int
    """When it was stored, ms since 1970 by the store's clock, the only one that decides."""
    event: Part


class Joined(msgspec.Struct, frozen=True):
    """A segment's caption after some of its events."""

    caption: CaptionJoined
    deadline_ms: int
    """When it is published incomplete, by the store's clock."""

    @property
    def is_complete(self) -> bool:
        """Every language that was asked for is here."""
        return not self.caption.missing

    @property
    def is_settled(self) -> bool:
        """Nothing is missing that may still come in time."""
        reasons = self.caption.reasons
        return all(
            reasons.get(language, _UNDELIVERED) != _UNDELIVERED for language in self.caption.missing
        )


def parse_part(subject: str, payload: bytes) -> Part:
    """Return the event in a message of the write tree.

    Its ids go into a subject and a header, and its tenant decides who reads the caption. So they
    must be those of the subject, on which the server checked the writer's right.

    Raises:
        ContractError: no event that counts, or one that does not belong on this subject.
    """
    event = decode_event(payload)
    match event:
        case SegmentFinal():
            expected = WriteSubject(event.tenant, event.stream_id, "final")
        case SegmentRetracted():
            expected = WriteSubject(event.tenant, event.stream_id, "retracted")
        case TranslationFinal() | TranslationMissing():
            expected = WriteSubject(event.tenant, event.stream_id, "translation", event.language)
        case _:
            raise ContractError("only finals, retractions and translations are joined")
    if str(expected) != subject:
        raise ContractError("an event names another stream or language than its subject")
    stream_id, index = parse_transcription_id(event.transcription_id)
    if stream_id != event.stream_id or getattr(event, "index", index) != index:
        raise ContractError("a transcription id is not that of its stream and index")
    return event


def join(events: Iterable[Stored], *, wait_ms: int) -> Joined | None:
    """Add up events of one segment.

    Args:
        events: in the order of the log. Translations from before the final may be left out as long
            as the caption is complete without them.
        wait_ms: deadline of translations, behind the final.

    Returns:
        None without a final.
    """
    ordered = list(events)
    source = _find_source(ordered)
    if source is None:
        return None
    base, final = source
    retracted = next(
        (
            each
            for each in ordered
            if isinstance(each.event, SegmentRetracted) and each.sequence > base.sequence
        ),
        None,
    )
    if retracted is not None:
        caption = _build(final, retracted.sequence, state="complete")
        return Joined(msgspec.structs.replace(caption, is_retracted=True), base.at_ms + wait_ms)
    found = _find_translations(ordered, base, final)
    last = max((base, *found.values()), key=lambda each: each.sequence)
    wanted = tuple(dict.fromkeys(final.target_languages))
    texts = {
        language: each.event.text
        for language, each in found.items()
        if isinstance(each.event, TranslationFinal)
    }
    missing = tuple(language for language in wanted if language not in texts)
    reasons = {
        language: each.event.reason
        for language, each in found.items()
        if isinstance(each.event, TranslationMissing)
    }
    deadline_ms = base.at_ms + wait_ms
    state: CaptionState = "incomplete" if missing else "complete"
    if last.at_ms > deadline_ms:
        state = "late"
    caption = _build(final, last.sequence, state=state)
    return Joined(
        msgspec.structs.replace(caption, translations=texts, missing=missing, reasons=reasons),
        deadline_ms,
    )


def build_orphan(translation: TranslationFinal, *, sequence: int) -> CaptionJoined:
    """Return the caption of a translation whose final never came."""
    return CaptionJoined(
        stream_id=translation.stream_id,
        tenant=translation.tenant,
        transcription_id=translation.transcription_id,
        revision=sequence,
        state="orphan",
        source=None,
        translations={translation.language: translation.text},
    )


def _find_source(ordered: Sequence[Stored]) -> tuple[Stored, SegmentFinal] | None:
    """Return the first of the finals of the highest revision: a later one is a repetition."""
    source: tuple[Stored, SegmentFinal] | None = None
    for each in ordered:
        event = each.event
        if isinstance(event, SegmentFinal) and (
            source is None or event.revision > source[1].revision
        ):
            source = each, event
    return source


def _find_translations(
    ordered: Sequence[Stored], base: Stored, final: SegmentFinal
) -> dict[str, Stored]:
    """Return what counts for each language: the first word, and a text rather than none.

    Texts from before the final only stand in for what did not come behind it. So a caption that is
    complete without them is the same with them.
    """
    found: dict[str, Stored] = {}
    early: dict[str, Stored] = {}
    for each in ordered:
        event = each.event
        if isinstance(event, SegmentFinal | SegmentRetracted) or event.revision != final.revision:
            continue
        if each.sequence < base.sequence:
            is_wanted = event.language in final.target_languages
            if is_wanted and isinstance(event, TranslationFinal) and _is_in_time(each, base):
                early.setdefault(event.language, each)
            continue
        known = found.get(event.language)
        if known is None or (
            isinstance(known.event, TranslationMissing) and isinstance(event, TranslationFinal)
        ):
            found[event.language] = each
    for language, each in early.items():
        if language not in found or isinstance(found[language].event, TranslationMissing):
            found[language] = each
    # That nobody translates what nobody wanted says nothing.
    return {
        language: each
        for language, each in found.items()
        if isinstance(each.event, TranslationFinal) or language in final.target_languages
    }


def _is_in_time(early: Stored, base: Stored) -> bool:
    return base.at_ms - early.at_ms <= ORPHAN_AFTER_MS


def _build(final: SegmentFinal, revision: int, *, state: CaptionState) -> CaptionJoined:
    return CaptionJoined(
        stream_id=final.stream_id,
        tenant=final.tenant,
        transcription_id=final.transcription_id,
        revision=revision,
        state=state,
        source=final,
    )
