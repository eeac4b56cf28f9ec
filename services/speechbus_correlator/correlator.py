"""Decides for each event of the log what is published, and when it has to be looked at again.

An event is looked at by whoever gets it, as often as it is delivered. What is then published is a
function of the log alone, so it does not matter who looks, how often, and in which order.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from speechbus_contracts import (
    CaptionJoined,
    SegmentFinal,
    SegmentRetracted,
    TranslationFinal,
)
from speechbus_correlator.join import (
    ORPHAN_AFTER_MS,
    Joined,
    Stored,
    Translation,
    build_orphan,
    join,
)

__all__ = ["Correlator", "SegmentLog"]

EARLY_AGAIN_MS: Final = (200, 1_000)
"""A translation that has come before its final is looked at again after so long: at first, and at
most. Nothing of ours comes early; each look costs two reads."""
SETTLED_MAX: Final = 20_000
"""Captions that are complete are remembered, so that their finals are not read again at the
deadline: those of 100 s at 200 a second."""


class SegmentLog(Protocol):
    """What the log says about one segment; all answers hold what was stored before the question."""

    async def read(
        self,
        segment: Stored,
        *,
        from_sequence: int,
        to_sequence: int | None = None,
        to_ms: int | None = None,
    ) -> list[Stored]:
        """Return the segment's events from a sequence up to a sequence, or to a moment."""
        ...

    async def read_translations_before(self, final: Stored) -> list[Stored]:
        """Return the segment's translations that were stored before its final, and in time."""
        ...

    async def find_finals(self, segment: Stored) -> list[Stored]:
        """Return the segment's finals, wherever they are; for those that do not know."""
        ...

    async def read_clock(self) -> int:
        """Return the store's time, ms since 1970."""
        ...


