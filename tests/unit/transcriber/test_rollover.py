"""When a session's successor is opened, and where it takes over."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.providers.interface import Heard
from speechbus_transcriber.rollover import (
    LEAD_S_MIN,
    LEAD_SHARE,
    RETRY_MIN_S,
    SETTLED_S,
    Rollover,
)

RATE_HZ: Final = 16_000
SILENCE: Final = memoryview(bytes(2 * RATE_HZ * 300 // 1000))
FINAL: Final = Heard(text="a", is_final=True, start_ms=0, end_ms=1)
PARTIAL: Final = Heard(text="a", is_final=False, start_ms=0, end_ms=1)


def rollover_of(limit_s: float, *, chance: float = 0.0) -> Rollover:
    """Of a session that was opened at 100 s."""
    return Rollover(limit_s, opened_at_s=100, chance=chance, sample_rate_hz=RATE_HZ)


def ready(limit_s: float = 3_600) -> tuple[Rollover, float]:
    """One whose successor waits, and when."""
    rollover = rollover_of(limit_s)
    now_s = rollover.next_deadline_s()
    assert now_s is not None
    assert rollover.handle_deadline(now_s=now_s) == "open"
    rollover.note_ready(now_s=now_s)
    return rollover, now_s


def test_it_takes_over_in_the_pause_behind_a_final() -> None:
    """There no word is cut, and no utterance."""
    rollover, now_s = ready()

    assert not rollover.give(SILENCE, now_s=now_s)
    rollover.hear([FINAL])
    assert rollover.give(SILENCE, now_s=now_s)
    rollover.hear([PARTIAL])
    assert not rollover.give(SILENCE, now_s=now_s)


def test_after_some_time_any_pause_will_do_and_then_any_place() -> None:
    """A successor that waits is paid for."""
    rollover, now_s = ready()

    assert rollover.give(SILENCE, now_s=now_s + SETTLED_S)
    assert rollover.next_deadline_s() == now_s + 2 * SETTLED_S
    assert rollover.handle_deadline(now_s=now_s + 2 * SETTLED_S) == "turn"


@given(
    limit_s=st.floats(5, 86_400),
    chance=st.floats(0, 1),
    steps=st.lists(
        st.tuples(st.sampled_from(["wait", "ready", "fail", "final"]), st.floats(0, 60)),
        max_size=40,
    ),
)
def test_whatever_happens_there_is_one_successor_and_it_is_tried_in_time(
    limit_s: float, chance: float, steps: list[tuple[str, float]]
) -> None:
    """Tried before the limit, never two at once, not too often, and used before the limit."""
    rollover = rollover_of(limit_s, chance=chance)
    ends_at_s = 100 + limit_s
    first_s = rollover.next_deadline_s()
    assert first_s is not None
    lead_s = max(LEAD_SHARE * limit_s, min(LEAD_S_MIN, limit_s / 2))
    assert 100 <= first_s <= ends_at_s - lead_s + 1e-6

    state = "none"
    opened_at_s = -RETRY_MIN_S
    now_s = first_s
    for what, wait_s in steps:
        match rollover.handle_deadline(now_s=now_s):
            case "open":
                assert state == "none"
                assert now_s >= opened_at_s + RETRY_MIN_S
                state, opened_at_s = "opening", now_s
            case "turn":
                assert state == "ready"
                break
            case None:
                pass
        if what == "ready" and state == "opening":
            state = "ready"
            rollover.note_ready(now_s=now_s)
        elif what == "fail" and state in {"opening", "ready"}:
            state = "none"
            rollover.note_failed(now_s=now_s, retry_after_s=None)
        elif what == "final":
            rollover.hear([FINAL])
        deadline_s = rollover.next_deadline_s()
        assert (deadline_s is None) == (state == "opening")
        if state == "ready":
            assert deadline_s is not None
            assert deadline_s < ends_at_s
        now_s += wait_s
