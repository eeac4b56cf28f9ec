"""Where in the stream's audio Kotoba's texts belong. Pure.

With `timestamps` they say so, in ms of the session's audio, which has our silence in it. Without,
some servers name the append that a text came from; from others it came from what was sent last.
"""

from typing import Final

from speechbus_transcriber.providers.session_clock import SessionClock

__all__ = ["KotobaPlaces"]

APPENDS_MAX: Final = 4_096
"""Appends whose place is remembered: some seven minutes."""
CHUNK_ID: Final = "chunk-"


class KotobaPlaces:
    """Counts the audio of one session, append by append.

    Args:
        sample_rate_hz: of it.
        chunk_ms: the longest append.
    """

    def __init__(self, *, sample_rate_hz: int, chunk_ms: int) -> None:
        self._clock = SessionClock(sample_rate_hz=sample_rate_hz)
        self._rate_hz = sample_rate_hz
        self._chunk_ms = chunk_ms
        self._n_appends = 0
        self._n_appended = 0  # samples of the stream; fewer than given while a rest waits
        self._n_silent = 0
        self._spans: dict[str, tuple[int, int]] = {}

    @property
    def given_ms(self) -> int:
        """Audio of the stream so far."""
        return self._clock.given_ms

    @property
    def sent_ms(self) -> int:
        """Audio of the session so far: of the stream, and our silence."""
        return self._ms(self._n_appended + self._n_silent)

    def give(self, n_samples: int) -> None:
        """Samples of the stream have come; appends follow."""
        self._clock.give(n_samples)

    def append(self, n_samples: int) -> str:
        """The next samples of the stream are sent; return the `event_id` of their append."""
        start = self._n_appended
        self._n_appended += n_samples
        return self._name(self._ms(start), self._ms(self._n_appended))

    def append_silence(self, n_samples: int) -> str:
        """Silence of our own is sent behind all samples given; return its `event_id`."""
        self._clock.insert(n_samples)
        self._n_silent += n_samples
        return self._name(self.given_ms, self.given_ms)

    def to_stream_ms(self, session_ms: int) -> int:
        """Return the stream's time for one of the server's."""
        return self._clock.to_stream_ms(session_ms)

    def find(self, item_id: str | None) -> tuple[int, int]:
        """Return start and end of a text that comes without times."""
        end_ms = self.given_ms
        return self._spans.get(item_id or "", (max(0, end_ms - self._chunk_ms), end_ms))

    @staticmethod
    def names_turn(item_id: str | None) -> bool:
        """Whether an id is one of the server's own; the others are echoes of our appends."""
        return item_id is not None and not item_id.startswith(CHUNK_ID)

    def _name(self, start_ms: int, end_ms: int) -> str:
        self._n_appends += 1
        event_id = f"{CHUNK_ID}{self._n_appends:07d}"
        self._spans[event_id] = (start_ms, end_ms)
        if len(self._spans) > APPENDS_MAX:
            del self._spans[next(iter(self._spans))]
        return event_id

    def _ms(self, n_samples: int) -> int:
        return n_samples * 1000 // self._rate_hz
