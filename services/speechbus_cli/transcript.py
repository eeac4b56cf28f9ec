"""What a reader of events shows: which of them change the transcript, and their spelling."""

from collections import OrderedDict
from typing import Final

import msgspec

from speechbus_contracts import (
    AnyEvent,
    Gap,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamClaimed,
    StreamClosed,
    StreamOpened,
    TranslationFinal,
    TranslationMissing,
    TranslationPartial,
)

__all__ = ["Line", "Transcript", "format_clock", "format_range", "printable"]

FINALS_REMEMBERED_MAX: Final = 256
"""Segments whose revision is kept: a correction or a late partial concerns one of the last few."""
PARTIALS_MAX: Final = 16
"""Open segments of one stream; there is one, rarely two."""
LANGUAGES_MAX: Final = 16
"""Of one segment, whose translations are remembered."""
_MISSING: Final = {
    "refused": "the engine did not take the text",
    "unavailable": "no engine answered",
    "undelivered": "the provider has not delivered it",
}


class _Shown(msgspec.Struct):
    """A segment that has its final."""

    revision: int
    language: str | None
    start_ms: int
    told: dict[str, bool]
    """By target language: whether a text was shown; False: only why there is none."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One finished line of output."""

    kind: str
    """`final`, `correction`, `translation`, `missing`, `gap`, `opened`, `claimed` or `closed`."""
    text: str


