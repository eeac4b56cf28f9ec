"""How streams spread over workers of different size."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.placement import SLICES, free_by_slice


def place(capacities: Sequence[int], carried: Sequence[int], n_jobs: int) -> list[int]:
    """Give out jobs as the server does: the lowest priority that anybody pulls with goes first."""
    pulls = [
        [priority, worker]
        for worker, (capacity, already) in enumerate(zip(capacities, carried, strict=True))
        for priority, free in enumerate(free_by_slice(capacity=capacity, carried=already))
        for _ in range(free)
    ]
    after = list(carried)
    for _, worker in sorted(pulls)[:n_jobs]:
        after[worker] += 1
    return after


@given(capacity=st.integers(0, 2_000), carried=st.integers(0, 3_000))
def test_the_slices_hold_exactly_the_free_slots(capacity: int, carried: int) -> None:
    """More would overload the worker, fewer would leave streams waiting beside an idle one."""
    free = free_by_slice(capacity=capacity, carried=carried)

    assert len(free) == SLICES
    assert min(free) >= 0
    assert sum(free) == max(0, capacity - carried)


@given(capacity=st.integers(1, 2_000), data=st.data())
def test_the_lowest_slices_fill_first(capacity: int, data: st.DataObject) -> None:
    """A worker that carries a third of its capacity offers nothing in its first three tenths."""
    carried = data.draw(st.integers(0, capacity))
    free = free_by_slice(capacity=capacity, carried=carried)
    whole = free_by_slice(capacity=capacity, carried=0)
    first = next((n for n, slots in enumerate(free) if slots), SLICES)

    assert all(slots == 0 for slots in free[:first])
    assert free[first + 1 :] == whole[first + 1 :]


@pytest.mark.parametrize(
    ("n_jobs", "expected"),
    [(200, [50, 50, 75, 25]), (400, [100, 100, 150, 50]), (40, [10, 10, 15, 5])],
)
def test_streams_go_where_there_is_most_relative_room(n_jobs: int, expected: list[int]) -> None:
    """Every worker is equally full, whatever its size."""
    assert place([100, 100, 150, 50], [0, 0, 0, 0], n_jobs) == expected


def test_a_new_worker_takes_streams_until_it_is_as_full_as_the_others() -> None:
    """After a roll-out the pool evens out by itself."""
    assert place([100, 100, 100], [50, 50, 0], 50) == [50, 50, 50]


@given(
    capacities=st.lists(st.integers(10, 300), min_size=1, max_size=6),
    share=st.integers(0, SLICES),
)
def test_no_worker_is_more_than_a_slice_fuller_than_another(
    capacities: list[int], share: int
) -> None:
    """Proportional within a tenth, at every load."""
    n_jobs = sum(capacities) * share // SLICES
    carried = place(capacities, [0] * len(capacities), n_jobs)
    tenths = [
        (SLICES * n / capacity, SLICES / capacity)
        for n, capacity in zip(carried, capacities, strict=True)
    ]

    assert sum(carried) == n_jobs
    # A slot is more than a tenth of nothing: the last one of a slice may be rounded.
    assert (
        max(full - slot for full, slot in tenths) <= min(full + slot for full, slot in tenths) + 1
    )
