"""A stream is behind from one border on until it has crossed the other."""

from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.lag_watch import BEHIND_S, CAUGHT_UP_S, LagWatch

RATE_HZ = 8_000


def look(watch: LagWatch, waiting_s: float, *, received_s: float = 100.0) -> bool:
    received = round(received_s * RATE_HZ)
    given = received - round(waiting_s * RATE_HZ)
    return watch.look(received=received, given=given, covered=given).is_behind


def test_a_stream_that_wavers_between_the_borders_is_told_once() -> None:
    """A line in the log for each second would help nobody."""
    watch = LagWatch(sample_rate_hz=RATE_HZ)
    between_s = (BEHIND_S + CAUGHT_UP_S) / 2

    assert not look(watch, between_s)
    assert look(watch, BEHIND_S)
    assert look(watch, between_s)
    assert look(watch, CAUGHT_UP_S)
    assert not look(watch, CAUGHT_UP_S - 0.1)
    assert not look(watch, between_s)


def test_audio_that_is_read_again_was_received_all_the_same() -> None:
    """Behind a break the worker has seen nothing of it yet."""
    watch = LagWatch(sample_rate_hz=RATE_HZ)
    watch.look(received=10 * RATE_HZ, given=10 * RATE_HZ, covered=4 * RATE_HZ)
    lag = watch.look(received=4 * RATE_HZ, given=4 * RATE_HZ, covered=4 * RATE_HZ)

    assert (lag.waiting_s, lag.uncovered_s, lag.is_behind) == (6.0, 6.0, True)


@given(
    looks=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)).map(sorted)
    )
)
def test_what_waits_is_part_of_what_is_not_covered(looks: list[list[int]]) -> None:
    """Whatever the order of positions over time."""
    watch = LagWatch(sample_rate_hz=RATE_HZ)
    for covered, given_, received in looks:
        lag = watch.look(received=received, given=given_, covered=covered)

        assert 0 <= lag.waiting_s <= lag.uncovered_s
        assert lag.uncovered_s >= (received - covered) / RATE_HZ
        assert lag.is_behind is watch.is_behind
