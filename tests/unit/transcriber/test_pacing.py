"""The pace of providers that take audio in real time only."""

from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.pacing import LONGEST_CHUNK_MS, Pacer
from speechbus_transcriber.providers.interface import Pace

PACE = Pace(rate=1.0, lead_ms=500)
steps = st.lists(st.tuples(st.floats(0, 2), st.integers(20, LONGEST_CHUNK_MS)), max_size=60)


@given(steps=steps)
def test_case_28_never_more_than_the_providers_lead_is_ahead(
    steps: list[tuple[float, int]],
) -> None:
    """Whatever comes too fast, and whatever pauses lie between."""
    pacer = Pacer(PACE, now_s=0.0)
    now_s, sent_ms = 0.0, 0
    for pause_s, chunk_ms in steps:
        now_s += pause_s
        now_s += pacer.wait_s(now_s=now_s)
        pacer.spend(chunk_ms, now_s=now_s)
        sent_ms += chunk_ms
        assert sent_ms <= now_s * 1000 * PACE.rate + PACE.lead_ms + 0.001


@given(chunk_ms=st.integers(20, LONGEST_CHUNK_MS), n_chunks=st.integers(1, 200))
def test_audio_in_real_time_never_waits_long(chunk_ms: int, n_chunks: int) -> None:
    """A live stream must not pay for the pace with delay: at most what one long chunk is over."""
    pacer = Pacer(PACE, now_s=0.0)
    now_s = 0.0
    for number in range(1, n_chunks + 1):
        now_s = max(now_s, number * chunk_ms / 1000)
        now_s += pacer.wait_s(now_s=now_s)
        assert now_s * 1000 <= number * chunk_ms + LONGEST_CHUNK_MS
        pacer.spend(chunk_ms, now_s=now_s)
