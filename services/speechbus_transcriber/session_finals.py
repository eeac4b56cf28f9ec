"""What a session's finals were published as, for what the provider says about them later. Pure."""

from typing import Final

import msgspec

from speechbus_contracts import SegmentFinal, TranslationFinal
from speechbus_transcriber.providers.interface import Heard, Translated

__all__ = ["SessionFinals"]

FINALS_MAX: Final = 256
"""Finals remembered: some ten minutes; a translation takes seconds."""


class SessionFinals:
    """The finals of one provider session, by the provider's ids, which mean nothing elsewhere."""

    def __init__(self) -> None:
        self._finals: dict[str, SegmentFinal] = {}
        self._sequences: dict[str, int] = {}
        self._corrected: set[str] = set()
        self.traceparent = ""
        """Of the session: they follow from it."""

    def add(self, final: SegmentFinal) -> None:
        """A final has been put out."""
        provider_id = final.provider_transcription_id
        if provider_id is None:
            return
        self._finals[provider_id] = final
        if len(self._finals) > FINALS_MAX:
            oldest = next(iter(self._finals))
            self._corrected.discard(oldest)
            forgotten = self._finals.pop(oldest)
            self._sequences.pop(forgotten.transcription_id, None)

    def note_stored(self, final: SegmentFinal, sequence: int) -> None:
        """The log has it under this sequence."""
        if final.provider_transcription_id in self._finals:
            self._sequences[final.transcription_id] = sequence

    def forget(self, final: SegmentFinal) -> bool:
        """The store refused it: nothing that is said about it later has anything to refer to.

        Returns:
            Whether an earlier revision of it is stored.
        """
        self._finals.pop(final.provider_transcription_id or "", None)
        self._corrected.discard(final.provider_transcription_id or "")
        return self._sequences.pop(final.transcription_id, None) is not None

    def correct(self, heard: Heard, *, last_index: int, now_ms: int) -> SegmentFinal | None:
        """Return the next revision of a final that the provider has changed.

        Providers' translations do not say which of its texts they are of, so from now on none of
        theirs counts: translators make those.

        Args:
            heard: of an id that `knows`.
            last_index: of the stream's last segment. Only that one can be corrected: the last
                final in the log is where the next worker goes on.
            now_ms: ms since 1970.

        Returns:
            None when nothing changed, or it is too late.
        """
        final = self._finals[heard.provider_transcription_id or ""]
        if not heard.is_final or final.index != last_index or heard.text in {"", final.text}:
            return None
        corrected = msgspec.structs.replace(
            final,
            text=heard.text,
            words=None,
            confidence=heard.confidence,
            revision=final.revision + 1,
            emitted_at=now_ms,
            promised_languages=(),
        )
        self.add(corrected)
        self._corrected.add(heard.provider_transcription_id or "")
        return corrected

    def knows(self, heard: Heard) -> bool:
        """Whether this utterance has had its final."""
        return heard.provider_transcription_id in self._finals

    def translate(self, translated: Translated) -> TranslationFinal | None:
        """Return the event for a translation.

        Returns:
            None: its final is not known (any more), or has been corrected.
        """
        final = self._finals.get(translated.provider_transcription_id)
        if final is None or translated.provider_transcription_id in self._corrected:
            return None
        return TranslationFinal(
            stream_id=final.stream_id,
            tenant=final.tenant,
            transcription_id=final.transcription_id,
            language=translated.language,
            text=translated.text,
            start_ms=final.start_ms,
            end_ms=final.end_ms,
            provider=final.provider,
            revision=final.revision,
        )

    def complete(self, translation: TranslationFinal) -> TranslationFinal | None:
        """Return the event with the sequence of its source; None: that could not be stored."""
        sequence = self._sequences.get(translation.transcription_id)
        if sequence is None:
            return None
        return msgspec.structs.replace(translation, source_sequence=sequence)
