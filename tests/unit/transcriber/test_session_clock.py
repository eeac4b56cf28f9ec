"""The provider's time and the stream's, where an adapter sends silence of its own."""

from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.providers.session_clock import INSERTIONS_MAX, SessionClock

RATE_HZ = 16_000
MS = RATE_HZ // 1000

moves = st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=30)


@given(moves=moves)
def test_each_moment_of_the_stream_is_found_again(moves: list[tuple[bool, int]]) -> None:
    """Words keep their times, whatever silence was put between them."""
    clock = SessionClock(sample_rate_hz=RATE_HZ)
    session_ms: list[int] = []  # of each millisecond of the stream
    now_ms = 0
    for is_silence, ms in moves:
        if is_silence:
            clock.insert(ms * MS)
        else:
            clock.give(ms * MS)
            session_ms += range(now_ms, now_ms + ms)
        now_ms += ms

    assert clock.given_ms == len(session_ms)
    assert [clock.to_stream_ms(ms) for ms in session_ms] == list(range(len(session_ms)))


@given(moves=moves)
def test_time_never_runs_backwards(moves: list[tuple[bool, int]]) -> None:
    """Not in silence either: there it stands still."""
    clock = SessionClock(sample_rate_hz=RATE_HZ)
    for is_silence, ms in moves:
        (clock.insert if is_silence else clock.give)(ms * MS)
    total_ms = sum(ms for _, ms in moves)
    times = [clock.to_stream_ms(ms) for ms in range(0, total_ms + 1, 7)]

    assert times == sorted(times)
    assert all(0 <= ms <= clock.given_ms for ms in times)


@given(session_ms=st.integers(0, 10**20))
def test_no_time_lies_behind_the_audio(session_ms: int) -> None:
    """A provider that is wrong about it must not cover what it has not heard."""
    clock = SessionClock(sample_rate_hz=RATE_HZ)
    clock.give(500 * MS)
    clock.insert(100 * MS)

    assert clock.to_stream_ms(session_ms) == min(session_ms, 500)


def test_the_oldest_pauses_are_forgotten_without_a_jump() -> None:
    """A day of push-to-talk has more pauses than anybody asks about."""
    clock = SessionClock(sample_rate_hz=RATE_HZ)
    n_pauses = INSERTIONS_MAX + 100
    for _ in range(n_pauses):
        clock.give(20 * MS)
        clock.insert(10 * MS)
    last_ms = (n_pauses - 1) * 30 + 5

    assert clock.to_stream_ms(last_ms) == (n_pauses - 1) * 20 + 5
