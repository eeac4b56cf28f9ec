"""Word error rate: how far what was heard is from what was said."""

from collections.abc import Mapping
from typing import Final

import msgspec

__all__ = ["WordErrors", "count_word_errors"]

_SPELLINGS: Final[Mapping[str, str]] = {"mr": "mister"}


class WordErrors(msgspec.Struct, frozen=True):
    """Errors among the words that were said."""

    errors: int
    """Words replaced, missing or too many."""
    words: int
    """Words that were said."""

    @property
    def rate(self) -> float:
        """Errors per word; above 1 when more was heard than said. Without words: 0, or 1."""
        return self.errors / self.words if self.words else float(self.errors > 0)

    def __add__(self, other: "WordErrors") -> "WordErrors":
        return WordErrors(self.errors + other.errors, self.words + other.words)


def count_word_errors(said: str, heard: str) -> WordErrors:
    """Count the fewest insertions, deletions and replacements that turn one into the other.

    Case and punctuation are not compared, and "Mr" is "mister": which of the two an engine writes
    is a matter of spelling.
    """
    said_words, heard_words = _words(said), _words(heard)
    # Levenshtein, one row at a time.
    row = list(range(len(heard_words) + 1))
    for i, word in enumerate(said_words, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard_words, start=1):
            cost = min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
            diagonal, row[j] = row[j], cost
    return WordErrors(errors=row[-1], words=len(said_words))


def _words(text: str) -> list[str]:
    kept = "".join(
        c if c.isalnum() or c in "' " else " "
        for c in text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    )
    return [_SPELLINGS.get(word, word) for word in kept.split()]
