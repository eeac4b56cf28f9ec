"""What becomes of one final: a translation, or a reason, for each language that is ours to do."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from speechbus_contracts import (
    ContractError,
    SegmentFinal,
    TranslationFinal,
    TranslationMissing,
    WriteSubject,
    decode_event,
    parse_transcription_id,
)
from speechbus_runtime.publisher import PublishRefusedError
from speechbus_translator.engines.interface import primary
from speechbus_translator.pool import EnginePool, Later, Outcome, Translated, Untranslated

__all__ = ["HANDLE_WITHIN_S", "StoredFinal", "TranslationLog", "Translator", "parse_final"]

HANDLE_WITHIN_S: Final = 8.0
"""Less than the consumer's `ack_wait`: a final is in one pair of hands at a time."""
AGAIN_S: Final = (0.5, 8.0)
"""A final that no engine could take comes again: after so long at first, doubling, up to that."""


class StoredFinal(msgspec.Struct, frozen=True):
    """A final as the log has it."""

    sequence: int
    at_ms: int
    """When it was stored, ms since 1970."""
    n_delivered: int
    """How often, this time included."""
    event: SegmentFinal


def parse_final(subject: str, payload: bytes) -> SegmentFinal:
    """Return the final in a message of the write tree.

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


class TranslationLog(Protocol):
    """What the log says about a final."""

    async def find_translated(self, final: SegmentFinal, sequence: int) -> frozenset[str]:
        """Return the languages of which it says something, for this revision of the segment."""
        ...


class Translator:
    """Translates finals.

    Args:
        pool: the engines.
        log: what is there already.
        publish: stores an event, once under its dedup id.
        retry_for_s: how long a final is tried, from when it was stored.
        step_in_s: what a provider promised and has not delivered so long after its final is
            translated here.
    """

    def __init__(
        self,
        pool: EnginePool,
        log: TranslationLog,
        publish: Callable[[TranslationFinal | TranslationMissing], Awaitable[None]],
        *,
        retry_for_s: float,
        step_in_s: float,
    ) -> None:
        self._pool = pool
        self._log = log
        self._publish = publish
        self._retry_for_s = retry_for_s
        self._step_in_s = step_in_s

    async def handle(self, final: StoredFinal, *, now_ms: int) -> float | None:
        """Translate a final: at once what its provider did not promise, the rest if it is overdue.

        Returns:
            After how many seconds to look again; None: never.

        Raises:
            JetStreamUnavailableError: the log cannot be read.
        """
        event = final.event
        wanted = list(dict.fromkeys(event.target_languages))
        promised = [language for language in wanted if language in event.promised_languages]
        step_in_s = self._step_in_s - (now_ms - final.at_ms) / 1_000 if promised else 0.0
        if final.n_delivered > 1 or (promised and step_in_s <= 0):
            # Done by somebody before, or delivered as promised.
            done = await self._log.find_translated(event, final.sequence)
            wanted = [language for language in wanted if language not in done]
        due = [each for each in wanted if each not in promised] if step_in_s > 0 else wanted
        waits_s = [await self._take_all(final, due, now_ms=now_ms)]
        if step_in_s > 0 and any(language in promised for language in wanted):
            waits_s.append(min(step_in_s, self._step_in_s))
        return min((wait_s for wait_s in waits_s if wait_s is not None), default=None)

    async def _take_all(
        self, final: StoredFinal, languages: Sequence[str], *, now_ms: int
    ) -> float | None:
        is_last_try = now_ms - final.at_ms > 1_000 * self._retry_for_s
        try:
            async with asyncio.timeout(HANDLE_WITHIN_S), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._take(final, language, is_last_try=is_last_try))
                    for language in languages
                ]
        except TimeoutError:
            return _again_s(final.n_delivered)
        waits_s = [wait_s for task in tasks if (wait_s := task.result()) is not None]
        return max(_again_s(final.n_delivered), min(waits_s)) if waits_s else None

    async def _take(self, final: StoredFinal, language: str, *, is_last_try: bool) -> float | None:
        outcome = await self._translate(final.event, language)
        match outcome:
            case Translated():
                try:
                    await self._publish(_build_translation(final, language, outcome))
                except (ContractError, PublishRefusedError):  # larger than a message, say
                    await self._publish(_build_missing(final, language, "refused"))
            case Untranslated(reason=reason):
                await self._publish(_build_missing(final, language, reason))
            case Later() if is_last_try:
                await self._publish(_build_missing(final, language, "unavailable"))
            case Later(after_s=after_s):
                return after_s
        return None

    async def _translate(self, event: SegmentFinal, language: str) -> Outcome:
        if event.language is not None and primary(event.language) == primary(language):
            return Translated(event.text, event.provider)  # it is said in that language
        return await self._pool.translate(event.text, source=event.language, target=language)


def _again_s(n_delivered: int) -> float:
    first_s, most_s = AGAIN_S
    return min(most_s, first_s * 2.0 ** min(n_delivered - 1, 10))


def _build_translation(final: StoredFinal, language: str, outcome: Translated) -> TranslationFinal:
    event = final.event
    return TranslationFinal(
        stream_id=event.stream_id,
        tenant=event.tenant,
        transcription_id=event.transcription_id,
        language=language,
        text=outcome.text,
        start_ms=event.start_ms,
        end_ms=event.end_ms,
        provider=outcome.provider,
        revision=event.revision,
        source_sequence=final.sequence,
    )


def _build_missing(final: StoredFinal, language: str, reason: str) -> TranslationMissing:
    event = final.event
    is_promised = language in event.promised_languages
    return TranslationMissing(
        stream_id=event.stream_id,
        tenant=event.tenant,
        transcription_id=event.transcription_id,
        language=language,
        revision=event.revision,
        # What its provider promised may still come: nobody has given that up.
        reason="undelivered" if is_promised else reason,
        source_sequence=final.sequence,
    )
