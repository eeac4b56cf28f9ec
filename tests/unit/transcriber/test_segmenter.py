"""Segments out of results: indexes, revisions, stream time."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import (
    Gap,
    SegmentFinal,
    SegmentPartial,
    SegmentRetracted,
    StreamCovered,
    Word,
)
from speechbus_transcriber.checkpoint import Checkpoint, build_checkpoint
from speechbus_transcriber.providers.interface import Heard, HeardWord
from speechbus_transcriber.segmenter import (
    COVERED_EVERY_MS,
    SegmentContext,
    Segmenter,
    SegmentEvent,
    begin,
)
from speechbus_transcriber.session_timeline import SessionTimeline

FRESH = begin(Checkpoint(), is_shown=False)
_Event = TypeVar("_Event", bound=SegmentEvent)


def context_of(*, epoch: int = 1) -> SegmentContext:
    return SegmentContext(
        stream_id="s1",
        tenant="acme",
        epoch=epoch,
        provider="echo",
        language="en",
        target_languages=("es",),
    )


def heard_of(
    text: str, end_ms: int, *, is_final: bool = False, covered_ms: int | None = None
) -> Heard:
    return Heard(
        text=text,
        is_final=is_final,
        start_ms=max(0, end_ms - 400),
        end_ms=end_ms,
        covered_ms=covered_ms,
    )


class Play:
    """A stream under test: what was said to its segmenter, and what came of it."""

    def __init__(
        self,
        segmenter: Segmenter = FRESH,
        context: SegmentContext | None = None,
        *,
        session_start_ms: int = 0,
    ) -> None:
        self.segmenter = segmenter
        self.context = context or context_of()
        self.session_start_ms = session_start_ms
        self.events: list[SegmentEvent] = []

    def hear(self, heard: Heard) -> list[SegmentEvent]:
        """Say one result, in session time; return what came of it."""
        timeline = SessionTimeline(start_sample=16 * self.session_start_ms, sample_rate_hz=16_000)
        return self._keep(
            self.segmenter.hear(
                timeline.translate(heard), self.context, audio_received_at=7, now_ms=9
            )
        )

    def cover(self, covered_ms: int) -> list[SegmentEvent]:
        """Say that nothing was said, in stream time."""
        return self._keep(self.segmenter.cover(covered_ms, self.context, audio_received_at=7))

    def lose(self, from_ms: int, to_ms: int) -> list[SegmentEvent]:
        """Say that audio is lost, in stream time."""
        return self._keep(
            self.segmenter.lose(from_ms, to_ms, self.context, reason="audio_lost", now_ms=9)
        )

    def close(self) -> list[SegmentEvent]:
        """End the stream."""
        return self._keep(self.segmenter.retract(self.context))

    def _keep(self, step: tuple[list[SegmentEvent], Segmenter]) -> list[SegmentEvent]:
        events, self.segmenter = step
        self.events += events
        return events

    def said(self, kind: type[_Event]) -> list[_Event]:
        """All events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def test_case_09_a_final_is_in_stream_time() -> None:
    """A session's clock begins with its first sample, the stream's with the client's first."""
    word = HeardWord(text="hello", start_ms=120, end_ms=480, confidence=0.5)
    heard = Heard(
        text="hello",
        is_final=True,
        start_ms=100,
        end_ms=500,
        covered_ms=600,
        words=(word,),
        confidence=0.75,
        provider_transcription_id="p1",
    )
    play = Play(context=context_of(epoch=3), session_start_ms=60_000)

    assert play.hear(heard) == [
        SegmentFinal(
            stream_id="s1",
            tenant="acme",
            transcription_id="s1-0",
            index=0,
            revision=0,
            epoch=3,
            language="en",
            text="hello",
            start_ms=60_100,
            end_ms=60_500,
            provider="echo",
            covered_ms=60_600,
            audio_received_at=7,
            emitted_at=9,
            words=(Word(text="hello", start_ms=60_120, end_ms=60_480, confidence=0.5),),
            confidence=0.75,
            provider_transcription_id="p1",
            target_languages=("es",),
        )
    ]


