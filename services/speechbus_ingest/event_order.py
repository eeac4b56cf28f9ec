"""The stored events of one stream, each once and in order, whatever of them came by unseen.

Two sorts of events: translations, of which translators write some at their own time, each language
on a subject of its own; and all others, which are in the order of the log.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from speechbus_contracts import PREVIOUS_SEQUENCE
from speechbus_runtime.jetstream import StoredMessage

__all__ = ["EventOrder", "Position", "StoredEvent", "read_event", "read_stored_event"]

HELD_BACK_MAX: Final = 1_000
"""Events of one stream that wait while missed ones are read; older ones are read again anyway."""
_PREVIOUS: Final = f"{PREVIOUS_SEQUENCE}:".encode()
_TRANSLATION: Final = "translation"
_SOME_DAY: Final = 2**63


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as it was republished or read."""

    sequence: int
    """In TRANSCRIPT."""
    previous: int
    """Sequence of its writer's event before it, or of what a claim follows, or of the final that a
    translator has translated; 0: not known."""
    kind: str
    payload: bytes
    language: str = ""
    """Of a translation."""
    before: int = 0
    """Of a translation: sequence of the one before it in this language; 0: none, or not known."""
    is_aside: bool = False
    """Whether its writer is not the stream's owner: it says nothing about what the owner wrote
    before it, and no event names it as the one before."""


class _Sourced(msgspec.Struct, frozen=True):
    source_sequence: int | None = None


_sourced_decoder: Final = msgspec.json.Decoder(_Sourced)


def read_event(subject: bytes, payload: bytes, headers: bytes) -> StoredEvent:
    """Return what JetStream has republished."""
    kind, _, language = subject.split(b".", 5)[5].decode().partition(".")
    previous = _read_number(headers, _PREVIOUS)
    is_aside = not previous and kind not in ("opened", "claim")
    before = 0
    if kind == _TRANSLATION:
        before = _read_number(headers, b"Nats-Last-Sequence:")
        if is_aside:
            with suppress(msgspec.DecodeError):  # anybody may have written it
                previous = _sourced_decoder.decode(payload).source_sequence or 0
    sequence = _read_number(headers, b"Nats-Sequence:")
    return StoredEvent(sequence, previous, kind, payload, language, before, is_aside)


def read_stored_event(message: StoredMessage) -> StoredEvent:
    """Return what was read from TRANSCRIPT."""
    kind, _, language = message.subject.split(".", 5)[5].partition(".")
    return StoredEvent(message.sequence, 0, kind, message.payload, language)


def _read_number(headers: bytes, name: bytes) -> int:
    text = headers.partition(name)[2].partition(b"\r\n")[0].strip()
    return int(text) if text.isdigit() else 0


class Position(msgspec.Struct, frozen=True):
    """Which events somebody has."""

    sequence: int = 0
    """All up to this one, but for translations."""
    translations: Mapping[str, int] | None = None
    """By language, those up to this one; null: those up to `sequence`, too."""

    def has(self, event: StoredEvent) -> bool:
        """Whether the event is among them."""
        if event.kind == _TRANSLATION:
            return event.sequence <= self.translated(event.language)
        return event.sequence <= self.sequence

    def translated(self, language: str) -> int:
        """Return up to which sequence translations into a language are there."""
        if self.translations is None:
            return self.sequence
        return self.translations.get(language, 0)


