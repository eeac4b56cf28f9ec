"""The log, the caption store and any number of correlators, in memory and in virtual time."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from speechbus_contracts import (
    CaptionJoined,
    SegmentFinal,
    SegmentRetracted,
    TranslationFinal,
    TranslationMissing,
)
from speechbus_correlator.correlator import Correlator
from speechbus_correlator.join import ORPHAN_AFTER_MS, Part, Stored
from tests.support.correlator import final_of

__all__ = ["WAIT_MS", "World", "draw_log", "missing_of", "retracted_of", "translation_of"]

WAIT_MS: Final = 5_000
LANGUAGES: Final = ("es", "pt")
ACK_WAIT_MS: Final = 10_000
DELAYS_MS: Final = (-130_000, -4_000, -1, 0, 1, 300, 4_999, 5_001, 9_000, 200_000)
"""Of translations, behind their final."""


class _CrashError(Exception):
    """An instance died here."""


class World:
    """What JetStream would do for the correlators, faults included.

    Args:
        log: everything that is ever stored, in order.
        faults: draws faults; None: each event is delivered at once, to one instance, once.
        instances: how many there are, with faults.
        outage: from and to, in ms; nobody runs then.
        wrong_by_ms: of the clocks of all instances, behind (below 0) or ahead of the store's.
    """

    def __init__(
        self,
        log: Sequence[Stored],
        *,
        faults: random.Random | None = None,
        instances: int = 3,
        outage: tuple[int, int] = (0, 0),
        wrong_by_ms: int = 0,
    ) -> None:
        self.captions: dict[tuple[str, int], CaptionJoined] = {}
        self.published_at_ms: dict[tuple[str, int], int] = {}
        self._log = log
        self._faults = faults
        self._outage = outage
        self._wrong_by_ms = wrong_by_ms
        self._now_ms = 0
        """Set by `run`; by itself, nothing has been stored yet."""
        self._instances = [self._start() for _ in range(instances if faults else 1)]

    def _start(self) -> Correlator:
        return Correlator(self, self._publish, wait_ms=WAIT_MS)

    def run(self) -> None:
        """Deliver until nothing is left."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        due = [(event.at_ms, event.sequence) for event in self._log]
        delivered: set[int] = set()
        while due:
            due.sort()
            due_ms, sequence = due.pop(self._pick(len(due), among_first=4))
            self._now_ms = max(self._now_ms, due_ms)
            if self._outage[0] <= self._now_ms < self._outage[1]:
                self._now_ms = self._outage[1]
            event = next(each for each in self._log if each.sequence == sequence)
            if self._happens(0.1):  # to an instance that has died
                delivered.add(sequence)
                due.append((self._now_ms + ACK_WAIT_MS, sequence))
                continue
            which = self._pick(len(self._instances))
            try:
                again_ms = await self._instances[which].handle(
                    event,
                    now_ms=self._now_ms + self._skew_ms(),
                    is_first=sequence not in delivered,
                )
            except _CrashError:
                self._instances[which] = self._start()
                again_ms = ACK_WAIT_MS
            delivered.add(sequence)
            if again_ms is not None:
                if self._happens(0.1):  # the server has restarted, and forgot the delay
                    again_ms = ACK_WAIT_MS
                due.append((self._now_ms + again_ms, sequence))
            elif self._happens(0.15):  # the acknowledgement was lost
                due.append((self._now_ms + ACK_WAIT_MS, sequence))

    def move_to(self, now_ms: int) -> None:
        """Let time pass, without anybody at work."""
        self._now_ms = now_ms

    def current(self) -> dict[str, CaptionJoined]:
        """Return what readers keep: the highest revision of each segment."""
        return {
            transcription_id: caption
            for (transcription_id, _), caption in sorted(self.captions.items())
        }

    def orphans(self) -> set[int]:
        """Return the sequences of translations that were told as orphans."""
        return {each.revision for each in self.captions.values() if each.state == "orphan"}

    # --- faults --------------------------------------------------------------------------------

    def _pick(self, n: int, *, among_first: int | None = None) -> int:
        return 0 if self._faults is None else self._faults.randrange(min(n, among_first or n))

    def _happens(self, share: float) -> bool:
        return self._faults is not None and self._faults.random() < share

    def _skew_ms(self) -> int:
        return self._wrong_by_ms + self._pick_skew()

    def _pick_skew(self) -> int:
        return 0 if self._faults is None else self._faults.choice((-2_000, 0, 2_000))

    async def _publish(self, caption: CaptionJoined) -> None:
        key = (caption.transcription_id, caption.revision)
        if self._happens(0.1):
            raise _CrashError
        # Whoever makes a revision makes the same one.
        assert self.captions.setdefault(key, caption) == caption
        self.published_at_ms.setdefault(key, self._now_ms)
        if self._happens(0.1):
            raise _CrashError

    # --- SegmentLog ----------------------------------------------------------------------------

    async def read(
        self,
        segment: Stored,
        *,
        from_sequence: int,
        to_sequence: int | None = None,
        to_ms: int | None = None,
    ) -> list[Stored]:
        """Look at the log."""
        return self._find(
            segment,
            lambda each: (
                each.sequence >= from_sequence
                and (to_sequence is None or each.sequence <= to_sequence)
                and (to_ms is None or each.at_ms <= to_ms)
            ),
        )

    async def read_translations_before(self, final: Stored) -> list[Stored]:
        """Look at the log."""
        return self._find(
            final,
            lambda each: (
                each.sequence < final.sequence
                and each.at_ms >= final.at_ms - ORPHAN_AFTER_MS
                and not isinstance(each.event, SegmentFinal)
            ),
        )

    async def find_finals(self, segment: Stored) -> list[Stored]:
        """Look at the log."""
        return self._find(segment, lambda each: isinstance(each.event, SegmentFinal))

    async def read_clock(self) -> int:
        """Tell the time."""
        return self._now_ms

    def _find(self, segment: Stored, holds: Callable[[Stored], bool]) -> list[Stored]:
        name = segment.event.transcription_id
        return [
            each
            for each in self._log
            if each.event.transcription_id == name and each.at_ms <= self._now_ms and holds(each)
        ]


