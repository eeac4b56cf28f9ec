"""What a Palabra client is told about its stream: the bus's events as the vendor's messages.

Pure: events and the clock in, messages out.
"""

from collections import OrderedDict, deque
from typing import Final

import msgspec

from speechbus_contracts import (
    AnyEvent,
    ContractError,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamClosed,
    StreamFlushed,
    TranslationFinal,
    parse_transcription_id,
)
from speechbus_ingest.doors.palabra_turns import ManualTurns
from speechbus_ingest.doors.stabilizer import added_text, agreed_text, common_prefix
from speechbus_wire.palabra import (
    FIN,
    ServerMessage,
    Span,
    StreamParameters,
    Transcription,
    TranslatedTranscription,
    append_fin,
    to_seconds,
)

__all__ = ["FINALIZES_MAX", "FINALIZE_TIMEOUT_S", "Answers"]

FINALIZE_TIMEOUT_S: Final = 10.0
"""First-party clients wait this long for the marker (providers.md 3.6)."""
HOLD_S: Final = 1.0
"""A final waits for the marker this long at most. The answer to the flush is stored right behind
it, within milliseconds, unless the final came by itself just before."""
FINALIZES_MAX: Final = 16
"""Unanswered ones: a client asks once per turn and waits; more share the last one's answer."""
TRANSLATIONS_MAX: Final = 256
"""Remembered, so that a translation made again is not sent again: those of the last minutes."""
REVISIONS_MAX: Final = 1_024
"""Finals whose revision is remembered: a worker corrects the last one only, and what translates a
text comes within minutes."""
EARLY_MAX: Final = 64
"""Translations that wait for their final: the bus may reorder, by milliseconds."""
UNKNOWN_LANGUAGE: Final = "auto"
"""Palabra's word for a language nobody named, where the seed knows only codes: any code would be
a claim about the speech."""


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What the client knows of the open segment."""

    index: int = -1
    text: str = ""
    """As sent; empty: nothing yet."""
    end_ms: int = 0
    """Of what was sent."""
    heard_text: str = ""
    """As the bus had it last; the same as `text` with the filler filter."""


class _Finalize(msgspec.Struct, frozen=True):
    chunk: int
    deadline_s: float


def _primary(language: str) -> str:
    """Return what two tags of one language have in common."""
    return language.partition("-")[0].lower()


class Answers:
    """One client's view of its stream.

    With the filler filter each message holds the whole segment and `delta` is a hint. Without it
    `delta` is append-only: only text that two revisions in a row agree on is sent, and the final
    brings the rest. A final that contradicts what was sent has the true text and no `delta`.

    Args:
        stream_id: of the stream.
        parameters: what the client asked for.
    """

    def __init__(self, stream_id: str, parameters: StreamParameters) -> None:
        self._stream_id = stream_id
        self._language = parameters.language or UNKNOWN_LANGUAGE
        self._has_filler_filter = parameters.has_filler_filter
        self._targets = frozenset(map(_primary, parameters.target_languages))
        self._turns = ManualTurns() if parameters.finalization_mode == "manual" else None
        self._still_s = parameters.finalization_timeout_s
        self._still_until_s: float | None = None
        self._shown = _Shown()
        self._last_index = -1  # of the segments that have had their last word
        self._revisions: OrderedDict[int, int] = OrderedDict()  # of these, by index, as told
        self._end_ms = 0  # of everything sent
        self._finalizes: deque[_Finalize] = deque()
        self._held: Transcription | None = None
        self._held_until_s = 0.0
        self._n_bare = 0
        self._translated: deque[tuple[str, str]] = deque(maxlen=TRANSLATIONS_MAX)
        self._early: deque[TranslationFinal] = deque(maxlen=EARLY_MAX)

    def expect_flush(self, chunk: int, *, now_s: float) -> None:
        """Note that the client sent `finalize`, and which flush chunk went out for it."""
        asked = _Finalize(chunk, now_s + FINALIZE_TIMEOUT_S)
        if len(self._finalizes) == FINALIZES_MAX:
            self._finalizes.pop()
        self._finalizes.append(asked)

    def take_event(self, event: AnyEvent, *, now_s: float) -> list[ServerMessage]:
        """Return what the client is told, in order."""
        events = [event] if self._turns is None else self._turns.take_event(event)
        return [message for each in events for message in self._take(each, now_s)]

    def _take(self, event: AnyEvent, now_s: float) -> list[ServerMessage]:
        match event:
            case SegmentPartial():
                self._note_change(event, now_s)
                return self._show(event)
            case SegmentFinal() if event.index > self._last_index:
                return self._finish(event, now_s)
            case SegmentRetracted() if event.index > self._last_index:
                return self._retract(event, now_s)
            case TranslationFinal() if _primary(event.language) in self._targets:
                return self._translate(event)
            case StreamFlushed():
                return self._answer_flush(event)
            case StreamClosed():
                return self._release()
            case _:
                return []

    def next_deadline_s(self) -> float | None:
        """When `handle_deadline` wants to be called; None: never."""
        deadlines_s = [asked.deadline_s for asked in list(self._finalizes)[:1]]
        if self._held is not None:
            deadlines_s.append(self._held_until_s)
        if self._still_until_s is not None:
            deadlines_s.append(self._still_until_s)
        return min(deadlines_s, default=None)

    def is_flush_due(self, *, now_s: float) -> bool:
        """Whether the open segment has not changed for as long as the client allows; once."""
        if self._still_until_s is None or now_s < self._still_until_s:
            return False
        self._still_until_s = None
        return True

    def handle_deadline(self, *, now_s: float) -> list[ServerMessage]:
        """Return what is due: a final that waited long enough, markers nobody answered."""
        messages: list[ServerMessage] = []
        if self._held is not None and self._held_until_s <= now_s:
            messages += self._release()
        while self._finalizes and self._finalizes[0].deadline_s <= now_s:
            self._finalizes.popleft()
            messages += self._say_fin(at_ms=self._end_ms)
        return messages

    def _note_change(self, partial: SegmentPartial, now_s: float) -> None:
        known = (self._shown.index, self._shown.heard_text)
        is_new = partial.index > self._last_index and known != (partial.index, partial.text)
        if self._still_s is not None and is_new:
            self._still_until_s = now_s + self._still_s

    # --- segments ------------------------------------------------------------------------------

    def _show(self, partial: SegmentPartial) -> list[ServerMessage]:
        index = partial.index
        # Partials and finals come by different ways. A partial after its final is old; one before
        # the final of the segment in front of it would make that segment look abandoned.
        if index <= self._last_index or (self._shown.text and self._shown.index < index):
            return []
        shown = self._shown if self._shown.index == index else _Shown()
        text = (
            partial.text
            if self._has_filler_filter
            else agreed_text(shown.text, shown.heard_text, partial.text)
        )
        if not text or (text == shown.text and not self._has_filler_filter):
            self._shown = msgspec.structs.replace(shown, index=index, heard_text=partial.text)
            return []
        self._shown = _Shown(index=index, text=text, end_ms=partial.end_ms, heard_text=partial.text)
        return [*self._release(), self._build(partial, text, shown, is_eos=False)]

    def _finish(self, final: SegmentFinal, now_s: float) -> list[ServerMessage]:
        shown = self._close_segment(final.index)
        self._revisions[final.index] = final.revision
        if len(self._revisions) > REVISIONS_MAX:
            self._revisions.popitem(last=False)
        if not final.text and not shown.text:
            return []
        messages = self._send_last(self._build(final, final.text, shown, is_eos=True), now_s)
        early = [each for each in self._early if each.transcription_id == final.transcription_id]
        for translation in early:
            self._early.remove(translation)
            messages += self._translate(translation)
        return messages

    def _retract(self, retracted: SegmentRetracted, now_s: float) -> list[ServerMessage]:
        shown = self._close_segment(retracted.index)
        if not shown.text:
            return []
        at_s = to_seconds(shown.end_ms)
        empty = Transcription(
            transcription_id=retracted.transcription_id,
            language=self._language,
            is_eos=True,
            segment=Span(text="", start_time=at_s, end_time=at_s),
        )
        return self._send_last(empty, now_s)

    def _close_segment(self, index: int) -> _Shown:
        """Note that a segment has its last word; return what the client knew of it."""
        self._last_index = index
        shown = self._shown
        if shown.index <= index:
            self._shown = _Shown()
            self._still_until_s = None
        return shown if shown.index == index else _Shown()

    def _build(
        self, segment: SegmentPartial | SegmentFinal, text: str, shown: _Shown, *, is_eos: bool
    ) -> Transcription:
        start_ms, end_ms = segment.start_ms, segment.end_ms
        self._end_ms = max(self._end_ms, end_ms)
        span = Span(text=text, start_time=to_seconds(start_ms), end_time=to_seconds(end_ms))
        added = self._added_text(shown.text, text)
        delta_start_ms = min(max(shown.end_ms, start_ms), end_ms) if shown.text else start_ms
        return Transcription(
            transcription_id=segment.transcription_id,
            language=segment.language or self._language,
            is_eos=is_eos,
            segment=span,
            delta=None
            if added is None
            else Span(text=added, start_time=to_seconds(delta_start_ms), end_time=span.end_time),
        )

    def _added_text(self, before: str, after: str) -> str | None:
        if self._has_filler_filter:
            # As in the seed's example, the hint begins with its first word.
            return after[len(common_prefix(before, after)) :].lstrip()
        return added_text(before, after)

    # --- translations --------------------------------------------------------------------------

    def _translate(self, translation: TranslationFinal) -> list[ServerMessage]:
        name = (translation.transcription_id, translation.language)
        if name in self._translated:
            return []
        index = self._find_index(translation.transcription_id)
        if index is None or index > self._last_index:
            self._early.append(translation)
            return []
        # A corrected text has no message here, so what translates it has no source.
        if translation.revision != self._revisions.get(index, translation.revision):
            return []
        self._translated.append(name)
        translated = TranslatedTranscription(
            transcription_id=translation.transcription_id,
            language=translation.language,
            is_eos=True,
            segment=Span(
                text=translation.text,
                start_time=to_seconds(translation.start_ms),
                end_time=to_seconds(translation.end_ms),
            ),
        )
        # Never before its source.
        return [*self._release(), translated]

    def _find_index(self, transcription_id: str) -> int | None:
        try:
            return parse_transcription_id(transcription_id)[1]
        except ContractError:
            return None  # a translator of others made it up

    # --- finalize ------------------------------------------------------------------------------

    def _send_last(self, message: Transcription, now_s: float) -> list[ServerMessage]:
        """Send a segment's last message; hold it while it may have to carry the marker."""
        messages = self._release()
        if not self._finalizes:
            return [*messages, message]
        self._held, self._held_until_s = message, now_s + HOLD_S
        return messages

    def _release(self) -> list[ServerMessage]:
        held, self._held = self._held, None
        return [] if held is None else [held]

    def _answer_flush(self, flushed: StreamFlushed) -> list[ServerMessage]:
        messages: list[ServerMessage] = []
        # Flushes before this one that have no answer will get none: a worker has died.
        while self._finalizes and self._finalizes[0].chunk <= flushed.chunk:
            self._finalizes.popleft()
            if self._held is None:
                messages += self._say_fin(at_ms=flushed.at_ms)
            else:
                messages.append(append_fin(self._held))
                self._held = None
        return messages

    def _say_fin(self, *, at_ms: int) -> list[ServerMessage]:
        """Answer a finalize that no final belongs to."""
        self._n_bare += 1
        span = Span(text=FIN, start_time=to_seconds(at_ms), end_time=to_seconds(at_ms))
        return [
            *self._release(),
            Transcription(
                # An id of its own: clients take a second message of a final's id for a mistake.
                transcription_id=f"{self._stream_id}-fin-{self._n_bare}",
                language=self._language,
                is_eos=True,
                segment=span,
                delta=span,
            ),
        ]
