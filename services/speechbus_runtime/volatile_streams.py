"""JetStream streams that live in memory and die with their server: made again as they were."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import (
    JetStreamError,
    JetStreamUnavailableError,
    StreamSpec,
    ensure,
    read_specs,
)

__all__ = ["VolatileStreams"]

logger = logging.getLogger(__name__)

RETRY_S: Final = 0.5


class VolatileStreams:
    """Remembers how streams were configured, so that no service repeats bootstrap's settings.

    Args:
        bus: connection with the right to create them.
        names: the JetStream streams.
    """

    def __init__(self, bus: BusConnection, names: Sequence[str]) -> None:
        self._bus = bus
        self.names = names
        self._specs: list[StreamSpec] = []

    async def learn(self) -> None:
        """Read the configurations; waits for `speechbus bootstrap`, saying so once."""
        warned = False
        while True:
            try:
                self._specs = await read_specs(self._bus, self.names)
            except (JetStreamError, JetStreamUnavailableError) as error:
                if not warned:
                    logger.warning(
                        "waiting for JetStream streams: run `speechbus bootstrap`",
                        extra={"error": str(error)},
                    )
                    warned = True
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def restore(self) -> None:
        """Make again what a restart has lost; tries as long as the connection stands."""
        while self._bus.is_connected:
            try:
                reports = await ensure(self._bus, self._specs)
            except (JetStreamError, JetStreamUnavailableError):
                await asyncio.sleep(RETRY_S)  # JetStream itself is still starting
                continue
            lost = [report.name for report in reports if report.state == "created"]
            if lost:
                logger.warning("JetStream streams made again", extra={"streams": lost})
            return
