"""FastStream on our own connection, and the places where it needs help.

It would make a connection of its own, without the settings that ours has; its log lines may quote
messages; its pull loop ends on errors that pass; and it pulls for each single message.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

import nats.errors
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from speechbus_runtime.bus import BusConnection

__all__ = ["BusBroker", "watch_pulls"]

logger = logging.getLogger(__name__)

PULL_RETRY_S: Final = 0.2
"""Pause after a pull that failed at once; without it, a missing consumer costs a whole core."""

PULL_EVERY_S: Final = 0.02
"""Least time between pulls that were not full: finals that come within it share one. At 130
finals/s it takes the process from 11 to 8 % of a core (0.05: 5 %), and a lone final waits for
nothing."""


class BusBroker(NatsBroker):
    """A broker on a connection that exists already; its owner closes it, so do not call `stop`.

    Args:
        bus: the connection.
        drain_within_s: how long a subscriber's `stop` waits for its handlers.
    """

    def __init__(self, bus: BusConnection, *, drain_within_s: float) -> None:
        super().__init__(apply_types=False, logger=_TypesOnly(), graceful_timeout=drain_within_s)
        self._bus = bus

    async def _connect(self) -> Client:
        self.config.connect(self._bus)
        return self._bus


class _TypesOnly:
    """Passes on FastStream's errors without their text and traceback: they may hold speech."""

    def log(
        self,
        level: int,
        _message: object,
        /,
        *,
        exc_info: object = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        if level >= logging.ERROR:
            logger.error("FastStream reports an error", extra={"error": type(exc_info).__name__})


def watch_pulls(
    subscription: JetStreamContext.PullSubscription,
    bus: BusConnection,
    *,
    beat: Callable[[], None],
) -> None:
    """Make each pull give a sign of life, and end in messages or in what FastStream tolerates.

    FastStream starts its loop anew after any other error, at once, and keeps the old task.

    Args:
        subscription: of a subscriber that was just started, before the event loop turned.
        bus: its connection. Pulls wait while it is away: nats-py would send all of them together
            when it is back.
        beat: called before each pull.
    """
    pull = subscription.fetch
    loop = asyncio.get_running_loop()
    next_pull_at_s = 0.0

    async def fetch(
        batch: int = 1,
        timeout: float | None = 5,  # noqa: ASYNC109 - nats-py's signature
        heartbeat: float | None = None,
    ) -> list[Msg]:
        nonlocal next_pull_at_s
        beat()
        await asyncio.sleep(next_pull_at_s - loop.time())
        try:
            if bus.is_connected:
                started_at_s = loop.time()
                messages = await pull(batch, timeout, heartbeat)
                is_full = len(messages) == batch
                next_pull_at_s = 0.0 if is_full else started_at_s + PULL_EVERY_S
                return messages
        except TimeoutError:
            raise nats.errors.TimeoutError from None
        except nats.errors.Error as error:
            logger.debug("pull failed", extra={"error": type(error).__name__})
        await asyncio.sleep(PULL_RETRY_S)
        raise nats.errors.TimeoutError

    # FastStream has no hook here; it reads this attribute for each pull.
    subscription.fetch = fetch  # type: ignore[method-assign]
