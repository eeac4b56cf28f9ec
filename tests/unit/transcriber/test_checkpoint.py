"""Where a stream stands, from its log alone."""

from itertools import permutations

from speechbus_contracts import (
    AnyEvent,
    Gap,
    SegmentFinal,
    SegmentRetracted,
    StreamClosed,
    StreamCovered,
)
from speechbus_transcriber.checkpoint import Checkpoint, build_checkpoint
from speechbus_transcriber.overlap import Said


def final_of(index: int, *, covered_ms: int) -> SegmentFinal:
    return SegmentFinal(
        stream_id="s1",
        tenant="acme",
        transcription_id=f"s1-{index}",
        index=index,
        revision=0,
        epoch=1,
        language=None,
        text="text",
        start_ms=covered_ms - 100,
        end_ms=covered_ms,
        provider="echo",
        covered_ms=covered_ms,
        audio_received_at=covered_ms + 1,
        emitted_at=0,
    )


def retracted_of(index: int, *, finals: int) -> SegmentRetracted:
    return SegmentRetracted(
        stream_id="s1",
        tenant="acme",
        transcription_id=f"s1-{index}",
        index=index,
        epoch=1,
        finals=finals,
    )


COVERED = StreamCovered(
    stream_id="s1",
    tenant="acme",
    epoch=1,
    covered_ms=20_000,
    next_index=5,
    audio_received_at=20_001,
)
GAP = Gap(
    stream_id="s1",
    tenant="acme",
    epoch=1,
    from_ms=30_000,
    to_ms=34_000,
    reason="audio_lost",
    next_index=6,
    gap_ms_total=9_000,
    audio_received_at=34_001,
)

SAID = Said(9_000, ("text",))
"""Of the last final: it may be heard again."""


def check(events: list[AnyEvent], expected: Checkpoint) -> None:
    """Reads come back in any order."""
    for order in permutations(events):
        assert build_checkpoint(order) == expected


def test_a_stream_without_a_log_begins_at_its_first_sample() -> None:
    """Nothing is covered, and nobody knows when its audio came."""
    check([], Checkpoint(covered_ms=0, next_index=0, finals=0, gap_ms=0, audio_received_at=None))


def test_the_last_final_says_how_many_there_were() -> None:
    """Indexes have no holes while nothing is retracted."""
    check(
        [final_of(4, covered_ms=9_000)],
        Checkpoint(covered_ms=9_000, next_index=5, finals=5, audio_received_at=9_001, said=SAID),
    )


def test_the_furthest_of_all_events_counts() -> None:
    """A pause or a gap after the last final is not read again."""
    check(
        [final_of(4, covered_ms=9_000), COVERED, GAP, retracted_of(5, finals=5)],
        Checkpoint(
            covered_ms=34_000,
            next_index=6,
            finals=5,
            gap_ms=9_000,
            audio_received_at=34_001,
            said=SAID,
        ),
    )


def test_finals_before_and_behind_a_retraction_are_counted() -> None:
    """`stream.closed` tells the number, and a retracted segment is none of them."""
    check(
        [final_of(9, covered_ms=9_000), retracted_of(6, finals=4)],
        Checkpoint(covered_ms=9_000, next_index=10, finals=7, audio_received_at=9_001, said=SAID),
    )


def test_other_events_of_the_stream_do_not_matter() -> None:
    """The log holds them as well."""
    closed = StreamClosed(
        stream_id="s1", tenant="acme", epoch=1, reason="end", audio_ms=1, finals=0, gap_ms=0
    )
    check([closed], Checkpoint())
