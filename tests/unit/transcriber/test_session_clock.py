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


@given(
    rate_hz=st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000]),
    moves=st.lists(
        st.tuples(st.booleans(), st.integers(1, 60) | st.integers(1, 20_000)),
        min_size=1,
        max_size=20,
    ),
)
def test_rates_that_no_millisecond_divides_are_a_millisecond_off_at_most(
    rate_hz: int, moves: list[tuple[bool, int]]
) -> None:
    """The error does not add up over the pauses of a session, and order is kept."""
    clock = SessionClock(sample_rate_hz=rate_hz)
    n_session, n_stream = 0, 0
    moments: list[tuple[int, int]] = []  # the ends of pieces of the stream, in both clocks
    for is_silence, n_samples in moves:
        n_session += n_samples
        if is_silence:
            clock.insert(n_samples)
            continue
        clock.give(n_samples)
        n_stream += n_samples
        # A millisecond inside, where it is clear on which side of a border it is.
        moments.append((n_session * 1000 // rate_hz - 1, n_stream * 1000 // rate_hz - 1))
    found = [clock.to_stream_ms(session_ms) for session_ms, _ in moments if session_ms > 0]

    assert found == sorted(found)
    for (_, stream_ms), ms in zip(
        [moment for moment in moments if moment[0] > 0], found, strict=True
    ):
        assert abs(ms - stream_ms) <= 1