def translation_of(
    final: SegmentFinal, language: str, *, text: str | None = None, source_sequence: int | None
) -> TranslationFinal:
    """One translation."""
    return TranslationFinal(
        stream_id=final.stream_id,
        tenant=final.tenant,
        transcription_id=final.transcription_id,
        language=language,
        text=f"{language} of {final.text}" if text is None else text,
        start_ms=final.start_ms,
        end_ms=final.end_ms,
        provider="test",
        revision=final.revision,
        source_sequence=source_sequence,
    )


def missing_of(
    final: SegmentFinal,
    language: str,
    *,
    reason: str = "no_engine",
    source_sequence: int | None,
) -> TranslationMissing:
    """Nobody translates it."""
    return TranslationMissing(
        stream_id=final.stream_id,
        tenant=final.tenant,
        transcription_id=final.transcription_id,
        language=language,
        revision=final.revision,
        reason=reason,
        source_sequence=source_sequence,
    )


def retracted_of(final: SegmentFinal) -> SegmentRetracted:
    """A final is taken back."""
    return SegmentRetracted(
        stream_id=final.stream_id,
        tenant=final.tenant,
        transcription_id=final.transcription_id,
        index=final.index,
        epoch=final.epoch,
        finals=0,
    )


def draw_log(chance: random.Random, *, segments: int | None = None) -> list[Stored]:
    """Build what might lie in the log of a stream.

    Segments with corrections and retractions; translations in any order around them, twice, not at
    all, of nothing, in other languages, with and without a right word about their source.

    Args:
        chance: draws.
        segments: how many; None: 1 to 3.
    """
    parts: list[tuple[int, Part, int]] = []  # when, what, and which of those of one moment first
    for index in range(segments or chance.randint(1, 3)):
        parts += _draw_segment(chance, index)
    chance.shuffle(parts)
    parts.sort(key=lambda part: (part[0], part[2] if chance.random() < 0.8 else 0))
    start_ms = 200_000 - min((at_ms for at_ms, _, _ in parts), default=0)
    log: list[Stored] = []
    sequences: dict[tuple[str, int], int] = {}
    for sequence, (at_ms, event, _) in enumerate(parts, start=1):
        if isinstance(event, SegmentFinal):
            sequences[event.transcription_id, event.revision] = sequence
        elif not isinstance(event, SegmentRetracted):
            source = sequences.get((event.transcription_id, event.revision))
            if source is not None and chance.random() < 0.2:
                source = chance.choice((None, 1, sequence + 1))
            event = msgspec.structs.replace(event, source_sequence=source)
        log.append(Stored(sequence, start_ms + at_ms, event))
    return log


def _draw_segment(chance: random.Random, index: int) -> list[tuple[int, Part, int]]:
    parts: list[tuple[int, Part, int]] = []
    at_ms = chance.randrange(0, 20_000)
    targets = chance.choice(((), ("es",), LANGUAGES))
    has_final = chance.random() < 0.85
    final = final_of(index, target_languages=targets)
    for revision in range(2, 2 + chance.choice((1, 1, 1, 2))):
        text = f"segment {index} revision {revision}"
        final = msgspec.structs.replace(final, revision=revision, text=text)
        if has_final:
            parts.append((at_ms, final, 0))
        for language in (*LANGUAGES, *(("fr",) if chance.random() < 0.1 else ())):
            parts += _draw_translations(chance, final, language, at_ms)
        at_ms += chance.choice((1, 2_000, 7_000))
    if has_final and chance.random() < 0.15:
        parts.append((at_ms, retracted_of(final), 0))
    return parts


def _draw_translations(
    chance: random.Random, final: SegmentFinal, language: str, at_ms: int
) -> list[tuple[int, Part, int]]:
    parts: list[tuple[int, Part, int]] = []
    for number in range(chance.choice((0, 1, 1, 1, 2))):
        text = f"{language} {number} of {final.text}"
        event = translation_of(final, language, text=text, source_sequence=None)
        parts.append((at_ms + chance.choice(DELAYS_MS), event, 1))
    if chance.random() < 0.2:
        reason = chance.choice(("no_engine", "undelivered"))
        missing = missing_of(final, language, reason=reason, source_sequence=None)
        parts.append((at_ms + chance.choice((0, 200, 6_000)), missing, 1))
    return parts