def test_partials_and_their_final_share_a_transcription_id() -> None:
    """Readers replace what they show by it; a new one begins behind the final."""
    play = Play()
    for heard in [
        heard_of("one", 500),
        heard_of("one two", 900),
        heard_of("one two.", 1_000, is_final=True),
        heard_of("three", 1_500),
    ]:
        play.hear(heard)

    segments = [e for e in play.events if isinstance(e, SegmentPartial | SegmentFinal)]
    assert [(type(e), e.transcription_id, e.revision) for e in segments] == [
        (SegmentPartial, "s1-0", 0),
        (SegmentPartial, "s1-0", 1),
        (SegmentFinal, "s1-0", 2),
        (SegmentPartial, "s1-1", 0),
    ]


def test_a_partial_that_says_nothing_new_is_not_repeated() -> None:
    """Some providers send one with every message; empty ones say nothing at all."""
    play = Play()
    play.hear(heard_of("", 300))
    play.hear(heard_of("one", 500))
    play.hear(heard_of("one", 500))
    play.hear(heard_of("one", 600))

    assert [partial.end_ms for partial in play.said(SegmentPartial)] == [500, 600]


def test_an_empty_final_takes_back_what_was_shown() -> None:
    """The provider has changed its mind: it was a cough."""
    play = Play()
    play.hear(heard_of("off", 500))
    retracted = SegmentRetracted(
        stream_id="s1", tenant="acme", transcription_id="s1-0", index=0, epoch=1, finals=0
    )

    assert play.hear(heard_of("", 800, is_final=True)) == [retracted]
    assert (play.segmenter.next_index, play.segmenter.covered_ms) == (1, 800)


def test_an_empty_final_of_what_nobody_saw_leaves_no_trace() -> None:
    """Its index goes to the next segment: readers find no hole."""
    play = Play()

    assert play.hear(heard_of("", 800, is_final=True)) == []
    assert (play.segmenter.next_index, play.segmenter.covered_ms) == (0, 800)


def test_a_final_that_another_session_has_said_is_dropped() -> None:
    """A session that replays covered audio would double it."""
    play = Play(begin(Checkpoint(covered_ms=3_000, next_index=4, finals=4), is_shown=False))

    assert play.hear(heard_of("again", 3_000, is_final=True)) == []
    assert play.segmenter.next_index == 4
    assert play.hear(heard_of("new", 3_001, is_final=True)) != []


def test_case_10_finals_of_one_session_that_overlap_say_nothing_twice() -> None:
    """In stream time, whichever session said it."""
    play = Play(session_start_ms=5_000)
    for text, start_ms, end_ms in [("one two.", 0, 800), ("Two three", 400, 1_200)]:
        play.hear(Heard(text=text, is_final=True, start_ms=start_ms, end_ms=end_ms))
    play.session_start_ms = 5_600
    play.hear(Heard(text="three four", is_final=True, start_ms=200, end_ms=1_000))

    assert [(e.text, e.start_ms, e.end_ms) for e in play.said(SegmentFinal)] == [
        ("one two.", 5_000, 5_800),
        ("three", 5_800, 6_200),
        ("four", 6_200, 6_600),
    ]


def test_a_final_covers_no_less_than_was_covered() -> None:
    """A provider that covers less than it did would make the next worker double a final."""
    play = Play(begin(Checkpoint(covered_ms=3_000), is_shown=False))
    play.hear(heard_of("late", 3_500, is_final=True, covered_ms=2_000))

    assert [final.covered_ms for final in play.said(SegmentFinal)] == [3_000]


def test_silence_is_checkpointed_now_and_then() -> None:
    """A new worker re-reads at most ten seconds of it, and the log is not filled with it."""
    play = Play()
    for covered_ms in range(1_000, 25_000, 1_000):
        play.cover(covered_ms)

    assert [event.covered_ms for event in play.said(StreamCovered)] == [
        COVERED_EVERY_MS,
        2 * COVERED_EVERY_MS,
    ]


