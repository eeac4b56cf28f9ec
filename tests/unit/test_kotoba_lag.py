"""Kotoba without times, and late: when the connection breaks, nothing was covered unheard.

A simulated server hears known words, and tells each some time behind its audio. The connection
breaks, and a second server hears the audio again from where the first session covered it.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_contracts import SegmentFinal
from speechbus_transcriber.checkpoint import Checkpoint, build_checkpoint
from speechbus_transcriber.providers.interface import Covered, Heard, Result
from speechbus_transcriber.providers.kotoba_finals import LAG_MS
from speechbus_transcriber.segmenter import SegmentContext, Segmenter, begin
from speechbus_transcriber.session_timeline import SessionTimeline
from tests.support.kotoba_session import KotobaSession, completed, delta

STEP_MS: Final = 100
WORD_MS: Final = 300
PAUSE_MS: Final = 600
"""Ends a turn."""
CONTEXT: Final = SegmentContext(
    stream_id="s",
    tenant="t",
    epoch=1,
    provider="kotoba",
    language="ja",
    target_languages=(),
)


class Word(msgspec.Struct, frozen=True):
    """What is said, and until when in the stream."""

    text: str
    start_ms: int
    is_last: bool
    """Of its turn."""

    @property
    def end_ms(self) -> int:
        """Where it ends."""
        return self.start_ms + WORD_MS


def build_words(turns: Sequence[tuple[int, int]]) -> list[Word]:
    """Return the words of turns, each a pause in ms, and how many words follow it."""
    words: list[Word] = []
    at_ms = 0
    for pause_ms, n_words in turns:
        at_ms += pause_ms
        for n in range(n_words):
            words.append(Word(f"w{len(words):03d}", at_ms, n == n_words - 1))
            at_ms += WORD_MS
    return words


class Stream:
    """What the segmenter makes of one session behind the other."""

    def __init__(self, words: Sequence[Word], *, tells_silence: bool) -> None:
        self.finals: list[SegmentFinal] = []
        self._words = words
        self._tells_silence = tells_silence
        self._segmenter: Segmenter = begin(Checkpoint(), is_shown=False)

    def change_worker(self) -> None:
        """The next one knows what the log has."""
        self._segmenter = begin(build_checkpoint(self.finals[-1:]), is_shown=True)

    @property
    def covered_ms(self) -> int:
        """From here on a session hears the audio."""
        return self._segmenter.covered_ms

    @property
    def words(self) -> list[str]:
        """Of all finals."""
        return [word for final in self.finals for word in final.text.split()]

    def run(self, *, lag_ms: int, until_ms: int) -> None:
        """Have the audio heard from what is covered to `until_ms` by a server that is late."""
        from_ms = self.covered_ms
        timeline = SessionTimeline(start_sample=from_ms * 16, sample_rate_hz=16_000)
        session = KotobaSession()
        waiting = [
            # A word of which the beginning is not sent is not understood.
            word if word.start_ms >= from_ms else msgspec.structs.replace(word, text="cut")
            for word in self._words
            if word.end_ms > from_ms
        ]
        turn: list[str] = []
        ends_at_ms: int | None = None
        for now_ms in range(from_ms + STEP_MS, until_ms + 1, STEP_MS):
            session.speak(STEP_MS)
            self._take(session, timeline)
            heard_ms = now_ms - lag_ms
            if waiting and waiting[0].end_ms <= heard_ms:
                word = waiting.pop(0)
                turn.append(word.text)
                ends_at_ms = word.end_ms + PAUSE_MS if word.is_last else None
                session.receive(delta(f" {word.text}"))
            elif ends_at_ms is not None and ends_at_ms <= heard_ms:
                session.receive(completed(" ".join(turn)))
                turn, ends_at_ms = [], None
            elif self._tells_silence and not turn:
                session.receive(delta(""))
            self._take(session, timeline)

    def _take(self, session: KotobaSession, timeline: SessionTimeline) -> None:
        self.finals += self._segment(session.results, timeline)
        session.results.clear()

    def _segment(self, results: list[Result], timeline: SessionTimeline) -> Iterator[SegmentFinal]:
        for result in results:
            if isinstance(result, Heard):
                events, self._segmenter = self._segmenter.hear(
                    timeline.translate(result), CONTEXT, audio_received_at=0, now_ms=0
                )
            elif isinstance(result, Covered):
                covered_ms = timeline.to_stream_ms(result.covered_ms)
                events, self._segmenter = self._segmenter.cover(
                    covered_ms, CONTEXT, audio_received_at=0
                )
            else:
                continue
            yield from (event for event in events if isinstance(event, SegmentFinal))


def test_what_is_said_before_the_text_comes_is_heard_again() -> None:
    """A word until 0.9 s is told at 1.8 s; then the connection breaks, with another one unheard."""
    words = [Word("w000", 600, is_last=True), Word("w001", 1_500, is_last=True)]
    stream = Stream(words, tells_silence=False)
    stream.run(lag_ms=900, until_ms=2_400)

    assert stream.words == ["w000"]
    assert stream.covered_ms == 0
    stream.run(lag_ms=900, until_ms=6_000)
    assert stream.words == ["w000", "w001"]


LAGS: Final = st.integers(0, LAG_MS // STEP_MS).map(lambda n: n * STEP_MS)
BREAKS: Final = st.integers(1, 150).map(lambda n: n * STEP_MS)


@settings(max_examples=60)
@given(
    turns=st.lists(
        st.tuples(st.sampled_from([600, 900, 1_500, 6_000]), st.integers(1, 9)),
        min_size=1,
        max_size=6,
    ),
    lag_ms=LAGS,
    later_lag_ms=LAGS,
    break_ms=BREAKS,
    tells_silence=st.booleans(),
)
def test_no_word_is_lost_wherever_the_connection_breaks(
    *,
    turns: list[tuple[int, int]],
    lag_ms: int,
    later_lag_ms: int,
    break_ms: int,
    tells_silence: bool,
) -> None:
    """However late each of the servers is, and however short the turns."""
    words = build_words(turns)
    stream = Stream(words, tells_silence=tells_silence)
    stream.run(lag_ms=lag_ms, until_ms=break_ms)
    stream.run(lag_ms=later_lag_ms, until_ms=words[-1].end_ms + PAUSE_MS + LAG_MS + STEP_MS)

    assert {word.text for word in words} <= set(stream.words)


@settings(max_examples=60)
@given(
    turns=st.lists(st.tuples(st.just(PAUSE_MS), st.integers(5, 9)), min_size=1, max_size=6),
    lag_ms=st.integers(0, PAUSE_MS // STEP_MS).map(lambda n: n * STEP_MS),
    break_ms=BREAKS,
    changes_worker=st.booleans(),
)
def test_turns_are_not_doubled_where_the_server_lags_less_than_their_pauses(
    *, turns: list[tuple[int, int]], lag_ms: int, break_ms: int, changes_worker: bool
) -> None:
    """What is heard again is one whole final, which the segmenter takes away."""
    words = build_words(turns)
    stream = Stream(words, tells_silence=False)
    stream.run(lag_ms=lag_ms, until_ms=break_ms)
    if changes_worker:
        stream.change_worker()
    covered_ms = [final.covered_ms for final in stream.finals]
    stream.run(lag_ms=lag_ms, until_ms=words[-1].end_ms + PAUSE_MS + LAG_MS + STEP_MS)

    assert stream.words == [word.text for word in words]
    # It goes on with the turns, so that what is kept for another session does not grow.
    assert covered_ms[2:] == sorted(set(covered_ms[2:]))
