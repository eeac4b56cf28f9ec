"""docs/awkward-cases.md against the tests."""

import pytest

from tests.support.awkward_cases import CASES, PAGE, build_page, find_tests

TESTS = find_tests()


@pytest.mark.parametrize("number", CASES)
def test_every_case_has_a_test(number: int) -> None:
    """Each of them has cost somebody words; a case without a test comes back."""
    assert TESTS.get(number, []) != []


def test_no_test_is_named_after_a_case_that_is_none() -> None:
    """A number with a typing error would count for another case, or for nothing."""
    assert set(TESTS) <= set(CASES)


def test_the_page_is_what_the_tests_say() -> None:
    """After adding or renaming one: `python -m tests.support.awkward_cases`."""
    assert PAGE.read_text(encoding="utf-8") == build_page(TESTS)
