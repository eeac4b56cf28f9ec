"""Finals that overlap say nothing twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.overlap import TOKENS_MAX, Said, trim_repeated
from speechbus_transcriber.providers.interface import Heard, HeardWord

WORD_MS = 300


def spoken(text: str, *, start_ms: int, has_words: bool) -> Heard:
    """A final whose words last `WORD_MS` each."""
    texts = text.split()
    words = tuple(
        HeardWord(text=word, start_ms=start_ms + WORD_MS * n, end_ms=start_ms + WORD_MS * (n + 1))
        for n, word in enumerate(texts)
    )
    return Heard(
        text=text,
        is_final=True,
        start_ms=start_ms,
        end_ms=start_ms + WORD_MS * len(texts),
        words=words if has_words else None,
    )


@pytest.mark.parametrize("has_words", [False, True])
def test_case_10_replay_overlap_says_the_shared_words_once(*, has_words: bool) -> None:
    """Case and punctuation differ at the ends of sentences; the words are the same."""
    said = Said().add("We met at the old house.", to_ms=1_800)
    trimmed = trim_repeated(
        spoken("the Old house, by the sea", start_ms=900, has_words=has_words), said
    )

    assert (trimmed.text, trimmed.start_ms, trimmed.end_ms) == ("by the sea", 1_800, 2_700)
    if has_words:
        assert trimmed.words is not None
        assert [word.text for word in trimmed.words] == ["by", "the", "sea"]


def test_case_10_scripts_without_spaces_are_compared_by_the_character() -> None:
    """Kotoba's Japanese is one word to a splitter."""
    said = Said().add("今日は晴れです。", to_ms=2_000)
    heard = Heard(text="です。明日は雨。", is_final=True, start_ms=1_500, end_ms=3_500)

    assert trim_repeated(heard, said).text == "明日は雨。"


def test_a_final_that_is_all_repetition_has_no_text_left() -> None:
    """It then covers its audio and says nothing."""
    said = Said().add("one two three", to_ms=900)

    assert trim_repeated(spoken("two three", start_ms=200, has_words=True), said).text == ""


@pytest.mark.parametrize(
    ("text", "start_ms"),
    [("no no no", 900), ("never mind", 500), ("... !", 500)],
    ids=["said twice", "other words", "no words"],
)
def test_what_people_say_twice_and_what_only_overlaps_is_kept(text: str, start_ms: int) -> None:
    """Times are estimates: only the same words in the same time are a repetition."""
    heard = spoken(text, start_ms=start_ms, has_words=False)

    assert trim_repeated(heard, Said().add("no no no", to_ms=900)) == heard


def test_only_as_many_words_as_lie_in_the_overlap_are_repetitions() -> None:
    """Half a word of overlap does not take away a whole chorus."""
    said = Said().add("la la la la", to_ms=1_200)
    heard = spoken("la la la la", start_ms=1_100, has_words=True)

    assert trim_repeated(heard, said).text == "la la la"


@given(
    words=st.lists(st.sampled_from(["a", "b", "c", "d'or", "é"]), min_size=2, max_size=90),
    cut=st.integers(0, 90),
    overlap=st.integers(0, 40),
    has_words=st.booleans(),
)
def test_a_text_read_twice_across_a_cut_is_whole_once(
    *, words: list[str], cut: int, overlap: int, has_words: bool
) -> None:
    """Whatever was said, and wherever the second reading began.

    The words differ from their neighbours by a number, as far as real ones do. Without times, those
    of about the same length.
    """
    if not has_words:
        words = [word.replace("'", "") for word in words]
    texts = [f"{word}{number}" for number, word in enumerate(words)]
    cut = max(1, min(cut, len(texts) - 1))
    from_word = max(0, cut - min(overlap, TOKENS_MAX // 2))
    said = Said().add(" ".join(texts[:cut]), to_ms=WORD_MS * cut)
    again = spoken(" ".join(texts[from_word:]), start_ms=WORD_MS * from_word, has_words=has_words)

    trimmed = trim_repeated(again, said)

    assert trimmed.text.split() == texts[cut:]
    assert trimmed.start_ms == WORD_MS * cut
    assert trimmed.end_ms == again.end_ms