def test_a_gap_ends_the_open_segment_and_names_what_is_missing() -> None:
    """What was shown of it cannot go on behind the gap."""
    play = Play()
    play.hear(heard_of("one", 500))
    retracted, gap = play.lose(1_000, 3_500)

    assert isinstance(retracted, SegmentRetracted)
    assert isinstance(gap, Gap)
    assert (gap.from_ms, gap.to_ms, gap.gap_ms_total, gap.next_index) == (1_000, 3_500, 2_500, 1)
    assert play.segmenter.covered_ms == 3_500


def test_a_segment_keeps_its_index_when_another_worker_takes_over() -> None:
    """Readers see its text replaced, not a second copy beside a dead one."""
    first = Play()
    first.hear(heard_of("one.", 1_000, is_final=True))
    first.hear(heard_of("tw", 1_400))
    second = Play(
        begin(build_checkpoint(first.said(SegmentFinal)), is_shown=True),
        context_of(epoch=2),
        session_start_ms=1_000,
    )
    second.hear(heard_of("two.", 900, is_final=True))

    assert [(e.transcription_id, e.start_ms) for e in second.said(SegmentFinal)] == [
        ("s1-1", 1_500)
    ]


def test_an_open_segment_keeps_its_index_over_a_session_and_is_taken_back_if_nothing_follows() -> (
    None
):
    """The next session hears its audio again: it says it, or silence, or nothing to the end."""
    follows: list[tuple[Callable[[Play], list[SegmentEvent]], type[SegmentEvent]]] = [
        (lambda play: play.hear(heard_of("two", 900, is_final=True)), SegmentFinal),
        (lambda play: play.hear(heard_of("", 900, is_final=True)), SegmentRetracted),
        (lambda play: play.cover(1_900), SegmentRetracted),
        (Play.close, SegmentRetracted),
    ]
    for follow, kind in follows:
        play = Play()
        play.hear(heard_of("one", 1_000, is_final=True))
        play.hear(heard_of("tw", 1_400))
        play.session_start_ms = 1_000
        (event,) = follow(play)

        assert isinstance(event, SegmentFinal | SegmentRetracted)
        assert (type(event), event.index) == (kind, 1)
        assert (play.segmenter.next_index, play.close()) == (2, [])


def test_what_an_earlier_worker_may_have_shown_is_taken_back_at_the_end() -> None:
    """Nobody else will replace it."""
    play = Play(begin(Checkpoint(next_index=3, finals=3), is_shown=True), context_of(epoch=2))

    assert [type(event) for event in play.close()] == [SegmentRetracted]
    assert play.segmenter.finals == 3


# --- properties ----------------------------------------------------------------------------------

Step = tuple[str, str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["partial", "final", "final", "cover", "lose", "session"]),
        st.sampled_from(["", "a", "b"]),
        st.integers(-1_500, 4_000),
        st.integers(0, 12_000),
    ),
    max_size=40,
)
"""What happens, with which text, how far from the covered position, and how much longer."""


def play_step(play: Play, step: Step) -> list[SegmentEvent]:
    """Do what may happen to a session, at times relative to what is covered."""
    what, text, offset_ms, length_ms = step
    covered_ms = play.segmenter.covered_ms
    at_ms = max(0, covered_ms + offset_ms)
    session_start_ms = play.session_start_ms
    match what:
        case "partial" | "final":
            end_ms = max(0, at_ms - session_start_ms)
            return play.hear(
                Heard(
                    text=text,
                    is_final=what == "final",
                    start_ms=max(0, end_ms - 300),
                    end_ms=end_ms,
                    covered_ms=end_ms + length_ms % 200 if length_ms % 2 else None,
                )
            )
        case "cover":
            return play.cover(at_ms + length_ms)
        case "lose":
            from_ms = covered_ms + max(0, offset_ms)
            return play.lose(from_ms, from_ms + length_ms + 1)
        case _:
            play.session_start_ms = covered_ms
            return []


