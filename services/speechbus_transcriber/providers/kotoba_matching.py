"""Finds a turn's text again in the deltas that came before. Pure.

Ids are nothing to rely on (providers.md 1.1), so words decide: a `completed` repeats its deltas,
and a delta belongs to one turn only. Case, width, blanks and punctuation may differ.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["find_run", "keep_letters", "skip_letters"]


def keep_letters(text: str) -> str:
    """Return what of a text counts when it is compared."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def skip_letters(text: str, n: int) -> str:
    """Return the text from the letter on that comes behind its first n."""
    for at, character in enumerate(text):
        n_here = len(keep_letters(character))
        if n <= 0 < n_here:
            return text[at:]
        n -= n_here
    return ""


def find_run(pieces: Sequence[str], wanted: str, *, must_touch: range) -> tuple[int, int] | None:
    """Find consecutive pieces that are a text together.

    Args:
        pieces: letters of each, in order.
        wanted: letters of the text, at least one.
        must_touch: one of these pieces, at least, is part of it.

    Returns:
        The first piece, and the one behind the last; None: there are none.
    """
    ends = list(accumulate(map(len, pieces)))
    starts = [0, *ends[:-1]]
    text = "".join(pieces)
    at = text.find(wanted)
    while at >= 0:
        # Pieces without a letter lie between two borders at one place; they go with those before.
        first, behind = bisect_right(starts, at) - 1, bisect_right(ends, at + len(wanted))
        is_whole = starts[first] == at and ends[behind - 1] == at + len(wanted)
        if is_whole and first < must_touch.stop and behind > must_touch.start:
            return first, behind
        at = text.find(wanted, at + 1)
    return None
