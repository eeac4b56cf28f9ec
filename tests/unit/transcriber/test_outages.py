"""A provider that was away: how soon it is asked again, how often, and when a stream has caught up.

In virtual time, with the providers' simulators, which ignore what comes faster than real time.
"""

import random

import pytest

from speechbus_transcriber.governor.breaker import PAUSE_MAX_S
from tests.support.conversation import check_conversation
from tests.support.frame_numbers import Tiling
from tests.support.outage_stage import FRAMES_PER_S, CloudName, Outage, play_outage
from tests.support.virtual_time import run_virtual

EXACT = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
CYCLE_S = 4.5
"""Of the conversation: after so long it is as it was."""
SHORT_S = 6.0
"""A segment of 3 s that is heard again, and the wait for a pause."""


def play(provider: CloudName, *, seconds: float, phase: float) -> Outage:
    """Play an outage that begins somewhere in the conversation; nothing may be lost or doubled."""
    random.seed(phase)  # jitter
    from_s = 4 * CYCLE_S + phase * CYCLE_S
    n_frames = int((from_s + 3 * seconds + 30) * FRAMES_PER_S)
    outage = run_virtual(play_outage(provider, n_frames=n_frames, from_s=from_s, seconds=seconds))
    assert check_conversation(outage.finals, n_frames) == EXACT
    return outage


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("provider", ["palabra", "kotoba"])
def test_a_stream_has_caught_up_within_three_times_the_outage(
    provider: CloudName, phase: float
) -> None:
    """With pauses as people make them, wherever in the conversation it began."""
    assert play(provider, seconds=20, phase=phase).caught_up_s <= 3 * 20


@pytest.mark.parametrize("phase", [0.0, 0.2, 0.4, 0.9])
def test_a_moment_is_caught_up_with_too(phase: float) -> None:
    """A second that is not caught up with is late for as long as the stream lives."""
    assert play("palabra", seconds=0.1, phase=phase).caught_up_s <= 3 * CYCLE_S


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.5, 0.7, 0.9])
def test_a_short_outage_costs_some_pauses_more(phase: float) -> None:
    """What the open segment has said is heard again besides, and pauses come when they come."""
    assert play("palabra", seconds=3, phase=phase).caught_up_s <= 3 * 3 + SHORT_S


@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize("provider", ["palabra", "kotoba"])
def test_ten_breaks_in_a_row_are_caught_up_with(provider: CloudName, seed: int) -> None:
    """Each session ends after 3 s of audio, which hold a turn where its pauses are left out.

    A session is there so quickly that nothing live comes between: what is known of the stream's
    end says all the same that it is behind.
    """
    random.seed(seed)
    n_breaks, n_frames = 11, 90 * FRAMES_PER_S
    faults = ", ".join(
        f'{{kind = "reset", session = {number}, after_ms = 3000}}'
        for number in range(1, n_breaks + 1)
    )
    outage = run_virtual(
        play_outage(
            provider,
            n_frames=n_frames,
            from_s=0.0,
            seconds=0.0,
            script=f"segment_ms = 3000\nfaults = [{faults}]",
            handshake_s=0.005,
        )
    )

    assert check_conversation(outage.finals, n_frames) == EXACT
    assert len(outage.asked_at_s) == n_breaks + 1
    assert outage.asked_at_s[-1] < 3.5 * n_breaks
    assert outage.caught_up_s < 3.5 * n_breaks + 3 * CYCLE_S


def test_a_provider_that_is_away_is_asked_seldom_and_missed_soon() -> None:
    """All streams and workers together ask it as often as this one does, which is alone."""
    outage = play("palabra", seconds=60, phase=0.5)
    n_first = sum(at_s < 3 for at_s in outage.asked_at_s)
    asked_later = [at_s for at_s in outage.asked_at_s if 10 < at_s < 60]

    assert n_first <= 8
    assert len(asked_later) <= 50 / PAUSE_MAX_S * 1.5
    assert min(at_s for at_s in outage.asked_at_s if at_s >= 60) < 60 + PAUSE_MAX_S + 1