def stored(events: list[SegmentEvent]) -> list[SegmentEvent]:
    return [event for event in events if not isinstance(event, SegmentPartial)]


def read_checkpoint(log: list[SegmentEvent]) -> Checkpoint:
    """Build the checkpoint as a new owner does: from the last event of each kind."""
    return build_checkpoint({type(event): event for event in log}.values())


def check_log(log: list[SegmentEvent], next_index: int) -> None:
    """Each index has one end, in order; what is covered only grows."""
    ends = [e.index for e in log if isinstance(e, SegmentFinal | SegmentRetracted)]
    assert ends == list(range(next_index))
    covered = [
        event.to_ms if isinstance(event, Gap) else event.covered_ms
        for event in log
        if isinstance(event, SegmentFinal | StreamCovered | Gap)
    ]
    assert covered == sorted(covered)


@given(steps=STEPS)
def test_whatever_is_heard_indexes_and_coverage_only_grow(steps: list[Step]) -> None:
    """Readers order segments by index, and ingest forgets what is covered."""
    play = Play()
    for step in steps:
        before = play.segmenter
        play_step(play, step)
        assert play.segmenter.covered_ms >= before.covered_ms
        assert play.segmenter.next_index - before.next_index in (0, 1)
    play.close()

    check_log(stored(play.events), play.segmenter.next_index)
    shown = {event.index for event in play.said(SegmentPartial)}
    assert shown <= set(range(play.segmenter.next_index))
    revisions = [
        (e.index, e.revision) for e in play.events if isinstance(e, SegmentPartial | SegmentFinal)
    ]
    assert len(set(revisions)) == len(revisions)
    assert revisions == sorted(revisions)
    assert play.segmenter.finals == len(play.said(SegmentFinal))


@given(steps=STEPS, crashes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=4))
def test_a_new_owner_goes_on_from_the_log_alone(
    steps: list[Step], crashes: list[tuple[int, int]]
) -> None:
    """A worker may die before any write; what it had in mind and had not written is heard again.

    Each crash says after which step, and how many of the owner's last writes were refused.
    """
    unwritten = dict(crashes)
    log: list[SegmentEvent] = []
    play = Play()
    for number, step in enumerate(steps):
        play_step(play, step)
        if number in unwritten:
            mine = stored(play.events)
            log += mine[: max(0, len(mine) - unwritten[number])]
            checkpoint = read_checkpoint(log)
            play = Play(
                begin(checkpoint, is_shown=True),
                context_of(epoch=play.context.epoch + 1),
                session_start_ms=checkpoint.covered_ms,
            )
    play.close()
    log += stored(play.events)

    check_log(log, play.segmenter.next_index)
    finals = sum(isinstance(event, SegmentFinal) for event in log)
    gap_ms = sum(event.to_ms - event.from_ms for event in log if isinstance(event, Gap))
    assert (play.segmenter.finals, play.segmenter.gap_ms) == (finals, gap_ms)


@given(steps=STEPS)
def test_every_prefix_of_the_log_is_a_checkpoint(steps: list[Step]) -> None:
    """It says exactly what had been written: no index twice, no audio skipped."""
    play = Play()
    for step in steps:
        play_step(play, step)
    log = stored(play.events)

    for length in range(len(log) + 1):
        prefix = log[:length]
        ends = [e.index for e in prefix if isinstance(e, SegmentFinal | SegmentRetracted)]
        covered = [
            e.to_ms if isinstance(e, Gap) else e.covered_ms
            for e in prefix
            if isinstance(e, SegmentFinal | StreamCovered | Gap)
        ]
        checkpoint = read_checkpoint(prefix)
        assert checkpoint.next_index == len(ends)
        assert checkpoint.covered_ms == max(covered, default=0)
        assert checkpoint.finals == sum(isinstance(e, SegmentFinal) for e in prefix)
        assert checkpoint.gap_ms == sum(e.to_ms - e.from_ms for e in prefix if isinstance(e, Gap))
        assert read_checkpoint(prefix) == build_checkpoint(
            reversed({type(event): event for event in prefix}.values())
        )
