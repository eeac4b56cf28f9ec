"""Pairs Palabra's translations with the finals they were made from. Pure."""

from collections.abc import Sequence
from typing import Final

from speechbus_transcriber.providers.interface import Translated

__all__ = ["PalabraTranslations"]

HELD_MAX: Final = 64
"""Translations that came before their final."""
WANTED_MS: Final = 30_000
"""A translation takes seconds: what is missing for longer than this is no longer waited for."""

_Key = tuple[str, str]  # Palabra's id of the segment, and the target as it was asked for


class PalabraTranslations:
    """What was translated in one session, and what is still to come.

    Args:
        targets: BCP 47 tags that were asked for.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = tuple(targets)
        self._owed: dict[_Key, int] = {}  # and where their finals end, in ms
        self._held: dict[_Key, str] = {}
        self._told: dict[_Key, str] = {}

    def add_final(self, segment_id: str, *, end_ms: int) -> list[Translated]:
        """A segment with words is final; return the translations that have waited for it."""
        released: list[Translated] = []
        for target in self._targets:
            key = (segment_id, target)
            text = self._held.pop(key, None)
            if text is None:
                self._owed[key] = end_ms
            else:
                released += self._tell(key, text)
        return released

    def take(
        self, segment_id: str, language: str, text: str, *, has_final: bool
    ) -> list[Translated]:
        """Return what becomes of one translation.

        Before its final it waits for that (case 02); when none comes it is forgotten with the
        session (case 04). Said twice it is told once. A language that nobody asked for is dropped.
        """
        target = self._find_target(language)
        if target is None:
            return []
        key = (segment_id, target)
        if has_final:
            return self._tell(key, text)
        self._held[key] = text
        if len(self._held) > HELD_MAX:
            del self._held[next(iter(self._held))]
        return []

    def forget(self, segment_id: str) -> None:
        """Its final is too long ago."""
        for target in self._targets:
            self._owed.pop((segment_id, target), None)
            self._told.pop((segment_id, target), None)

    def is_waiting(self, *, now_ms: int) -> bool:
        """Whether one is missing that may still come.

        Args:
            now_ms: audio of the stream so far.
        """
        return any(end_ms >= now_ms - WANTED_MS for end_ms in self._owed.values())

    def _tell(self, key: _Key, text: str) -> list[Translated]:
        self._owed.pop(key, None)
        if not text.strip() or self._told.get(key) == text:
            return []
        self._told[key] = text
        return [Translated(provider_transcription_id=key[0], language=key[1], text=text)]

    def _find_target(self, language: str) -> str | None:
        """Return the target as it was asked for: Palabra may spell it with or without a region."""
        spelled = language.lower()
        for target in self._targets:
            if target.lower() == spelled:
                return target
        for target in self._targets:
            if target.lower().partition("-")[0] == spelled.partition("-")[0]:
                return target
        return None
