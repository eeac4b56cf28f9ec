"""What Kotoba says about the audio, as results: its deltas and ends of turns, or ours. Pure."""

from typing import Final

from speechbus_transcriber.providers.interface import Result
from speechbus_transcriber.providers.kotoba_places import KotobaPlaces
from speechbus_transcriber.providers.kotoba_turns import Completion, KotobaTurns, Piece
from speechbus_wire import kotoba as wire

__all__ = ["KotobaHearing"]

LAG_MS: Final = 5_000
"""Behind what was sent, where the server does not tell how far it has heard."""
SELF_PAUSE_MS: Final = 1_000
SELF_LENGTH_MS: Final = 15_000
"""Where the server ends no turns: a segment ends with a sentence, with this much audio without a
new word, or when it is this long (providers.md case 26)."""
OVERDUE_MS: Final = 5_000
"""Where it does, and goes on to say that it hears nothing: so much audio behind the last word of a
turn, its `completed` is lost."""
SENTENCE_ENDS: Final = (".", "!", "?", "\u3002", "\uff01", "\uff1f")
"""Also the wide ones of Japanese and Chinese."""


class KotobaHearing:
    """What was heard in one session.

    Args:
        places: of its audio.
        language: of all of it.
    """

    def __init__(self, places: KotobaPlaces, *, language: str | None) -> None:
        self.turns = KotobaTurns(language=language)
        self.ends_turns = True
        """Whether the server ends turns."""
        self.tells_silence = False
        """Whether the server has spoken of silence outside of turns: then it does so always."""
        self._places = places
        self._processed_ms = 0
        self._words_sent_ms = 0  # audio sent when words last came

    def take_delta(self, delta: wire.Delta) -> list[Result]:
        """Take text, or the news that there is none."""
        self._note_processed(delta.audio_processed_ms)
        if not delta.delta:
            self.tells_silence |= not self.turns.is_any_open
            return [*self._end_pause(), *self._cover_silence(delta.audio_processed_ms)]
        start_ms, end_ms = self._span(delta)
        piece = Piece(delta.delta, start_ms, end_ms, has_times=_has_times(delta))
        results = self.turns.add(self._key(delta.item_id), piece)
        self._words_sent_ms = self._places.sent_ms
        return results if self.ends_turns else [*results, *self._end_sentence()]

    def take_completed(self, completed: wire.Completed) -> list[Result]:
        """Take the end of a turn."""
        self.ends_turns = True
        processed_ms = completed.audio_processed_ms
        self._note_processed(processed_ms)
        start_ms, end_ms = self._span(completed)
        to_stream_ms = self._places.to_stream_ms
        return self.turns.complete(
            Completion(
                item_id=completed.item_id,
                key=self._key(completed.item_id),
                text=completed.transcript,
                start_ms=start_ms,
                end_ms=end_ms,
                has_times=_has_times(completed),
                processed_ms=None if processed_ms is None else to_stream_ms(processed_ms),
            )
        )

    def note_sent(self) -> list[Result]:
        """More audio is sent, perhaps silence: a pause ends a turn where the server ends none."""
        return [] if self.ends_turns else self._end_pause()

    def has_heard(self, until_ms: int) -> bool:
        """Whether the server has said that it has processed all audio before this."""
        return self._places.to_stream_ms(self._processed_ms) >= until_ms

    def _end_pause(self) -> list[Result]:
        pause_ms = OVERDUE_MS if self.ends_turns else SELF_PAUSE_MS
        is_pause = self._places.sent_ms - self._words_sent_ms >= pause_ms
        return self.turns.end_all() if is_pause else []

    def _end_sentence(self) -> list[Result]:
        has_ended = self.turns.open_text.rstrip().endswith(SENTENCE_ENDS)
        is_long = self.turns.open_ms >= SELF_LENGTH_MS
        return self.turns.end_all() if has_ended or is_long else []

    def _cover_silence(self, processed_ms: int | None) -> list[Result]:
        """An empty delta tells how far the server has heard, exactly or nearly (case 19)."""
        if processed_ms is None:
            return self.turns.cover_silence(self._places.given_ms - LAG_MS)
        return self.turns.cover_silence(self._places.to_stream_ms(processed_ms))

    def _note_processed(self, processed_ms: int | None) -> None:
        if processed_ms is not None:
            self._processed_ms = max(self._processed_ms, processed_ms)

    def _key(self, item_id: str | None) -> str | None:
        return item_id if self._places.names_turn(item_id) else None

    def _span(self, told: wire.Delta | wire.Completed) -> tuple[int, int]:
        if told.start_ms is None or told.end_ms is None:
            return self._places.find(told.item_id)
        # Estimates: one that runs backwards would do so again, with the same audio, in the next
        # session. The end is kept: what is covered depends on it.
        end_ms = max(0, told.end_ms)
        start_ms = min(max(0, told.start_ms), end_ms)
        to_stream_ms = self._places.to_stream_ms
        return to_stream_ms(start_ms), to_stream_ms(end_ms)


def _has_times(told: wire.Delta | wire.Completed) -> bool:
    return told.start_ms is not None and told.end_ms is not None
