"""What a soak says of a stored transcript."""

import msgspec
import pytest

from benchmarks.soak.plan import plan_script, plan_stream, plan_strikes
from benchmarks.soak.verify import Known, verify_stream
from speechbus_contracts import (
    AnyEvent,
    Gap,
    SegmentFinal,
    StreamClaimed,
    StreamClosed,
    StreamOpened,
)
from speechbus_simulator.script import Provider, parse_script
from tests.support.conversation import LOUD

OPENED = StreamOpened(stream_id="s", tenant="t", opened_at=0, sample_rate_hz=16_000, shard=0)
CLOSED = StreamClosed(
    stream_id="s", tenant="t", epoch=2, reason="end", audio_ms=2_000, finals=2, gap_ms=0
)


def claim(epoch: int) -> StreamClaimed:
    return StreamClaimed(
        stream_id="s",
        tenant="t",
        epoch=epoch,
        worker=f"w{epoch}",
        provider="echo",
        from_ms=0,
        reason="opened",
        claimed_at=0,
    )


def final(index: int, first: int, last: int, *, epoch: int = 1) -> SegmentFinal:
    return SegmentFinal(
        stream_id="s",
        tenant="t",
        transcription_id=f"s-{index}",
        index=index,
        revision=0,
        epoch=epoch,
        language=None,
        text=f"{first}-{last}",
        start_ms=(first - 1) * 20,
        end_ms=last * 20,
        provider="echo",
        covered_ms=last * 20,
        audio_received_at=0,
        emitted_at=0,
    )


def gap(from_ms: int, to_ms: int) -> Gap:
    return Gap(
        stream_id="s",
        tenant="t",
        epoch=2,
        from_ms=from_ms,
        to_ms=to_ms,
        reason="audio_lost",
        next_index=2,
        gap_ms_total=to_ms - from_ms,
        audio_received_at=0,
    )


GOOD: list[AnyEvent] = [OPENED, claim(1), final(0, 1, 50), claim(2), final(1, 51, 100, epoch=2)]
KNOWN = Known(
    has_pauses=False,
    sent_ms=2_000,
    accepted_ms=1_900,
    finals=[(0, 0, "1-50"), (1, 0, "51-100")],
    ended=True,
)


def problems(*events: AnyEvent, known: Known = KNOWN) -> list[str]:
    return list(verify_stream(events, known).problems)


def test_a_stream_without_fault_has_no_problem() -> None:
    """Else a long soak would drown what is wrong in what is not."""
    verdict = verify_stream([*GOOD, CLOSED], KNOWN)

    assert (verdict.problems, verdict.frames, verdict.claims) == ([], 100, 2)


def test_speech_with_pauses_is_read_likewise() -> None:
    """Only what sounds counts, and lies within its final's times."""
    spoken = msgspec.structs.replace(final(0, 126, 225), text=f"{126 + LOUD}-{225 + LOUD}")
    closed = msgspec.structs.replace(CLOSED, epoch=1, audio_ms=4_500, finals=1)
    known = Known(has_pauses=True, sent_ms=4_500, accepted_ms=0)

    assert problems(OPENED, claim(1), spoken, closed, known=known) == []
    late = msgspec.structs.replace(spoken, end_ms=4_400)
    assert problems(OPENED, claim(1), late, closed, known=known) == ["times wrong by 100 ms"]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([*GOOD], "never closed"),
        ([OPENED, claim(1), claim(2), final(0, 1, 50, epoch=1), CLOSED], "of epoch 1 under 2"),
        ([*GOOD, final(1, 51, 100, epoch=2), CLOSED], "doubled: 50 frames, 51-100"),
        ([OPENED, claim(2), final(0, 1, 50, epoch=2), CLOSED], "lost: 50 frames, 51-100"),
        ([*GOOD, gap(1_000, 2_000), CLOSED], "said and in a gap: 50 frames, 51-100"),
        ([*GOOD, final(3, 101, 101, epoch=2), CLOSED], "indices are not continuous: 0-1 3"),
        ([*GOOD, CLOSED, CLOSED], "closed 2 times"),
        ([*GOOD, CLOSED, final(2, 101, 102, epoch=2)], "events behind closed"),
        ([*GOOD, msgspec.structs.replace(CLOSED, reason="source_lost")], "closed for source_lost"),
        ([*GOOD, msgspec.structs.replace(CLOSED, audio_ms=1_980)], "1980 ms of the 2000"),
        ([*GOOD, msgspec.structs.replace(CLOSED, finals=3)], "closed counts 3 finals"),
    ],
)
def test_what_is_wrong_is_found(events: list[AnyEvent], expected: str) -> None:
    """A soak that cannot fail proves nothing."""
    assert any(expected in problem for problem in problems(*events))


def test_finals_that_the_client_was_not_told_are_found() -> None:
    """What is stored and what subscribers see is the same."""
    known = msgspec.structs.replace(KNOWN, finals=[(0, 0, "1-50")])

    assert problems(*GOOD, CLOSED, known=known) == [
        "its client was told 1 finals that are not those stored"
    ]


@pytest.mark.parametrize("provider", ["palabra", "kotoba"])
def test_the_same_seed_is_the_same_plan(provider: Provider) -> None:
    """What a soak has found can be looked for again."""
    scripts = [plan_script(7, provider, 2) for _ in range(2)]

    assert scripts[0] == scripts[1] != plan_script(8, provider, 2)
    assert len(parse_script(scripts[0].encode(), provider=provider).faults) > 1_000
    assert (
        plan_strikes(7, seconds=300)
        == plan_strikes(7, seconds=600)[: len(plan_strikes(7, seconds=300))]
    )
    assert plan_stream(7, 3, ingests=3) == plan_stream(7, 3, ingests=3)
