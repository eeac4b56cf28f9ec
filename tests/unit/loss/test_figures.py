"""What `make loss` says of the events that its clients got."""

from collections.abc import Sequence

import pytest

from benchmarks.loss.figures import Figures, read_figures
from benchmarks.loss.rows import ROWS
from speechbus_contracts import AnyEvent, SegmentFinal, StreamClosed, StreamId
from speechbus_simulator.script import parse_script
from tests.support.conversation import LOUD, PAUSE_FRAMES, SPEECH_FRAMES
from tests.support.frame_client import Received
from tests.support.frame_numbers import FRAME_MS

BEGAN_S = 100.0
TURN_FRAMES = PAUSE_FRAMES + SPEECH_FRAMES
N_TURNS = 4
CLOSED = StreamClosed(
    stream_id="s", tenant="t", epoch=1, reason="end", audio_ms=18_000, finals=4, gap_ms=0
)


def final(turn: int, *, lacks: int = 0, early_ms: int = 0) -> SegmentFinal:
    """One turn, without its first frames, told as so much too early."""
    first = turn * TURN_FRAMES + PAUSE_FRAMES + 1 + lacks
    last = (turn + 1) * TURN_FRAMES
    return SegmentFinal(
        stream_id="s",
        tenant="t",
        transcription_id=f"s-{turn}",
        index=turn,
        revision=0,
        epoch=1,
        language=None,
        text=f"{first + LOUD}-{last + LOUD}",
        start_ms=(first - 1) * FRAME_MS - early_ms,
        end_ms=last * FRAME_MS - early_ms,
        provider="echo",
        covered_ms=last * FRAME_MS,
        audio_received_at=0,
        emitted_at=0,
    )


def read(*late: tuple[AnyEvent, float], breaks: int = 1) -> Figures:
    """Read one stream whose events came so many seconds after the ends of their turns."""
    return read_figures(
        [receive(late)],
        n_frames=N_TURNS * TURN_FRAMES,
        began_s=BEGAN_S,
        breaks=breaks,
        breaks_min=1,
    )


def receive(late: Sequence[tuple[AnyEvent, float]]) -> Received:
    ends_s = [
        event.end_ms / 1000 if isinstance(event, SegmentFinal) else N_TURNS * TURN_FRAMES * 0.02
        for event, _ in late
    ]
    return Received(
        stream_id=StreamId("s"),
        events=[event for event, _ in late],
        arrived_at_s=[
            BEGAN_S + end_s + by_s for end_s, (_, by_s) in zip(ends_s, late, strict=True)
        ],
    )


def test_a_stream_that_is_whole_and_on_time_reads_zero() -> None:
    """The row `nothing breaks`."""
    figures = read(*((final(turn), 0.25) for turn in range(N_TURNS)), (CLOSED, 0.5))

    assert figures == Figures(
        lost_s=0.0,
        doubled_s=0.0,
        time_error_ms=0,
        gap_s=0.0,
        latest_s=0.25,
        caught_up_s=0.0,
        behind=0,
        unclosed=0,
        breaks=1,
        has_broken=True,
    )
    assert figures.is_kept


def test_what_is_lost_doubled_and_mistimed_is_told() -> None:
    """Else the table would be worth nothing."""
    figures = read(
        (final(0), 0.0), (final(1, lacks=10), 0.0), (final(2), 0.0), (final(2, early_ms=60), 0.0)
    )

    assert figures.lost_s == pytest.approx((10 + SPEECH_FRAMES) * 0.02)
    assert figures.doubled_s == pytest.approx(SPEECH_FRAMES * 0.02)
    assert figures.time_error_ms == 60
    assert figures.unclosed == 1
    assert not figures.is_kept


def test_caught_up_is_counted_from_the_last_on_time_to_the_next_on_time() -> None:
    """Turns end every 4.5 s; two in the middle come late."""
    figures = read(
        (final(0), 0.25), (final(1), 5.25), (final(2), 1.5), (final(3), 0.25), (CLOSED, 0.5)
    )

    assert figures.caught_up_s == pytest.approx(3 * 4.5)
    assert figures.latest_s == pytest.approx(5.25)
    assert figures.behind == 0


def test_a_stream_that_is_late_to_its_end_has_not_caught_up() -> None:
    """How long it would have taken nobody knows."""
    figures = read((final(0), 0.25), (final(1), 0.25), (final(2), 2.5), (final(3), 3.5))

    assert figures.behind == 1
    assert figures.caught_up_s == pytest.approx(2 * 4.5 + 3.25)


def test_a_row_in_which_nothing_broke_proves_nothing() -> None:
    """A fault may wait for a session that was gone before."""
    figures = read(*((final(turn), 0.25) for turn in range(N_TURNS)), (CLOSED, 0.5), breaks=0)

    assert not figures.is_kept


def test_each_row_has_a_name_of_its_own_and_scripts_that_are_understood() -> None:
    """A row that does not start would be found after twenty minutes."""
    names = [row.name for row in ROWS]
    scripts = {script for row in ROWS for script in row.scripts.items()}

    assert len(set(names)) == len(names)
    for provider, text in scripts:
        assert parse_script(text.encode(), provider=provider).segment_ms > 0
