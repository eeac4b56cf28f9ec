"""How new sessions are held back where there is no room."""

import math

from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.governor.throttle import (
    LIMITED_MAX_S,
    LIMITED_MIN_S,
    RETRY_AFTER_MAX_S,
    TRIAL_S,
    Throttle,
)


def test_case_12_refusals_in_a_row_are_followed_by_ever_longer_pauses() -> None:
    """A provider that is full is not asked once a second by everybody."""
    throttle = Throttle()
    pauses: list[float] = []
    now_s = 0.0
    for number in range(2_000):
        throttle.begin(number)
        pauses.append(throttle.refuse(began_at_s=now_s, retry_after_s=None, now_s=now_s))
        assert not throttle.has_room(now_s=now_s + pauses[-1] - 0.01)
        now_s += pauses[-1]

    assert pauses[0] == LIMITED_MIN_S
    assert pauses[:6] == [1, 2, 4, 8, 16, LIMITED_MAX_S]
    assert set(pauses[6:]) == {LIMITED_MAX_S}


def test_a_burst_of_refusals_is_one() -> None:
    """A hundred streams that were refused together have learned one thing."""
    throttle = Throttle()
    pauses = [
        throttle.refuse(began_at_s=0.0, retry_after_s=None, now_s=0.1 + 0.001 * number)
        for number in range(100)
    ]

    assert pauses == [LIMITED_MIN_S] + [0.0] * 99
    assert throttle.n_refusals == 1


def test_after_a_pause_one_is_tried_and_each_that_is_accepted_admits_two() -> None:
    """The room that there is is found in some rounds, and not by a storm."""
    throttle = Throttle()
    throttle.refuse(began_at_s=0.0, retry_after_s=None, now_s=0.0)
    now_s, number = 1.0, 0
    admitted: list[int] = []
    for _ in range(8):
        begun: list[int] = []
        while throttle.has_room(now_s=now_s) and len(begun) < 200:
            number += 1
            throttle.begin(number)
            throttle.open(number, now_s=now_s)
            begun.append(number)
        admitted.append(len(begun))
        now_s += TRIAL_S

    assert admitted == [1, 2, 4, 8, 16, 32, 64, 200]


def test_a_session_that_is_opened_and_refused_in_words_admits_nobody() -> None:
    """Kotoba says so in an event, after it has taken the connection."""
    throttle = Throttle()
    throttle.refuse(began_at_s=0.0, retry_after_s=None, now_s=0.0)
    throttle.begin(1)
    throttle.open(1, now_s=1.0)
    assert throttle.refuse(began_at_s=1.0, retry_after_s=None, now_s=1.2) == 2 * LIMITED_MIN_S
    throttle.end(1, has_worked=False, now_s=1.2)

    assert not throttle.has_room(now_s=3.1)
    assert throttle.has_room(now_s=3.2)


def test_the_end_of_a_working_session_ends_the_pause_unless_the_provider_has_named_it() -> None:
    """Where one session ends, there is room for another."""
    throttle = Throttle()
    throttle.refuse(began_at_s=0.0, retry_after_s=None, now_s=0.0)
    throttle.end(1, has_worked=True, now_s=0.5)
    assert throttle.has_room(now_s=0.5)

    throttle.refuse(began_at_s=0.5, retry_after_s=30.0, now_s=0.6)
    throttle.end(2, has_worked=True, now_s=0.7)
    assert not throttle.has_room(now_s=30.5)
    assert throttle.has_room(now_s=30.6)


@given(st.floats(0, 1e6))
def test_a_provider_may_say_when_to_return_but_not_forbid_it_for_hours(asked_s: float) -> None:
    """Audio waits on the bus for 90 s."""
    throttle = Throttle()
    wait_s = throttle.refuse(began_at_s=0.0, retry_after_s=asked_s, now_s=0.0)

    assert wait_s == min(asked_s, RETRY_AFTER_MAX_S)
    assert throttle.has_room(now_s=wait_s)


def test_another_workers_pause_holds_here() -> None:
    """And goes on from where that one stood; one that is over is nothing."""
    throttle = Throttle()
    throttle.hear_pause(-1.0, n_refusals=4, is_asked=False, now_s=0.0)
    assert throttle.has_room(now_s=0.0)
    throttle.hear_pause(4.0, n_refusals=3, is_asked=False, now_s=0.0)

    assert not throttle.has_room(now_s=3.9)
    assert throttle.next_at_s(now_s=0.0) == 4.0
    assert throttle.refuse(began_at_s=4.0, retry_after_s=None, now_s=4.0) == 8.0
    assert throttle.next_at_s(now_s=math.inf) is None
