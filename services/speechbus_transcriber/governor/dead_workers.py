"""Finds out which workers are dead, by asking: they need not say anything for that."""

import asyncio
import logging
import random
from collections.abc import Collection
from typing import Final

import nats.errors

from speechbus_contracts import WorkerSubject
from speechbus_runtime.bus import BusConnection

__all__ = ["DeadWorkers"]

logger = logging.getLogger(__name__)

DEAD_S: Final = 6.0
"""A worker that answers nothing for so long is dead. Longer than a reconnect to NATS takes, and
short enough for its slots to be back within 10 s."""
PING_S: Final = 0.5
"""A busy worker answers within this."""
ASKED_MAX: Final = 16
"""Workers asked in one turn beside those that are silent: in a large pool, others ask others."""


class DeadWorkers:
    """The workers that were asked after and did not answer.

    Args:
        bus: control connection.
    """

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._silent_since_s: dict[str, float] = {}
        bus.on_disconnected(self.start_anew)

    def start_anew(self) -> None:
        """This process stood still, or was away: silence until now says nothing."""
        self._silent_since_s.clear()

    async def ask_after(self, workers: Collection[str]) -> set[str]:
        """Ask them, or some of many; call again while it matters, about once a second.

        Returns:
            Those that are dead.
        """
        for name in set(self._silent_since_s).difference(workers):
            del self._silent_since_s[name]
        chosen = random.sample(sorted(workers), min(len(workers), ASKED_MAX))
        async with asyncio.TaskGroup() as asking:
            for name in {*chosen, *self._silent_since_s}:
                asking.create_task(self._ask(name))
        now_s = self._loop.time()
        dead = {name for name, at_s in self._silent_since_s.items() if now_s - at_s >= DEAD_S}
        if dead:
            logger.warning("dead workers have lost their slots", extra={"workers": sorted(dead)})
        return dead

    async def _ask(self, name: str) -> None:
        asked_s = self._loop.time()
        try:
            await self._bus.request(str(WorkerSubject(name, "ping")), b"", timeout=PING_S)
        except (nats.errors.Error, TimeoutError, OSError):
            if self._bus.is_connected:
                self._silent_since_s.setdefault(name, asked_s)
        else:
            self._silent_since_s.pop(name, None)
