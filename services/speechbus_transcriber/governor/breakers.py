"""Which providers are dead: told to the pool, heard from it, and tried by one of its workers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from speechbus_runtime.publisher import PublishRefusedError
from speechbus_transcriber.governor.breaker import PROBE_S, Breaker, BreakerRecord
from speechbus_transcriber.governor.shared_state import SharedState
from speechbus_transcriber.providers.registry import Provider

__all__ = ["Breakers"]

logger = logging.getLogger(__name__)

TELL_S: Final = 2.0
"""What was not stored by then is known here only."""


class Breakers:
    """The providers that have an address of their own.

    Args:
        providers: of this worker.
        state: shared with the pool.
        try_handshake: with the provider of this name; None: it could not be tried.
        is_connected: whether the pool can be reached: without it nobody tries.
        on_change: called when a provider is taken for dead, or found well.
        tasks: own what is told and tried.
        now_ms: ms since 1970.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        state: SharedState,
        *,
        try_handshake: Callable[[str], Awaitable[bool | None]],
        is_connected: Callable[[], bool],
        on_change: Callable[[], None],
        tasks: asyncio.TaskGroup,
        now_ms: Callable[[], int],
    ) -> None:
        self._endpoints = {
            name: provider.endpoint for name, provider in providers.items() if provider.endpoint
        }
        self._breakers = {name: Breaker() for name in self._endpoints}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._sequences = dict.fromkeys(self._endpoints, 0)
        self._state = state
        self._try_handshake = try_handshake
        self._is_connected = is_connected
        self._on_change = on_change
        self._tasks = tasks
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()

    @property
    def dead(self) -> list[str]:
        """Names of the providers that are taken for dead."""
        return [name for name, breaker in self._breakers.items() if breaker.is_open]

    def fail(self, provider: str, stream_id: str, *, is_handshake: bool) -> None:
        """A session came to nothing; `is_handshake`: before any audio was sent."""
        breaker = self._breakers.get(provider)
        if breaker is not None and breaker.fail(
            stream_id, is_handshake=is_handshake, now_s=self._loop.time()
        ):
            self._declare(provider, breaker, is_open=True)

    def succeed(self, provider: str) -> None:
        """A session works."""
        breaker = self._breakers.get(provider)
        if breaker is not None:
            breaker.succeed()
            if breaker.is_open:
                self._declare(provider, breaker, is_open=False)

    def hear(self, endpoint: str, record: BreakerRecord, sequence: int, *, is_news: bool) -> None:
        """Another worker, or this one, has said something."""
        for provider, own in self._endpoints.items():
            if own == endpoint and sequence > self._sequences[provider]:
                age_s = 0.0 if is_news else (self._now_ms() - record.written_at) / 1000
                self._sequences[provider] = sequence
                self._take(provider, record, age_s=age_s)

    def try_due(self) -> None:
        """Try what it is time to try; by itself, it is called when that is so."""
        if not self._is_connected():
            return
        for provider, breaker in self._breakers.items():
            if breaker.is_probe_due(now_s=self._loop.time()):
                record = BreakerRecord(
                    is_open=True,
                    n_pauses=breaker.record.n_pauses,
                    wait_ms=int(PROBE_S * 1000),
                    written_at=self._now_ms(),
                )
                self._take(provider, record, age_s=0.0)
                self._tasks.create_task(self._try(provider, record), name=f"probe:{provider}")

    def close(self) -> None:
        """Try nothing any more."""
        for timer in self._timers.values():
            timer.cancel()

    def _declare(self, provider: str, breaker: Breaker, *, is_open: bool) -> None:
        """Say that a provider is dead, or that it is not any more: here at once, then to all."""
        n_pauses, wait_s = breaker.next_pause(now_s=self._loop.time())
        record = BreakerRecord(
            is_open=is_open,
            n_pauses=n_pauses if is_open else breaker.record.n_pauses,
            wait_ms=int(wait_s * 1000) if is_open else 0,
            written_at=self._now_ms(),
        )
        self._take(provider, record, age_s=0.0)
        self._tasks.create_task(self._tell(provider, record), name=f"breaker:{provider}")

    def _take(self, provider: str, record: BreakerRecord, *, age_s: float) -> None:
        breaker = self._breakers[provider]
        is_change = record.is_open != breaker.is_open
        if is_change:
            logger.warning(
                "provider taken for dead" if record.is_open else "provider works again",
                extra={"provider": provider},
            )
        breaker.take(record, age_s=age_s, now_s=self._loop.time())
        if (timer := self._timers.pop(provider, None)) is not None:
            timer.cancel()
        if record.is_open:
            self._timers[provider] = self._loop.call_at(breaker.probe_at_s, self.try_due)
        if is_change:
            self._on_change()

    async def _tell(self, provider: str, record: BreakerRecord) -> bool:
        """Tell all workers; False: another one was quicker, which will be heard."""
        try:
            async with asyncio.timeout(TELL_S):
                sequence = await self._state.replace(
                    "breaker",
                    self._endpoints[provider],
                    record,
                    last_sequence=self._sequences[provider],
                )
        except (TimeoutError, PublishRefusedError):
            return False
        self._sequences[provider] = max(sequence, self._sequences[provider])
        return True

    async def _try(self, provider: str, record: BreakerRecord) -> None:
        """Try a handshake, unless another worker does; tell the pool what came of it."""
        if not await self._tell(provider, record):
            return
        is_well = await self._try_handshake(provider)
        breaker = self._breakers[provider]
        if breaker.is_open and is_well is not None:
            self._declare(provider, breaker, is_open=not is_well)
