"""One session follows another: before the provider's limit, and with the stream's language."""

from collections.abc import Sequence
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_contracts import Gap, StreamClosed, StreamFlushed
from tests.support.frame_numbers import Tiling, check_tiling
from tests.support.stream_stage import FRAMES_PER_CHUNK, Played, SessionPlan, play_stream
from tests.support.virtual_time import run_virtual

EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
N_CHUNKS: Final = 120


def check(played: Played, *, changes: Sequence[tuple[int, str]] = ()) -> None:
    """Every frame once and in order, in finals of one language each."""
    finals = played.finals
    assert check_tiling(finals, N_CHUNKS * FRAMES_PER_CHUNK) == EXACT
    assert [final.index for final in finals] == list(range(len(finals)))
    assert not any(isinstance(event, Gap) for event in played.log)
    closed = played.log[-1]
    assert isinstance(closed, StreamClosed)
    assert (closed.reason, closed.audio_ms) == ("end", N_CHUNKS * 100)
    spoken = ["en"] * N_CHUNKS
    for chunk, language in changes:
        spoken[chunk:] = [language] * (N_CHUNKS - chunk)
    for final in finals:
        assert {final.language} == set(spoken[final.start_ms // 100 : -(-final.end_ms // 100)])
        assert final.provider in ("a" if final.language == "fr" else "ab")


def test_sessions_follow_each_other_before_the_limit() -> None:
    """None breaks, and each lives for half of the limit at least."""
    played = run_virtual(play_stream(n_chunks=N_CHUNKS, session_limit_s=6))

    check(played)
    assert 3 <= played.n_sessions <= 6
    assert played.n_broken == 0


def test_the_language_changes_where_the_client_says() -> None:
    """To the sample, there and back, to a provider that takes it."""
    changes = [(33, "fr"), (71, "ja"), (72, "ja"), (100, "en")]
    played = run_virtual(play_stream(n_chunks=N_CHUNKS, changes=changes))

    check(played, changes=changes)
    assert played.n_sessions == 4


PLANS: Final = st.lists(
    st.builds(
        SessionPlan,
        opens_after_s=st.sampled_from([0.0, 0.05, 0.5, 3.0]),
        refusal=st.sampled_from([None, None, None, "unavailable", "rate_limited"]),
        breaks_after_s=st.one_of(st.none(), st.none(), st.floats(0.0, 5.0)),
        last_words=st.sampled_from(["said", "said", "said", "broken", "never"]),
        latency_s=st.sampled_from([0.0, 0.2, 1.0]),
    ),
    max_size=8,
)


@settings(max_examples=50)
@given(
    plans=PLANS,
    changes=st.lists(
        st.tuples(st.integers(0, N_CHUNKS - 1), st.sampled_from(["en", "ja", "fr"])), max_size=4
    ).map(lambda changes: sorted(changes, key=lambda change: change[0])),
    flushes=st.lists(st.integers(0, N_CHUNKS - 1), max_size=3),
    kills_s=st.lists(st.floats(0, N_CHUNKS / 10 + 1), max_size=3),
    session_limit_s=st.sampled_from([None, 5.0, 8.0]),
)
def test_nothing_is_lost_doubled_or_in_another_language_whatever_breaks(
    plans: list[SessionPlan],
    changes: list[tuple[int, str]],
    flushes: list[int],
    kills_s: list[float],
    session_limit_s: float | None,
) -> None:
    """Sessions are refused, break and fall silent, and workers die, at any moment."""
    played = run_virtual(
        play_stream(
            n_chunks=N_CHUNKS,
            changes=changes,
            flushes=flushes,
            plans=plans,
            kills_s=kills_s,
            session_limit_s=session_limit_s,
        )
    )

    check(played, changes=changes)
    asked = {chunk * 100 for chunk in flushes}
    answered = [event.at_ms for event in played.log if isinstance(event, StreamFlushed)]
    assert set(answered) <= asked
    if not kills_s:
        assert set(answered) == asked