class Correlator:
    """The rules of joining.

    Args:
        log: where the events are.
        publish: stores a caption, once for each segment and revision.
        wait_ms: how long a final waits for its translations; the same in every instance.
    """

    def __init__(
        self,
        log: SegmentLog,
        publish: Callable[[CaptionJoined], Awaitable[None]],
        *,
        wait_ms: int,
    ) -> None:
        self._log = log
        self._publish_caption = publish
        self._wait_ms = wait_ms
        self._settled: OrderedDict[str, int] = OrderedDict()

    async def handle(self, event: Stored, *, now_ms: int, is_first: bool) -> int | None:
        """Publish what follows from one event of the log.

        Args:
            event: as delivered.
            now_ms: this process's clock, which only decides when to look again.
            is_first: whether nobody has got it before.

        Returns:
            After how many ms to look again; None: never.
        """
        match event.event:
            case SegmentFinal():
                return await self._take_final(event, event.event, now_ms, is_first=is_first)
            case SegmentRetracted():
                await self._take_back(event)
                return None
            case translation:
                return await self._take_translation(event, translation, now_ms)

    async def _take_final(
        self, event: Stored, final: SegmentFinal, now_ms: int, *, is_first: bool
    ) -> int | None:
        if not final.target_languages:
            await self._publish(join([event], wait_ms=self._wait_ms))
            return None
        left_ms = event.at_ms + self._wait_ms - now_ms
        if left_ms > 0 and is_first:  # a clock that is behind costs one wait, not its whole error
            return min(left_ms, self._wait_ms)
        if self._settled.get(final.transcription_id, -1) >= event.sequence:
            return None
        # The store's clock, since it also says which translations were in time.
        left_ms = event.at_ms + self._wait_ms - await self._log.read_clock()
        if left_ms > 0:
            return left_ms
        joined = await self._join_to_deadline(event)
        if joined is not None and not joined.is_complete:
            early = await self._log.read_translations_before(event)
            joined = await self._join_to_deadline(event, early)
        if joined is not None and _is_of(joined, final.revision):
            await self._publish(joined)
        return None

    async def _take_translation(
        self, event: Stored, translation: Translation, now_ms: int
    ) -> int | None:
        source = translation.source_sequence
        if source is not None and 0 < source < event.sequence:
            parts = await self._log.read(event, from_sequence=source, to_sequence=event.sequence)
            if parts and parts[0].sequence == source and _is_final(parts[0], translation.revision):
                await self._join_translation(event, parts)
                return None
        finals = await self._log.find_finals(event)
        own = [each for each in finals if _is_final(each, translation.revision)]
        if not own:
            if any(_is_final(each, None, above=translation.revision) for each in finals):
                return None  # of a final that has been corrected
            return await self._wait_for_final(event, translation, now_ms)
        if own[0].sequence > event.sequence:
            return await self._join_early(event, translation, own[0], now_ms)
        parts = await self._log.read(
            event, from_sequence=own[0].sequence, to_sequence=event.sequence
        )
        await self._join_translation(event, parts)
        return None

    async def _join_translation(self, event: Stored, parts: list[Stored]) -> None:
        """Publish the caption that this translation makes, if it makes one.

        Args:
            event: the translation.
            parts: the segment's events from the final to the translation.
        """
        joined = join(parts, wait_ms=self._wait_ms)
        if joined is None or joined.caption.revision != event.sequence:
            return  # it counts for nothing: said before, outdated, or taken back
        is_late = joined.caption.state == "late"
        if joined.is_complete:
            await self._publish(joined)
            # What comes now is published by itself. (Where an early one stands in, it may not be.)
            self._note_settled(joined.caption.transcription_id, event.sequence)
        elif joined.is_settled or is_late:
            early = await self._log.read_translations_before(parts[0])
            joined = join([*early, *parts], wait_ms=self._wait_ms)
            if joined is not None and joined.caption.revision == event.sequence:
                await self._publish(joined)

    async def _join_early(
        self, event: Stored, translation: Translation, final: Stored, now_ms: int
    ) -> int | None:
        """A translation that was there before its final: look until the caption is complete."""
        if final.at_ms - event.at_ms > ORPHAN_AFTER_MS:
            await self._publish_orphan(event, translation)
            return None
        early = await self._log.read_translations_before(final)
        joined = await self._join_to_deadline(final, early)
        if joined is None or not _is_of(joined, translation.revision):
            return None
        if joined.is_settled:
            await self._publish(joined)
            return None
        if now_ms > joined.deadline_ms:
            return None  # the final itself is looked at then
        return _again_ms(event, now_ms)

    async def _wait_for_final(
        self, event: Stored, translation: Translation, now_ms: int
    ) -> int | None:
        until_ms = event.at_ms + ORPHAN_AFTER_MS
        if now_ms <= until_ms:
            return _again_ms(event, now_ms)
        left_ms = until_ms - await self._log.read_clock()
        if left_ms >= 0:
            return left_ms + 1
        await self._publish_orphan(event, translation)
        return None

    async def _take_back(self, event: Stored) -> None:
        finals = [
            each for each in await self._log.find_finals(event) if each.sequence < event.sequence
        ]
        if not finals:
            return  # the usual case: partials were shown, and nobody joined those
        parts = await self._log.read(
            event, from_sequence=finals[0].sequence, to_sequence=event.sequence
        )
        joined = join(parts, wait_ms=self._wait_ms)
        if joined is not None and joined.caption.revision == event.sequence:
            await self._publish(joined)

    async def _join_to_deadline(
        self, final: Stored, early: list[Stored] | None = None
    ) -> Joined | None:
        deadline_ms = final.at_ms + self._wait_ms
        parts = await self._log.read(final, from_sequence=final.sequence, to_ms=deadline_ms)
        return join([*(early or ()), *parts], wait_ms=self._wait_ms)

    async def _publish(self, joined: Joined | None) -> None:
        assert joined is not None
        await self._publish_caption(joined.caption)

    def _note_settled(self, transcription_id: str, sequence: int) -> None:
        self._settled[transcription_id] = sequence
        if len(self._settled) > SETTLED_MAX:
            self._settled.popitem(last=False)

    async def _publish_orphan(self, event: Stored, translation: Translation) -> None:
        if isinstance(translation, TranslationFinal):
            await self._publish_caption(build_orphan(translation, sequence=event.sequence))


def _is_final(stored: Stored, revision: int | None, *, above: int | None = None) -> bool:
    event = stored.event
    if not isinstance(event, SegmentFinal):
        return False
    return event.revision == revision if above is None else event.revision > above


def _is_of(joined: Joined, revision: int) -> bool:
    source = joined.caption.source
    return source is not None and source.revision == revision


def _again_ms(event: Stored, now_ms: int) -> int:
    """The longer it has waited, the rarer."""
    first_ms, most_ms = EARLY_AGAIN_MS
    return max(first_ms, min(most_ms, (now_ms - event.at_ms) // 4))
