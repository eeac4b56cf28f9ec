from hypothesis import given
from hypothesis import strategies as st

from speechbus_cli.word_errors import WordErrors, count_word_errors

WORDS = st.lists(st.sampled_from(["he", "was", "not", "an"]), max_size=8).map(" ".join)


def test_replaced_missing_and_extra_words_count_one_each() -> None:
    """The usual definition, so that the figure can be compared with others'."""
    assert count_word_errors("respectable than he was", "respectable many watts") == WordErrors(
        3, 4
    )
    assert count_word_errors("a b", "a x b") == WordErrors(1, 2)


def test_case_and_punctuation_are_not_errors() -> None:
    """Engines differ in what they write, and the demo is about words."""
    assert count_word_errors("He wasn't, was he", "he wasn\u2019t was he").errors == 0


def test_an_abbreviated_title_is_the_same_word() -> None:
    """An engine that writes "Mr." has understood "mister", and the demo must count so."""
    assert count_word_errors("and mister John", "and Mr. John").errors == 0
    assert count_word_errors("mister John", "mrs John").errors == 1


def test_nothing_said_and_something_heard_is_an_error_rate_of_one() -> None:
    """Dividing by no words must not hide it, nor fail."""
    assert count_word_errors("", "noise").rate == 1.0
    assert count_word_errors("", "").rate == 0.0


@given(said=WORDS, heard=WORDS)
def test_the_errors_are_a_distance(said: str, heard: str) -> None:
    """Same count in both directions, none for equal texts, never more than the longer text."""
    errors = count_word_errors(said, heard).errors

    assert errors == count_word_errors(heard, said).errors
    assert (errors == 0) == (said == heard)
    assert errors <= max(len(said.split()), len(heard.split()))
