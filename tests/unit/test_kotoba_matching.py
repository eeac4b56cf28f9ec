"""Kotoba's texts, found again in its deltas and placed in its audio."""

import pytest

from speechbus_transcriber.providers.kotoba_matching import find_run, skip_letters
from speechbus_transcriber.providers.kotoba_places import APPENDS_MAX, KotobaPlaces


@pytest.mark.parametrize(
    ("pieces", "wanted", "must_touch", "run"),
    [
        (["a", "b", "c"], "bc", range(3), (1, 3)),
        (["a", "b", "c"], "abc", range(2, 3), (0, 3)),
        (["a", "b", "c"], "a", range(1, 3), None),
        (["a", "b", "c"], "c", range(2), None),
        (["a", "b", "a"], "a", range(1, 3), (2, 3)),
        (["ab", "c"], "b", range(2), None),
        (["ab", "c"], "a", range(2), None),
        (["ab", "c"], "bc", range(2), None),
        (["aa", "a"], "aa", range(2), (0, 1)),
        (["", "a", "", "b"], "a", range(4), (1, 3)),
        (["a"], "a", range(0), None),
        ([], "a", range(0), None),
    ],
)
def test_a_run_is_whole_deltas_and_touches_what_it_must(
    pieces: list[str], wanted: str, must_touch: range, run: tuple[int, int] | None
) -> None:
    """A piece without letters goes with the one before it."""
    assert find_run(pieces, wanted, must_touch=must_touch) == run


@pytest.mark.parametrize(
    ("n", "rest"), [(0, "One, two."), (3, "two."), (6, ""), (7, ""), (4, "wo.")]
)
def test_letters_are_skipped_with_what_stands_between_them(n: int, rest: str) -> None:
    """A rest begins with a letter."""
    assert skip_letters("(One, two.", n) == rest


def test_an_append_long_ago_has_no_place_any_more() -> None:
    """A text that names it is taken to come from what was sent last."""
    places = KotobaPlaces(sample_rate_hz=16_000, chunk_ms=100)
    first = places.append(1_600)
    places.give(1_600)
    for _ in range(APPENDS_MAX - 1):
        places.give(1_600)
        places.append(1_600)
    assert places.find(first) == (0, 100)
    places.append_silence(1_600)
    end_ms = 100 * APPENDS_MAX

    assert places.find(first) == (end_ms - 100, end_ms)