class Transcript:
    """One stream as its events arrive, once or repeated, in any order.

    The rules of the contract: a final is never replaced by a partial or by a lower revision;
    partials of an epoch older than the newest claim are a dead worker's.
    """

    def __init__(self) -> None:
        self.gaps = 0
        self.finals = 0
        self.translations = 0
        self.untranslated = 0
        """Translations of which was said why they are missing."""
        self.providers: list[str] = []
        """Of the finals, in the order of their first."""
        self.is_closed = False
        self._epoch = 0
        self._last_shown = ""
        """The segment whose line is the newest."""
        self._finals: OrderedDict[str, _Shown] = OrderedDict()
        self._partials: OrderedDict[str, SegmentPartial] = OrderedDict()
        self._partial_translations: dict[str, dict[str, TranslationPartial]] = {}

    @property
    def partials(self) -> tuple[SegmentPartial, ...]:
        """Segments that are being spoken, oldest first."""
        return tuple(self._partials.values())

    @property
    def open_lines(self) -> list[str]:
        """What is being said, and what is made of it, for lines that are replaced."""
        lines: list[str] = []
        for partial in self._partials.values():
            lines.append(f"… {printable(partial.text)}")
            translations = self._partial_translations.get(partial.transcription_id, {})
            lines += [
                f"    {language}: {printable(translation.text)}"
                for language, translation in translations.items()
            ]
        return lines

    def apply(self, event: AnyEvent) -> Line | None:
        """Take one event; return the line it finishes, if any."""
        match event:
            case SegmentPartial():
                self._take_partial(event)
            case SegmentFinal():
                return self._take_final(event)
            case SegmentRetracted():
                self._drop_partial(event.transcription_id)
            case TranslationPartial() | TranslationFinal() | TranslationMissing():
                return self._take_translation(event)
            case Gap():
                self.gaps += 1
                where = format_range(event.from_ms, event.to_ms)
                return Line(kind="gap", text=f"{where} (not transcribed: {event.reason})")
            case StreamOpened():
                return Line(kind="opened", text=f"opened: {event.sample_rate_hz} Hz")
            case StreamClaimed():
                return self._take_claim(event)
            case StreamClosed():
                self.is_closed = True
                self._partials.clear()
                self._partial_translations.clear()
                missing = f", {format_clock(event.gap_ms)} missing" if event.gap_ms else ""
                text = f"closed ({event.reason}): {format_clock(event.audio_ms)} of audio{missing}"
                return Line(kind="closed", text=text)
            case _:
                pass
        return None

    def _take_partial(self, event: SegmentPartial) -> None:
        if event.epoch < self._epoch or event.transcription_id in self._finals:
            return
        shown = self._partials.get(event.transcription_id)
        if shown is not None and (shown.epoch, shown.revision) > (event.epoch, event.revision):
            return
        self._partials[event.transcription_id] = event
        if len(self._partials) > PARTIALS_MAX:
            self._drop_partial(next(iter(self._partials)))

    def _drop_partial(self, transcription_id: str) -> None:
        self._partials.pop(transcription_id, None)
        self._partial_translations.pop(transcription_id, None)

    def _take_translation(
        self, event: TranslationPartial | TranslationFinal | TranslationMissing
    ) -> Line | None:
        match event:
            case TranslationPartial():
                self._take_partial_translation(event)
                return None
            case TranslationFinal():
                return self._take_final_translation(event)
            case TranslationMissing():
                return self._take_missing(event)

    def _take_partial_translation(self, event: TranslationPartial) -> None:
        if event.epoch < self._epoch or event.transcription_id not in self._partials:
            return
        shown = self._partial_translations.setdefault(event.transcription_id, {})
        known = shown.get(event.language)
        if known is not None and (known.epoch, known.revision) > (event.epoch, event.revision):
            return
        if known is not None or len(shown) < LANGUAGES_MAX:
            shown[event.language] = event

    def _take_final(self, event: SegmentFinal) -> Line | None:
        self._drop_partial(event.transcription_id)
        known = self._finals.get(event.transcription_id)
        if known is not None and known.revision >= event.revision:
            return None
        self._finals[event.transcription_id] = _Shown(
            event.revision, event.language, event.start_ms, {}
        )
        if len(self._finals) > FINALS_REMEMBERED_MAX:
            self._finals.popitem(last=False)
        self._last_shown = event.transcription_id
        text = f"{format_range(event.start_ms, event.end_ms)} {printable(event.text)}"
        if known is not None:
            return Line(kind="correction", text=f"{text} (corrected)")
        self.finals += 1
        if event.provider not in self.providers:
            self.providers.append(event.provider)
        return Line(kind="final", text=text)

    def _take_final_translation(self, event: TranslationFinal) -> Line | None:
        if not self._is_news(event, is_text=True):
            return None
        self.translations += 1
        where = self._spell_place(event, event.start_ms)
        return Line(kind="translation", text=f"    {where}: {printable(event.text)}")

    def _take_missing(self, event: TranslationMissing) -> Line | None:
        final = self._finals.get(event.transcription_id)
        if final is None or not self._is_news(event, is_text=False):
            return None  # nobody would know of which sentence
        self.untranslated += 1
        reason = _MISSING.get(event.reason, event.reason)
        if event.reason == "no_engine":
            reason = f"no engine for {final.language or 'an unknown language'}-{event.language}"
        where = self._spell_place(event, final.start_ms)
        return Line(kind="missing", text=f"    {where}: no translation ({printable(reason)})")

    def _spell_place(self, event: TranslationFinal | TranslationMissing, start_ms: int) -> str:
        # One that comes late stands under another sentence than its own.
        is_below_its_own = event.transcription_id == self._last_shown
        where = "" if is_below_its_own else f" [{format_clock(start_ms)}]"
        return f"{printable(event.language)}{where}"

    def _is_news(self, event: TranslationFinal | TranslationMissing, *, is_text: bool) -> bool:
        """Whether it is of the text that is shown, and says more than was said."""
        final = self._finals.get(event.transcription_id)
        if final is None:
            return True
        told = final.told.get(event.language)
        if event.revision != final.revision or told or (told is False and not is_text):
            return False
        if len(final.told) < LANGUAGES_MAX:
            final.told[event.language] = is_text
        return True

    def _take_claim(self, event: StreamClaimed) -> Line | None:
        if event.epoch <= self._epoch:
            return None
        self._epoch = event.epoch
        for transcription_id, partial in list(self._partials.items()):
            if partial.epoch < event.epoch:
                self._drop_partial(transcription_id)
        text = f"{event.worker} transcribes with {event.provider} ({event.reason})"
        return Line(kind="claimed", text=text)


def format_clock(at_ms: int) -> str:
    """Spell a stream time: `m:ss.t`, tenths cut off."""
    tenths = max(at_ms, 0) // 100
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


def format_range(start_ms: int, end_ms: int) -> str:
    """Spell a range of stream time."""
    return f"[{format_clock(start_ms)} - {format_clock(end_ms)}]"


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: each control character becomes a blank."""
    return "".join(c if c.isprintable() else " " for c in text)
