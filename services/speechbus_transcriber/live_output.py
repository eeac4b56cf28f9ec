"""What a stream shows and nobody stores: partials, turns, lag and waiting, over core NATS."""

import asyncio
from collections.abc import Callable
from typing import Final

from speechbus_contracts import (
    LiveSubject,
    SegmentPartial,
    StreamLag,
    StreamOpened,
    StreamWaiting,
    TurnEnded,
    TurnStarted,
    encode_event,
)
from speechbus_runtime.bus import BusConnection

__all__ = ["LiveOutput"]

PARTIAL_INTERVAL_S: Final = 0.1
"""Partials of one stream are conflated to ten a second: nobody reads faster."""


class LiveOutput:
    """Partials, turns and lag of one stream.

    Args:
        bus: control connection.
        opened: the stream.
        may_show: False while this worker cannot be sure that the stream is still its own.
        count_partial: called with each partial that is published.
    """

    def __init__(
        self,
        bus: BusConnection,
        opened: StreamOpened,
        *,
        may_show: Callable[[], bool],
        count_partial: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._count_partial = count_partial
        self._may_show = may_show
        self._loop = asyncio.get_running_loop()
        tenant, stream_id = opened.tenant, opened.stream_id
        self._partial_subject = str(LiveSubject(tenant, stream_id, "partial")).encode()
        self._turn_subject = str(LiveSubject(tenant, stream_id, "turn")).encode()
        self._lag_subject = str(LiveSubject(tenant, stream_id, "lag")).encode()
        self._waiting_subject = str(LiveSubject(tenant, stream_id, "waiting")).encode()
        self._held: SegmentPartial | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shown_at_s = 0.0
        self._is_closed = False

    def show_partial(self, partial: SegmentPartial) -> None:
        """Show a partial now, or the newest one as soon as the interval allows."""
        now_s = self._loop.time()
        wait_s = self._shown_at_s + PARTIAL_INTERVAL_S - now_s
        if wait_s <= 0:
            self._shown_at_s = now_s
            self._held = None
            self._publish(self._partial_subject, encode_event(partial))
            self._count_partial()
            return
        self._held = partial
        if self._timer is None:
            self._timer = self._loop.call_later(wait_s, self._show_held)

    def drop_partial(self) -> None:
        """A final has come: what was held back is out of date."""
        self._held = None

    def show_turn(self, turn: TurnStarted | TurnEnded) -> None:
        """Show a turn boundary."""
        self._publish(self._turn_subject, encode_event(turn))

    def show_lag(self, lag: StreamLag) -> None:
        """Show how far the stream is behind."""
        self._publish(self._lag_subject, encode_event(lag))

    def show_waiting(self, waiting: StreamWaiting) -> None:
        """Show that the stream waits for a provider, or does not any more."""
        self._publish(self._waiting_subject, encode_event(waiting))

    def close(self) -> None:
        """Show nothing any more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _show_held(self) -> None:
        self._timer = None
        if self._held is not None:
            self.show_partial(self._held)

    def _publish(self, subject: bytes, payload: bytes) -> None:
        # After a freeze the claim of a new owner may lie unread: say nothing until it would be.
        if not self._is_closed and self._may_show():
            self._bus.publish_nowait(subject, payload)
