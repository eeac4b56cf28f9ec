"""The engines together: who translates a text, and what becomes of it when nobody does."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from speechbus_translator.breaker import Breaker
from speechbus_translator.engines.interface import (
    Engine,
    EngineRefusedError,
    EngineUnavailableError,
)

__all__ = ["EnginePool", "Later", "Outcome", "Translated", "Untranslated"]

CACHE_ENTRIES_MAX: Final = 4_096
CACHE_CHARS_MAX: Final = 500
"""Longer texts do not come twice. Together: some 8 MB."""


class Translated(msgspec.Struct, frozen=True):
    """Somebody has translated it."""

    text: str
    provider: str


class Untranslated(msgspec.Struct, frozen=True):
    """Nobody will."""

    reason: Literal["no_engine", "refused"]


class Later(msgspec.Struct, frozen=True):
    """Nobody can now."""

    after_s: float


Outcome = Translated | Untranslated | Later


class EnginePool:
    """Engines in the order to try them.

    Args:
        engines: best first.
        timeout_s: of one text at one engine.
        concurrency: texts at one engine at the same time.
        now_s: a clock.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        timeout_s: float,
        concurrency: int,
        now_s: Callable[[], float],
    ) -> None:
        self._engines = engines
        self._timeout_s = timeout_s
        self._now_s = now_s
        self._breakers = {engine.name: Breaker() for engine in engines}
        self._room = {engine.name: asyncio.Semaphore(concurrency) for engine in engines}
        self._cache: OrderedDict[tuple[str, str | None, str], Translated] = OrderedDict()

    async def translate(self, text: str, *, source: str | None, target: str) -> Outcome:
        """Return the translation, or why there is none.

        Args:
            text: one final.
            source: BCP 47 tag; None: not known.
            target: BCP 47 tag.
        """
        key = (text, source, target)
        known = self._cache.get(key)
        if known is not None:
            self._cache.move_to_end(key)
            return known
        outcome = await self.translate_passing(text, source=source, target=target)
        if isinstance(outcome, Translated):
            self._remember(key, outcome)
        return outcome

    async def translate_passing(self, text: str, *, source: str | None, target: str) -> Outcome:
        """Do the same for a text that will not come again: it is not remembered."""
        waits_s: list[float] = []
        is_refused = False
        for engine in self._engines:
            if not engine.serves(source, target):
                continue
            outcome = await self._try(engine, text, source=source, target=target)
            match outcome:
                case Translated():
                    return outcome
                case Later(after_s=after_s):
                    waits_s.append(after_s)
                case Untranslated():
                    is_refused = True
        if waits_s:
            return Later(min(waits_s))
        return Untranslated("refused" if is_refused else "no_engine")

    async def _try(self, engine: Engine, text: str, *, source: str | None, target: str) -> Outcome:
        breaker = self._breakers[engine.name]
        async with self._room[engine.name]:
            wait_s = breaker.wait_s(now_s=self._now_s())
            if wait_s > 0:
                return Later(wait_s)
            breaker.begin()
            try:
                async with asyncio.timeout(self._timeout_s):
                    translated = await engine.translate(text, source=source, target=target)
            except EngineRefusedError:
                breaker.succeed()
                return Untranslated("refused")
            except (EngineUnavailableError, TimeoutError) as error:
                retry_after_s = getattr(error, "retry_after_s", None)
                breaker.fail(now_s=self._now_s(), retry_after_s=retry_after_s)
                return Later(breaker.wait_s(now_s=self._now_s()))
            except BaseException:
                breaker.give_up()
                raise
        breaker.succeed()
        return Translated(translated, engine.name)

    def _remember(self, key: tuple[str, str | None, str], translated: Translated) -> None:
        if len(key[0]) <= CACHE_CHARS_MAX:
            self._cache[key] = translated
            if len(self._cache) > CACHE_ENTRIES_MAX:
                self._cache.popitem(last=False)
