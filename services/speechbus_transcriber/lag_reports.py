"""Tells the log and the subscribers of a stream how far it is behind."""

import logging
from typing import Final

from speechbus_contracts import StreamLag, StreamOpened
from speechbus_transcriber.lag_watch import Lag, LagWatch
from speechbus_transcriber.live_output import LiveOutput

__all__ = ["LagReports"]

logger = logging.getLogger(__name__)

ADVICE: Final = (
    "its provider was away, or takes real time only: it catches up in pauses; "
    "SPEECHBUS_TRANSCRIBER_LAG_MAX_S has it jump instead"
)


class LagReports:
    """Of one stream on one worker.

    Args:
        opened: the stream.
        epoch: of the worker.
        live: shows it.
    """

    def __init__(self, opened: StreamOpened, *, epoch: int, live: LiveOutput) -> None:
        self._opened = opened
        self._epoch = epoch
        self._live = live
        self._watch = LagWatch(sample_rate_hz=opened.sample_rate_hz)

    def look(self, *, received: int, given: int, covered: int) -> Lag:
        """Measure, and say when the stream falls behind, while it is, and when it has caught up.

        Args are those of `LagWatch.look`.
        """
        was_behind = self._watch.is_behind
        lag = self._watch.look(received=received, given=given, covered=covered)
        if lag.is_behind or was_behind:
            self._show(lag)
        facts = {"stream_id": self._opened.stream_id, "epoch": self._epoch}
        if lag.is_behind and not was_behind:
            logger.warning(
                "stream is behind",
                extra={**facts, "waiting_s": round(lag.waiting_s, 1), "advice": ADVICE},
            )
        elif was_behind and not lag.is_behind:
            logger.info("stream has caught up", extra=facts)
        return lag

    def _show(self, lag: Lag) -> None:
        self._live.show_lag(
            StreamLag(
                stream_id=self._opened.stream_id,
                tenant=self._opened.tenant,
                epoch=self._epoch,
                waiting_ms=round(lag.waiting_s * 1000) if lag.is_behind else 0,
            )
        )
