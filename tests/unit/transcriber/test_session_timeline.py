"""From a session's time to the stream's, over silence that was left out."""

from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.providers.interface import Heard, HeardWord
from speechbus_transcriber.session_timeline import SessionTimeline


def test_times_around_left_out_silence_are_the_streams() -> None:
    """What ends where silence was left out ends before it, what begins there begins behind it."""
    timeline = SessionTimeline(start_sample=16_000, sample_rate_hz=16_000)
    timeline.give(16_000)
    timeline.skip(32_000)
    timeline.give(16_000)
    heard = Heard(
        text="before after",
        is_final=True,
        start_ms=500,
        end_ms=1_500,
        covered_ms=1_600,
        words=(
            HeardWord(text="before", start_ms=500, end_ms=1_000),
            HeardWord(text="after", start_ms=1_000, end_ms=1_500),
        ),
    )

    assert timeline.translate(heard) == Heard(
        text="before after",
        is_final=True,
        start_ms=1_500,
        end_ms=4_500,
        covered_ms=4_600,
        words=(
            HeardWord(text="before", start_ms=1_500, end_ms=2_000),
            HeardWord(text="after", start_ms=4_000, end_ms=4_500),
        ),
    )


PIECES = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 90_000)), max_size=20)


@given(pieces=PIECES, start=st.integers(0, 10**7), rate_hz=st.sampled_from([8_000, 44_100, 48_000]))
def test_every_millisecond_of_the_session_is_where_its_sample_is_in_the_stream(
    pieces: list[tuple[int, int]], start: int, rate_hz: int
) -> None:
    """To the millisecond at any rate, however often something was left out."""
    timeline = SessionTimeline(start_sample=start, sample_rate_hz=rate_hz)
    skips: list[tuple[int, int]] = []
    n_given = 0
    for n_samples, n_skipped in pieces:
        timeline.give(n_samples)
        timeline.skip(n_skipped)
        n_given += n_samples
        skips.append((n_given, n_skipped))

    told: list[int] = []
    for session_ms in range(0, n_given * 1000 // rate_hz, 7):
        sample = session_ms * rate_hz / 1000
        at = start + sample + sum(n_skipped for before, n_skipped in skips if before < sample)
        told.append(timeline.to_stream_ms(session_ms))
        assert abs(told[-1] - at * 1000 / rate_hz) <= 1
    assert told == sorted(told)
