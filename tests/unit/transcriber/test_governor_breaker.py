"""When a provider is dead, and when it is tried."""

from speechbus_transcriber.governor.breaker import (
    EVIDENCE_S,
    PAUSE_MAX_S,
    PAUSE_MIN_S,
    RELAPSE_S,
    Breaker,
    BreakerRecord,
)


def test_three_failed_handshakes_in_a_row_are_a_dead_provider() -> None:
    """Nobody was heard, and no audio can be to blame."""
    breaker = Breaker()
    news = [breaker.fail("one", is_handshake=True, now_s=second) for second in range(3)]

    assert news == [False, False, True]


def test_poison_in_one_stream_is_no_dead_provider() -> None:
    """All others would lose theirs."""
    breaker = Breaker()

    assert not any(breaker.fail("one", is_handshake=False, now_s=s / 10) for s in range(100))
    assert breaker.fail("two", is_handshake=False, now_s=10)


def test_a_session_that_works_is_proof_of_life() -> None:
    """Failures before it were somebody's own; old ones say nothing, either."""
    breaker = Breaker()
    for name in ("one", "two"):
        breaker.fail(name, is_handshake=True, now_s=0)
    breaker.succeed()
    assert not breaker.fail("three", is_handshake=True, now_s=1)
    assert not breaker.fail("four", is_handshake=True, now_s=2)

    assert not breaker.fail("five", is_handshake=True, now_s=2 + EVIDENCE_S)


def test_pauses_between_handshakes_grow_and_start_anew_after_a_good_while() -> None:
    """A provider that comes and goes is not believed at once."""
    breaker = Breaker()
    waits: list[float] = []
    now_s = 0.0
    for _ in range(2_000):
        n_pauses, wait_s = breaker.next_pause(now_s=now_s)
        waits.append(wait_s)
        record = BreakerRecord(is_open=True, n_pauses=n_pauses, wait_ms=int(wait_s * 1000))
        breaker.take(record, age_s=0.0, now_s=now_s)
        assert not breaker.is_probe_due(now_s=now_s + wait_s - 0.01)
        assert breaker.is_probe_due(now_s=now_s + wait_s)
        now_s += wait_s

    assert waits[0] == PAUSE_MIN_S
    assert waits == sorted(waits)
    # Who waits for a provider is late by little more than a quarter of what it was away for.
    assert all(wait_s <= PAUSE_MIN_S + sum(waits[:n]) / 4 for n, wait_s in enumerate(waits[:100]))
    assert waits[-1] == PAUSE_MAX_S
    breaker.take(BreakerRecord(is_open=False, n_pauses=60), age_s=0.0, now_s=now_s)
    assert not breaker.is_probe_due(now_s=now_s)
    assert breaker.next_pause(now_s=now_s + 1) == (61, PAUSE_MAX_S)
    assert breaker.next_pause(now_s=now_s + RELAPSE_S + 1) == (1, PAUSE_MIN_S)


def test_an_old_word_counts_from_when_it_was_said() -> None:
    """A worker that has just started does not wait for what is over."""
    breaker = Breaker()
    breaker.take(BreakerRecord(is_open=True, n_pauses=3, wait_ms=8_000), age_s=5.0, now_s=100)

    assert not breaker.is_probe_due(now_s=102.9)
    assert breaker.is_probe_due(now_s=103)
    breaker.take(BreakerRecord(is_open=False, n_pauses=3), age_s=3_600.0, now_s=100)
    assert breaker.next_pause(now_s=100) == (1, PAUSE_MIN_S)