class EventOrder:
    """Tells which events to take now, and when some must be read from the store first.

    A JetStream leader that dies between storing an event and republishing it leaves a hole that
    nobody else mends; so does a node that is cut off for a while. Events of the owner name the one
    before them, and translations are told the one before them by JetStream. Others, and the end of
    a stream that has translations, are always read.

    Args:
        languages: into which translations may come.
    """

    def __init__(self, languages: Iterable[str] = ()) -> None:
        self.sequence = 0
        """Up to this one all events but translations are taken."""
        self.is_holding = False
        """Whether live events wait for a read."""
        self._translated = dict.fromkeys(languages, 0)
        """By language, up to which sequence its translations are taken."""
        self._translated_at_first = 0
        """The same of a language that nobody has spoken of yet."""
        self._awaited = 0
        self._held: deque[StoredEvent] = deque(maxlen=HELD_BACK_MAX)

    def receive(self, event: StoredEvent) -> bool:
        """Get a live event; True: take it, False: it is known, or waits for a read."""
        if event.kind == _TRANSLATION:
            self._translated.setdefault(event.language, self._translated_at_first)
        if not self.is_holding:
            if self._follows(event):
                return self._take(event)
            self.is_holding = True
        self._held.append(event)
        return False

    def hold(self) -> None:
        """Events may have been missed: those from now on wait for a read."""
        self.is_holding = True

    def await_event(self, sequence: int = _SOME_DAY) -> None:
        """Hold until a read has found what is being stored.

        Args:
            sequence: its own, as soon as that is known; 0: it is not coming.
        """
        self._awaited = sequence
        self.is_holding = True

    def begin(self, sequence: int) -> None:
        """Begin behind this sequence: what lies before it is not to be taken."""
        self.sequence = self._translated_at_first = sequence
        self._translated = dict.fromkeys(self._translated, sequence)

    def go_back(self, position: Position) -> None:
        """Take what lies behind this position again; a read is due."""
        self.is_holding = True
        for language in position.translations or ():
            self._translated.setdefault(language, self._translated_at_first)
        for language, taken in self._translated.items():
            self._translated[language] = min(taken, position.translated(language))
        self._translated_at_first = min(self._translated_at_first, position.translated(""))
        self.sequence = min(self.sequence, position.sequence)

    def late_languages(self) -> Mapping[str, int]:
        """Return up to where, by language, translations are taken where others are further.

        Read what follows these, up to `sequence`, before all that lies behind `sequence`.
        """
        return {
            language: taken for language, taken in self._translated.items() if taken < self.sequence
        }

    def add_translations(self, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
        """Yield those of a read of one language that are to be taken."""
        for event in events:
            if event.sequence > self.sequence:
                return  # perhaps its final is not taken yet: it comes with the others
            if self._take_translation(event):
                yield event

    def add_stored(self, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
        """Yield those of a read from behind `sequence` that are to be taken."""
        for event in events:
            is_translation = event.kind == _TRANSLATION
            is_new = self._take_translation(event) if is_translation else self._pass(event)
            self.sequence = max(self.sequence, event.sequence)
            if is_new:
                yield event

    def release(self, *, is_last: bool = False) -> Iterator[StoredEvent]:
        """Yield the held events that are to be taken after a read that found nothing more.

        Go on live when `is_holding` is False then; else the store that answered lags behind what
        was republished: read again.

        Args:
            is_last: stop waiting for what does not come.
        """
        while self._held and (is_last or self._follows(self._held[0])):
            event = self._held.popleft()
            if self._take(event):
                yield event
        if is_last:
            self._awaited = 0
        self.is_holding = bool(self._held) or self.sequence < self._awaited

    def _follows(self, event: StoredEvent) -> bool:
        if event.kind == _TRANSLATION:
            taken = self._translated[event.language]
            follows = event.before <= taken and event.previous <= self.sequence
            return follows or event.sequence <= taken
        if event.sequence <= self.sequence:
            return True
        if event.kind == "closed" and self._translated:
            return False  # nothing would tell that the last translation was missed
        # The writer of a later claim does not know what the former owner wrote last, and one
        # beside the owner does not know the owner.
        is_first = event.kind == "opened"
        return is_first or 0 < event.previous <= self.sequence

    def _take(self, event: StoredEvent) -> bool:
        if event.kind != _TRANSLATION:
            return self._pass(event)
        if not event.is_aside:
            self.sequence = max(self.sequence, event.sequence)
        return self._take_translation(event)

    def _take_translation(self, event: StoredEvent) -> bool:
        taken = self._translated.get(event.language, self._translated_at_first)
        is_new = event.sequence > taken
        if is_new:
            self._translated[event.language] = event.sequence
        return is_new

    def _pass(self, event: StoredEvent) -> bool:
        is_new = event.sequence > self.sequence
        self.sequence = max(self.sequence, event.sequence)
        return is_new
