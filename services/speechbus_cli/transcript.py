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
)

__all__ = ["Line", "Transcript", "format_clock", "format_range", "printable"]

FINALS_REMEMBERED_MAX: Final = 256
"""Segments whose revision is kept: a correction or a late partial concerns one of the last few."""
PARTIALS_MAX: Final = 16
"""Open segments of one stream; there is one, rarely two."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One finished line of output."""

    kind: str
    """`final`, `correction`, `translation`, `gap`, `opened`, `claimed` or `closed`."""
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
        self.providers: list[str] = []
        """Of the finals, in the order of their first."""
        self.is_closed = False
        self._epoch = 0
        self._last_shown = ""
        """The segment whose line is the newest."""
        self._final_revisions: OrderedDict[str, int] = OrderedDict()
        self._partials: OrderedDict[str, SegmentPartial] = OrderedDict()

    @property
    def partials(self) -> tuple[SegmentPartial, ...]:
        """Segments that are being spoken, oldest first."""
        return tuple(self._partials.values())

    def apply(self, event: AnyEvent) -> Line | None:
        """Take one event; return the line it finishes, if any."""
        match event:
            case SegmentPartial():
                self._take_partial(event)
            case SegmentFinal():
                return self._take_final(event)
            case SegmentRetracted():
                self._partials.pop(event.transcription_id, None)
            case TranslationFinal():
                self.translations += 1
                return Line(kind="translation", text=self._spell_translation(event))
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
                missing = f", {format_clock(event.gap_ms)} missing" if event.gap_ms else ""
                text = f"closed ({event.reason}): {format_clock(event.audio_ms)} of audio{missing}"
                return Line(kind="closed", text=text)
            case _:
                pass
        return None

    def _take_partial(self, event: SegmentPartial) -> None:
        if event.epoch < self._epoch or event.transcription_id in self._final_revisions:
            return
        shown = self._partials.get(event.transcription_id)
        if shown is not None and (shown.epoch, shown.revision) > (event.epoch, event.revision):
            return
        self._partials[event.transcription_id] = event
        if len(self._partials) > PARTIALS_MAX:
            self._partials.popitem(last=False)

    def _take_final(self, event: SegmentFinal) -> Line | None:
        self._partials.pop(event.transcription_id, None)
        known = self._final_revisions.get(event.transcription_id)
        if known is not None and known >= event.revision:
            return None
        self._final_revisions[event.transcription_id] = event.revision
        if len(self._final_revisions) > FINALS_REMEMBERED_MAX:
            self._final_revisions.popitem(last=False)
        self._last_shown = event.transcription_id
        text = f"{format_range(event.start_ms, event.end_ms)} {printable(event.text)}"
        if known is not None:
            return Line(kind="correction", text=f"{text} (corrected)")
        self.finals += 1
        if event.provider not in self.providers:
            self.providers.append(event.provider)
        return Line(kind="final", text=text)

    def _spell_translation(self, event: TranslationFinal) -> str:
        # One that comes late stands under another sentence than its own.
        is_below_its_own = event.transcription_id == self._last_shown
        where = "" if is_below_its_own else f" [{format_clock(event.start_ms)}]"
        return f"    {event.language}{where}: {printable(event.text)}"

    def _take_claim(self, event: StreamClaimed) -> Line | None:
        if event.epoch <= self._epoch:
            return None
        self._epoch = event.epoch
        for transcription_id, partial in list(self._partials.items()):
            if partial.epoch < event.epoch:
                del self._partials[transcription_id]
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
