from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.doors.stabilizer import Stabilizer, separator

WORDS = ["good", "goo", "morning", "more", "ning", "おはよう", "おは", "안녕", "a", "", ","]
TEXTS = st.one_of(st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join), st.text(max_size=9))


def send(partials: Sequence[str], last: str) -> list[str]:
    """All pieces, the final's last."""
    stabilizer = Stabilizer()
    return [*(stabilizer.revise(text) for text in partials), stabilizer.finish(last)]


def test_text_is_sent_once_two_revisions_agree_on_it() -> None:
    """Recognizers rewrite their last words; an append cannot be taken back."""
    partials = ["good mourning", "good morning every", "good morning everyone"]

    assert send(partials, "good morning everyone") == ["", "good mo", "rning every", "one"]


def test_case_01_a_rewritten_tail_is_held_back_until_it_stands() -> None:
    """A filler filter takes words out again: nothing of them is ever sent."""
    partials = ["so uh", "so I", "so I think uh", "so I think we"]

    assert send(partials, "so I think we go") == ["", "so ", "I", " think ", "we go"]


@pytest.mark.parametrize(
    ("partials", "last", "appended"),
    [
        (["ice cream", "ice cream is"], "I scream", "ice cream I scream"),
        (["he went two", "he went two"], "he went too far", "he went two too far"),
        (["hello world.", "hello world."], "hello world, all", "hello world., all"),
        (["hello world", "hello world"], "hello", "hello world"),
        (["今日は熱い", "今日は熱い"], "今日は暑いね", "今日は熱い暑いね"),
        (["안녕 세상", "안녕 세상"], "안녕 사람", "안녕 세상 사람"),
        (["no", "no"], "", "no"),
    ],
)
def test_a_final_that_contradicts_is_said_again_from_the_word_that_differs(
    partials: list[str], last: str, appended: str
) -> None:
    """Who reads nothing but appends gets a word too many rather than one too few."""
    assert "".join(send(partials, last)) == appended


@given(partials=st.lists(TEXTS, max_size=6), last=TEXTS)
def test_appends_make_the_final_text_unless_it_contradicts_them(
    partials: list[str], last: str
) -> None:
    """And where it does, all of it from the first difference on is there."""
    *pieces, rest = send(partials, last)
    sent = "".join(pieces)

    if last.startswith(sent):
        assert sent + rest == last
    elif sent.startswith(last):
        assert rest == ""
    else:
        n_same = next(at for at, (a, b) in enumerate(zip(sent, last, strict=False)) if a != b)
        assert last.endswith(rest.removeprefix(" "))
        assert len(rest) >= len(last) - n_same


@given(partials=st.lists(TEXTS, max_size=8))
def test_only_what_two_revisions_in_a_row_began_with_is_sent(partials: list[str]) -> None:
    """Nothing is guessed, and nothing is sent that only one revision had."""
    stabilizer = Stabilizer()
    before = ""
    for text in partials:
        piece = stabilizer.revise(text)

        assert not piece or (
            before.startswith(stabilizer.sent) and text.startswith(stabilizer.sent)
        )
        before = text


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [
        ("good", "morning", " "),
        ("good ", "morning", ""),
        ("good", " morning", ""),
        ("good.", "Morning", " "),
        ("です。", "はい", ""),
        ("です", "yes", ""),
        ("안녕", "세상", " "),
        ("ok 🙂", "yes", " "),
        ("✅", "done", " "),
        ("ﾃｽﾄ", "ｶﾅ", ""),
        ("𠮷", "野", ""),
        ("", "good", ""),
        ("good", "", ""),
    ],
)
def test_words_are_set_apart_where_their_script_does(before: str, after: str, between: str) -> None:
    """Who appends everything must not get `goodmorning`, nor blanks in Japanese."""
    assert separator(before, after) == between
