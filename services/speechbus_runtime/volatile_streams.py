"""JetStream streams that live in memory and die with their server: made again as they were."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import (
    JetStreamError,
    JetStreamUnavailableError,
    StreamSpec,
    ensure,
    read_specs,
    request_api,
)
from speechbus_runtime.replication import has_quorum

__all__ = ["VolatileStreams"]

logger = logging.getLogger(__name__)

RETRY_S: Final = 0.5
RESTORE_TRIES_MAX: Final = 10
"""A server that has just started answers within these; what stays silent lives elsewhere."""
SILENT_LOOKS_MAX: Final = 4
"""Looks in a row, some five seconds apart, at which a stream cannot store: no election is so long.
Its only server is away, or its replicas wait for each other: after a rolling restart under load,
two of three may have nothing but the wish to copy, and no leader (nats-server 2.15.1)."""


class VolatileStreams:
    """Remembers how streams are configured, so that no service repeats bootstrap's settings.

    Args:
        bus: connection with the right to create them.
        names: the JetStream streams.
    """

    def __init__(self, bus: BusConnection, names: Sequence[str]) -> None:
        self._bus = bus
        self.names = names
        self._specs: dict[str, StreamSpec] = {}
        self._seen: dict[str, tuple[str, int]] = {}
        self._silent_looks: Counter[str] = Counter()

    async def learn(self) -> None:
        """Read the configurations; waits for `speechbus bootstrap`, saying so once."""
        warned = False
        while True:
            try:
                specs = await read_specs(self._bus, self.names)
            except (JetStreamError, JetStreamUnavailableError) as error:
                if not warned:
                    logger.warning(
                        "waiting for JetStream streams: run `speechbus bootstrap`",
                        extra={"error": str(error)},
                    )
                    warned = True
                await asyncio.sleep(RETRY_S)
            else:
                self._specs = {spec.name: spec for spec in specs}
                return

    async def restore(self) -> None:
        """Make again what a restart has lost, as far as JetStream answers in time."""
        silent = [*self._specs]
        for _ in range(RESTORE_TRIES_MAX):
            async with asyncio.TaskGroup() as tasks:
                tries = {name: tasks.create_task(self.restore_one(name)) for name in silent}
            silent = [name for name, is_there in tries.items() if not is_there.result()]
            if not silent or not self._bus.is_connected:
                return
            await asyncio.sleep(RETRY_S)  # JetStream itself is still starting

    def note(self, name: str, info: Mapping[str, Any] | None) -> bool:
        """Take what JetStream says of one stream; None: nothing.

        Returns:
            Whether its content is gone since the last look: it is another one, or began anew.
        """
        if info is None or not has_quorum(info):
            self._silent_looks[name] += 1
            return False
        del self._silent_looks[name]
        self._specs[name] = StreamSpec(name=name, config=info["config"])
        created, last_sequence = info["created"], info["state"]["last_seq"]
        former_created, former_sequence = self._seen.get(name, (created, 0))
        self._seen[name] = (created, last_sequence)
        return bool(created != former_created or last_sequence < former_sequence)

    async def replace_lost(self) -> bool:
        """Make those anew that have been silent for long: what they held is out of reach.

        Returns:
            Whether there was any.
        """
        lost = [name for name, looks in self._silent_looks.items() if looks >= SILENT_LOOKS_MAX]
        if not lost or self._bus.n_servers == 1:
            return False  # a server alone is only slow
        with suppress(JetStreamError, JetStreamUnavailableError):
            await request_api(self._bus, "INFO", {})  # else it is we who are out of reach
            for name in lost:
                # Another ingest may have made it anew since our last look, and filled it.
                with suppress(JetStreamError, JetStreamUnavailableError):
                    if has_quorum(await request_api(self._bus, f"STREAM.INFO.{name}", {})):
                        continue
                # Nobody is there to answer; it is taken off the list all the same.
                with suppress(JetStreamError, JetStreamUnavailableError):
                    await request_api(self._bus, f"STREAM.DELETE.{name}", {})
                await self.restore_one(name)
                del self._silent_looks[name]
            return True
        return False

    async def restore_one(self, name: str) -> bool:
        """Make one again if it is gone; False: JetStream does not say."""
        try:
            (report,) = await ensure(self._bus, [self._specs[name]])
        except (JetStreamError, JetStreamUnavailableError):
            return False
        if report.state == "created":
            self._seen[name] = ("", 0)  # the next look fills it, whoever has made it again by then
            logger.warning("JetStream stream made again", extra={"stream": name})
        return True
