"""How fast a tenant may open streams and send audio."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.quotas import Bucket, Quotas


class Clock:
    """Moved by the test."""

    now_s = 0.0

    def read(self) -> float:
        """Seconds."""
        return self.now_s


def test_a_minutes_streams_may_be_opened_at_once() -> None:
    """Clients come back together after a restart; then at the rate."""
    clock = Clock()
    quotas = Quotas(streams_per_minute=60, bytes_per_s=None, now_s=clock.read)
    openings = quotas.openings("acme")
    for _ in range(60):
        assert openings.wait_for(1) == 0
        openings.take(1)

    assert openings.wait_for(1) == pytest.approx(1.0)
    assert quotas.openings("bolt").wait_for(60) == 0
    assert quotas.openings("acme") is openings
    clock.now_s = 1.0
    assert openings.wait_for(1) == 0
    assert quotas.audio("acme") is None


@given(
    pieces=st.lists(st.integers(0, 100_000), max_size=50),
    rate=st.integers(16_000, 1_000_000),
)
def test_who_waits_as_told_sends_at_the_rate(pieces: list[int], rate: int) -> None:
    """After one second's worth at once, whatever the pieces are."""
    clock = Clock()
    bucket = Bucket(rate, rate, clock.read)
    for piece in pieces:
        clock.now_s += bucket.take(piece)

    assert sum(pieces) <= rate * (1 + clock.now_s) * 1.000_001
    assert clock.now_s <= sum(pieces) / rate + 1e-6


def test_what_is_larger_than_the_bucket_is_let_in_and_owed() -> None:
    """A stream of eight channels must not be refused for ever."""
    clock = Clock()
    bucket = Bucket(1.0, 4.0, clock.read)

    assert bucket.wait_for(8) == 0
    bucket.take(8)
    assert bucket.wait_for(1) == pytest.approx(5.0)
