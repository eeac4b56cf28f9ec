"""Which beginning of a growing text is settled, so that it is translated once. Pure."""

from typing import Final

import msgspec

__all__ = ["AGREEMENT", "TAIL_WORDS_MIN", "Prefix"]

AGREEMENT: Final = 3
"""Texts in a row that a word has to be in, in its place: recognizers change the last few words."""
CLAUSE_WORDS_MIN: Final = 4
"""A clause of so many words becomes a piece at its end."""
PIECE_WORDS: Final = 10
"""Where no clause ends, a piece has so many words: translated by itself, a shorter one loses what
its neighbours say about it."""
TAIL_WORDS_MIN: Final = 3
"""Words at the end that are never settled: the next ones may change their meaning."""
_CLAUSE_ENDS: Final = tuple(".,;:!?…")


class Prefix(msgspec.Struct, frozen=True):
    """A text as of its newest revision: settled pieces, and the rest.

    Words stay in the piece they were put in, until the text itself takes one of them back. The
    pieces and the tail together are the whole text.
    """

    pieces: tuple[str, ...] = ()
    tail: str = ""
    recent: tuple[tuple[str, ...], ...] = ()
    """What followed the pieces in the last texts, in words."""

    @property
    def text(self) -> str:
        """The whole text, with single blanks."""
        return " ".join([*self.pieces, *([self.tail] if self.tail else [])])

    def grow(self, text: str) -> "Prefix":
        """Return what the next revision of the text makes of it."""
        words = tuple(text.split())
        kept: list[str] = []
        n_kept = 0
        for piece in self.pieces:
            own = tuple(piece.split())
            if words[n_kept : n_kept + len(own)] != own:
                break
            kept.append(piece)
            n_kept += len(own)
        rest = words[n_kept:]
        is_whole = len(kept) == len(self.pieces)
        recent = (*(self.recent if is_whole else ()), rest)[-AGREEMENT:]
        n_settled = _find_cut(rest, recent)
        if n_settled:
            kept.append(" ".join(rest[:n_settled]))
        return Prefix(
            tuple(kept),
            " ".join(rest[n_settled:]),
            tuple(each[n_settled:] for each in recent),
        )


def _find_cut(rest: tuple[str, ...], recent: tuple[tuple[str, ...], ...]) -> int:
    """Return how many words become the next piece; 0: none."""
    if len(recent) < AGREEMENT:
        return 0
    n_agreed = min(_count_common(rest, each) for each in recent)
    n_agreed = min(n_agreed, len(rest) - TAIL_WORDS_MIN)
    for n_words in range(n_agreed, CLAUSE_WORDS_MIN - 1, -1):
        if rest[n_words - 1].endswith(_CLAUSE_ENDS):
            return n_words
    return n_agreed if n_agreed >= PIECE_WORDS else 0


def _count_common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    n_common = 0
    for word, counterpart in zip(one, other, strict=False):
        if word != counterpart:
            break
        n_common += 1
    return n_common
