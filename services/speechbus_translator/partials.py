"""Translates what is still being said: of each segment the newest partial.

Nothing here is stored or repeated, and partials take a small part of the engines only.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from speechbus_contracts import (
    ContractError,
    LiveSubject,
    SegmentPartial,
    TranslationPartial,
    decode_event,
    parse_transcription_id,
)
from speechbus_translator.engines.interface import primary
from speechbus_translator.pool import Outcome, Translated
from speechbus_translator.prefix import Prefix

__all__ = ["PartialTranslator", "parse_partial"]

logger = logging.getLogger(__name__)

SEGMENTS_MAX: Final = 4_096
"""Open segments, counted once for each language; some kilobytes each."""
AT_ONCE: Final = 2
"""Texts at the engines at the same time: a quarter of what finals may have by default."""

Translate = Callable[[str, str | None, str], Awaitable[Outcome]]
_Key = tuple[str, str]
"""Segment and target language."""


def parse_partial(subject: str, payload: bytes) -> SegmentPartial:
    """Return the partial in a live message.

    Raises:
        ContractError: no partial, or one that does not belong on this subject.
    """
    event = decode_event(payload)
    if not isinstance(event, SegmentPartial):
        raise ContractError("only segments' partials belong on a partial's subject")
    if str(LiveSubject(event.tenant, event.stream_id, "partial")) != subject:
        raise ContractError("a partial names another stream than its subject")
    if parse_transcription_id(event.transcription_id) != (event.stream_id, event.index):
        raise ContractError("a partial's transcription id is not that of its stream and index")
    return event


class _Segment:
    """One open segment on its way into one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.newest: SegmentPartial | None = None
        self.prefix = Prefix()
        self.translated: list[tuple[str, str]] = []
        """Settled pieces and their translations, in order."""
        self.is_waiting = False
        """For an engine, or for its answer."""


class PartialTranslator:
    """Keeps one translation of each open segment and language up to date.

    Args:
        translate: a text, its language, and the language wanted; asks the engines.
        publish: shows a translation.
    """

    def __init__(self, translate: Translate, publish: Callable[[TranslationPartial], None]) -> None:
        self._translate = translate
        self._publish = publish
        self._segments: OrderedDict[_Key, _Segment] = OrderedDict()
        # Each segment waits once.
        self._waiting: asyncio.Queue[_Segment] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._workers = [
            loop.create_task(self._work(), name=f"partials-{number}") for number in range(AT_ONCE)
        ]

    def take(self, partial: SegmentPartial) -> None:
        """Note a partial; those before it that wait for an engine are passed over."""
        for language in dict.fromkeys(partial.target_languages):
            if language not in partial.promised_languages:
                self._note((partial.transcription_id, language), partial)

    async def close(self) -> None:
        """Leave everything as it is."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.wait(self._workers)

    def _note(self, key: _Key, partial: SegmentPartial) -> None:
        segment = self._segments.setdefault(key, _Segment(key[1]))
        self._segments.move_to_end(key)
        newest = segment.newest
        if newest is not None and (newest.epoch, newest.revision) >= (
            partial.epoch,
            partial.revision,
        ):
            return
        segment.newest = partial
        segment.prefix = segment.prefix.grow(partial.text)
        if not segment.is_waiting:
            self._wait(segment)
        if len(self._segments) > SEGMENTS_MAX:
            self._segments.popitem(last=False)

    def _wait(self, segment: _Segment) -> None:
        segment.is_waiting = True
        self._waiting.put_nowait(segment)

    async def _work(self) -> None:
        while True:
            segment = await self._waiting.get()
            shown = segment.newest
            try:
                await self._show(segment)
            except Exception as error:  # noqa: BLE001 - a bug must not end the translating of finals
                # Without its text, which may be speech.
                fields = {"error": type(error).__name__}
                logger.error("partial not translated", extra=fields)  # noqa: TRY400
            segment.is_waiting = False
            if segment.newest is not shown:
                self._wait(segment)

    async def _show(self, segment: _Segment) -> None:
        partial, prefix = segment.newest, segment.prefix
        assert partial is not None
        shown = await self._translate_all(segment, partial, prefix)
        if shown is not None:
            self._publish(
                TranslationPartial(
                    stream_id=partial.stream_id,
                    tenant=partial.tenant,
                    transcription_id=partial.transcription_id,
                    language=segment.language,
                    text=shown.text,
                    start_ms=partial.start_ms,
                    end_ms=partial.end_ms,
                    provider=shown.provider,
                    revision=partial.revision,
                    epoch=partial.epoch,
                )
            )

    async def _translate_all(
        self, segment: _Segment, partial: SegmentPartial, prefix: Prefix
    ) -> Translated | None:
        """Translate what is new of a text; None: nobody can, now or at all."""
        source, language = partial.language, segment.language
        if source is not None and primary(source) == primary(language):
            return Translated(partial.text, partial.provider)
        known = segment.translated
        n_kept = 0
        while n_kept < min(len(known), len(prefix.pieces)) and (
            known[n_kept][0] == prefix.pieces[n_kept]
        ):
            n_kept += 1
        del known[n_kept:]
        provider = ""
        for piece in prefix.pieces[n_kept:]:
            outcome = await self._translate(piece, source, language)
            if not isinstance(outcome, Translated):
                return None
            known.append((piece, outcome.text))
            provider = outcome.provider
        texts = [text for _, text in known]
        if prefix.tail:
            outcome = await self._translate(prefix.tail, source, language)
            if not isinstance(outcome, Translated):
                return None
            texts.append(outcome.text)
            provider = outcome.provider
        return Translated(" ".join(texts), provider)
