"""Gives a session the stream's audio, without its silence while the stream is behind."""

import math
from collections import deque
from typing import Final

from speechbus_transcriber.driver import SessionDriver
from speechbus_transcriber.session_timeline import SessionTimeline
from speechbus_transcriber.silence_skipper import Piece, SilenceSkipper

__all__ = ["AudioFeed"]

BEHIND_S: Final = 1.5
"""Audio waiting for longer than this is a backlog, not a hiccup."""
LASTING_S: Final = 2.0
"""So is what has not been less than `CAUGHT_UP_S` for this long: a client that sends in bursts has
sent nothing for a moment before each."""
CAUGHT_UP_S: Final = 0.3
"""From here on everything is sent again: a chunk or two always wait."""
SENT_AT_ONCE_MS: Final = 100
"""Of silence that has to end a turn: then it is asked again whether it has to, and the pace."""


class AudioFeed:
    """The audio of one session, in order.

    Args:
        driver: of the session.
        timeline: learns what was given and what was left out.
        sample_rate_hz: of the stream.
        turn_pause_ms: silence after which the provider ends a turn, which is left out of a longer
            one only where the provider is told the end instead; None: no silence may be left out.
    """

    def __init__(
        self,
        driver: SessionDriver,
        timeline: SessionTimeline,
        *,
        sample_rate_hz: int,
        turn_pause_ms: int | None,
    ) -> None:
        self._driver = driver
        self._timeline = timeline
        self._rate_hz = sample_rate_hz
        self._turn_pause_ms = turn_pause_ms or 0
        self._n_behind_max = math.inf if turn_pause_ms is None else BEHIND_S * sample_rate_hz
        self._n_lasting_max = math.inf if turn_pause_ms is None else LASTING_S * sample_rate_hz
        self._n_lasting = 0
        """Samples given since audio last waited for less than `CAUGHT_UP_S`."""
        self._skipper: SilenceSkipper | None = None
        self._has_given = False
        self.waiting: deque[Piece] = deque()
        """What is to be sent before anything else is given."""

    def give(self, pcm: memoryview, *, n_behind: int) -> None:
        """Send a chunk, or have it wait among `waiting`.

        Args:
            pcm: PCM s16le mono, whole samples.
            n_behind: samples that are there behind it.
        """
        is_behind = n_behind >= CAUGHT_UP_S * self._rate_hz
        self._n_lasting = self._n_lasting + (len(pcm) >> 1) if is_behind else 0
        if self._skipper is None:
            if n_behind <= self._n_behind_max and self._n_lasting <= self._n_lasting_max:
                self._send(pcm)
                return
            self._skipper = SilenceSkipper(
                sample_rate_hz=self._rate_hz,
                turn_pause_ms=self._turn_pause_ms,
                is_beginning=not self._has_given,
            )
        self.waiting += self._skipper.feed(pcm)
        if not is_behind:
            self._stop_skipping()

    def send_waiting(self) -> None:
        """Send what waits longest, up to the length of a chunk; something is `waiting`.

        Where a turn can be ended without silence it is, and the silence is left out.
        """
        piece = self.waiting.popleft()
        pcm = memoryview(piece.pcm)
        if piece.n_skipped:
            self._timeline.skip(piece.n_skipped)
        if not piece.ends_turn:
            self._send(pcm)
        elif self._driver.end_turn():
            self._timeline.skip(len(pcm) >> 1)
        else:
            n_bytes = 2 * (SENT_AT_ONCE_MS * self._rate_hz // 1000)
            self._send(pcm[:n_bytes])
            if len(pcm) > n_bytes:
                self.waiting.appendleft(Piece(0, piece.pcm[n_bytes:], ends_turn=True))

    def _send(self, pcm: memoryview) -> None:
        if pcm:
            self._has_given = True
            self._timeline.give(len(pcm) >> 1)
            self._driver.send_audio(pcm)

    def flush(self) -> None:
        """Ask for the finals of everything given."""
        self._send_all()
        self._driver.flush()

    def finish(self) -> None:
        """Ask for the last finals."""
        self._send_all()
        self._driver.finish()

    def _stop_skipping(self) -> None:
        if self._skipper is not None:
            self.waiting.append(self._skipper.release())
            self._skipper = None

    def _send_all(self) -> None:
        # At once, whatever the pace: it is shorter than a chunk, as no silence has to end the turn.
        self._stop_skipping()
        while self.waiting:
            piece = self.waiting.popleft()
            n_silent = len(piece.pcm) >> 1 if piece.ends_turn else 0
            if piece.n_skipped + n_silent:
                self._timeline.skip(piece.n_skipped + n_silent)
            if not piece.ends_turn:
                self._send(memoryview(piece.pcm))
