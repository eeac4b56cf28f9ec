"""Fetches audio that did not come live: before the claim, during a hiccup, or never."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from speechbus_contracts import (
    AudioSubject,
    ContractError,
    StreamOpened,
    audio_stream_name,
    decode_chunk,
)
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError, fetch_stored
from speechbus_transcriber.audio_tail import AudioTail

__all__ = ["CatchUp"]

logger = logging.getLogger(__name__)

FETCH_MARGIN_MS: Final = 2_000
"""Clocks of ingest and NATS may differ by this much before a fetch needs a second try."""
BATCH_CHUNKS: Final = 32
"""Read at a time: of many streams that a worker takes over, each is heard soon."""
BATCH_BYTES: Final = 256 << 10
"""The same for long chunks at high rates; `BATCHES_MAX` of them are less than the server holds."""
RETRY_S: Final = 0.5
TRIES_MAX: Final = 10
"""Fetches, `RETRY_S` apart, before missing audio is lost: ingest repeats what was not stored
within 1 s, and after a NATS restart as soon as it is connected again."""


class CatchUp:
    """Decides when to look into AUDIO, how far back, and when to stop hoping.

    Args:
        bus: connection for bulk audio.
        opened: the stream.
        wake: called when `fetch` has become due.
    """

    def __init__(self, bus: BusConnection, opened: StreamOpened, wake: Callable[[], None]) -> None:
        self.is_due = True
        """Whether `fetch` should be called."""
        self.is_looking = False
        """Whether `fetch` is at it: what is stored is not known yet."""
        self.fetched_at_s = 0.0
        """When it was called last, on the loop's clock; 0: never."""
        self._bus = bus
        self._wake = wake
        self._stream_id = opened.stream_id
        self._store = audio_stream_name(opened.shard)
        self._subject = str(AudioSubject(opened.shard, opened.tenant, opened.stream_id))
        self._loop = asyncio.get_running_loop()
        self._tries = 0
        self._has_found = False
        self._timer: asyncio.TimerHandle | None = None

    def request(self) -> None:
        """Something is missing; ignored while a retry is planned."""
        if self._timer is None and not self.is_due:
            self.is_due = True
            self._wake()

    def remind(self) -> None:
        """What was read can be given again: what is due, and has been let be, makes sense now."""
        if self.is_due:
            self._wake()

    def restart(self) -> None:
        """Begin anew: the position or the connection has changed."""
        self._tries = 0
        self.is_due = True
        self._wake()

    def close(self) -> None:
        """Plan nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def fetch(self, tail: AudioTail, read: Callable[[], bool], *, from_ms: int) -> None:
        """Add stored chunks to the tail until it is whole, or give up what is missing.

        Args:
            tail: gets the chunks.
            read: takes from the tail what it can; False: the provider has no room, come again.
            from_ms: when ingest had the audio that is wanted first, ms since 1970.
        """
        is_first = self.fetched_at_s == 0
        self.fetched_at_s = self._loop.time()
        self.is_due = False
        self._tries += 1
        position = tail.position
        # The first try starts where the audio should be by the clocks; a try that did not find it
        # looks at everything that is retained.
        start_ms = from_ms - FETCH_MARGIN_MS if self._tries == 1 else None
        self.is_looking = True
        try:
            has_room = await self._add_stored(tail, read, start_ms=start_ms)
        except JetStreamUnavailableError:
            self._tries -= 1
            self._plan_retry()
            return
        finally:
            self.is_looking = False
        if not has_room:
            # There may be more, of which nothing is known: neither is it missing nor is it all.
            self._tries = 0
            self.is_due = True
            return
        if not tail.is_missing or tail.position > position:
            self._tries = 0
            if is_first:
                # A chunk routed before the subscription stood may be stored only after this first
                # look: JetStream stores a moment after it routes.
                self._plan_retry()
        elif self._tries == 1:
            self.is_due = True
        elif self._tries >= TRIES_MAX:
            self._tries = 0
            tail.give_up()
            read()
        else:
            self._plan_retry()

    async def walk(self, tail: AudioTail) -> None:
        """Take everything that is retained, waiting for NATS: tells how much audio there is."""
        while True:
            try:
                await self._add_stored(tail, lambda: _skim(tail), start_ms=None)
            except JetStreamUnavailableError:
                await asyncio.sleep(RETRY_S)
            else:
                tail.give_up()
                _skim(tail)
                return

    async def _add_stored(
        self, tail: AudioTail, read: Callable[[], bool], *, start_ms: int | None
    ) -> bool:
        """Add stored chunks batch by batch, as long as there are any and there is room.

        Returns:
            Whether there was room for all of them.

        Raises:
            JetStreamUnavailableError: no answer.
        """
        start_sequence = 1
        start_time = None
        if start_ms is not None:
            start_time = datetime.fromtimestamp(start_ms / 1000, UTC).isoformat()
        while True:
            messages = await fetch_stored(
                self._bus,
                self._store,
                self._subject,
                start_time=start_time,
                start_sequence=start_sequence,
                messages_max=BATCH_CHUNKS,
                bytes_max=BATCH_BYTES,
            )
            for message in messages:
                try:
                    tail.add(decode_chunk(message.payload))
                except ContractError:
                    logger.warning(
                        "a stored chunk broke the contract", extra={"stream_id": self._stream_id}
                    )
            if messages and not self._has_found:
                self._has_found = True
                logger.debug("stored audio found", extra={"stream_id": self._stream_id})
            if not read():
                return False
            if not messages:
                return True
            start_time = None
            start_sequence = messages[-1].sequence + 1

    def _plan_retry(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self.is_due = True
        self._wake()


def _skim(tail: AudioTail) -> bool:
    while tail.take() is not None:
        pass
    return True
