"""What is settled of a growing text stays as it is, and nothing is lost or said twice."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from speechbus_translator.prefix import AGREEMENT, TAIL_WORDS_MIN, Prefix

WORDS = st.sampled_from(("the", "old", "man", "sat,", "down.", "and"))


@st.composite
def growing_texts(draw: st.DrawFn) -> list[str]:
    """As recognizers tell them: longer and longer, and now and then another ending, or less."""
    words: list[str] = []
    texts: list[str] = []
    for _ in range(draw(st.integers(1, 25))):
        n_taken_back = draw(st.sampled_from((0, 0, 0, 0, 1, 2, 5, 40)))
        words = words[: max(0, len(words) - n_taken_back)]
        words = words + draw(st.lists(WORDS, max_size=6))
        texts.append(draw(st.sampled_from((" ", "  ", "\n"))).join(words))
    return texts


def states(texts: list[str]) -> list[Prefix]:
    grown = [Prefix()]
    for text in texts:
        grown.append(grown[-1].grow(text))
    return grown[1:]


@given(texts=growing_texts())
def test_pieces_and_tail_are_the_text(texts: list[str]) -> None:
    """Nothing is left out of a translation, and nothing is in it twice."""
    assert [state.text.split() for state in states(texts)] == [text.split() for text in texts]


@given(texts=growing_texts())
def test_a_settled_piece_never_changes_unless_the_text_takes_it_back(texts: list[str]) -> None:
    """So it is translated once."""
    for text, (before, after) in zip(texts[1:], pairwise(states(texts)), strict=True):
        n_words = 0
        for number, piece in enumerate(before.pieces):
            n_words += len(piece.split())
            is_still_said = text.split()[:n_words] == " ".join(before.pieces[: number + 1]).split()
            assert (after.pieces[number : number + 1] == (piece,)) == is_still_said


@given(texts=growing_texts())
def test_only_what_several_texts_agree_on_is_settled(texts: list[str]) -> None:
    """A recognizer changes its last words with each text."""
    before = Prefix()
    for number, after in enumerate(states(texts)):
        n_words = len(" ".join(after.pieces).split())
        if len(after.pieces) > len(before.pieces):
            agreed = texts[number + 1 - AGREEMENT : number + 1]
            assert len(agreed) == AGREEMENT
            assert {tuple(text.split()[:n_words]) for text in agreed} == {
                tuple(" ".join(after.pieces).split())
            }
            assert len(after.tail.split()) >= TAIL_WORDS_MIN
        before = after


def test_a_long_text_is_settled_piece_by_piece() -> None:
    """At the ends of its clauses, where it has some."""
    said = (
        "When the sun had set, the old man sat down by the road and waited for us to come"
        " and we did not"
    )
    words = said.split()
    texts = [" ".join(words[:n]) for n in range(1, len(words) + 1)]

    last = states(texts)[-1]

    assert last.pieces == ("When the sun had set,", "the old man sat down by the road and waited")
    assert last.tail == "for us to come and we did not"
