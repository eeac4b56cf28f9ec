"""Gives a session the stream's audio, without its silence while the stream is behind."""

from collections import deque
from typing import Final

from speechbus_transcriber.driver import SessionDriver
from speechbus_transcriber.session_timeline import SessionTimeline
from speechbus_transcriber.silence_skipper import Piece, SilenceSkipper

__all__ = ["AudioFeed"]

BEHIND_S: Final = 1.5
"""Audio waiting for longer than this is a backlog, not a hiccup."""
CAUGHT_UP_S: Final = 0.3
"""From here on everything is sent again: a chunk or two always wait."""


class AudioFeed:
    """The audio of one session, in order.

    Args:
        driver: of the session.
        timeline: learns what was given and what was left out.
        sample_rate_hz: of the stream.
        may_skip: whether silence may be left out.
    """

    def __init__(
        self,
        driver: SessionDriver,
        timeline: SessionTimeline,
        *,
        sample_rate_hz: int,
        may_skip: bool,
    ) -> None:
        self._driver = driver
        self._timeline = timeline
        self._rate_hz = sample_rate_hz
        self._may_skip = may_skip
        self._skipper: SilenceSkipper | None = None
        self._waiting: deque[Piece] = deque()

    def give(self, pcm: memoryview, *, n_behind: int) -> None:
        """Send a chunk, or have it wait for `send_waiting`.

        Args:
            pcm: PCM s16le mono, whole samples.
            n_behind: samples that are there behind it.
        """
        if not self._may_skip:
            self._send(pcm)
        elif self._skipper is not None:
            self._waiting += self._skipper.feed(pcm)
            if n_behind < CAUGHT_UP_S * self._rate_hz:
                self._stop_skipping()
        elif n_behind > BEHIND_S * self._rate_hz:
            self._skipper = SilenceSkipper(sample_rate_hz=self._rate_hz)
            self._waiting += self._skipper.feed(pcm)
        else:
            self._send(pcm)

    def send_waiting(self) -> bool:
        """Send what waits longest, up to the length of a chunk; False: nothing waits."""
        if not self._waiting:
            return False
        piece = self._waiting.popleft()
        if piece.n_skipped:
            self._timeline.skip(piece.n_skipped)
        if piece.pcm:
            self._send(memoryview(piece.pcm))
        return True

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
            self._waiting.append(self._skipper.release())
            self._skipper = None

    def _send_all(self) -> None:
        # What is held back is shorter than a chunk, and nothing else waits when a marker is read.
        self._stop_skipping()
        while self.send_waiting():
            pass

    def _send(self, pcm: memoryview) -> None:
        self._timeline.give(len(pcm) // 2)
        self._driver.send_audio(pcm)
