"""Text that recognizers rewrite, for clients who can only append. Pure."""

import unicodedata

__all__ = ["Stabilizer", "added_text", "agreed_text", "common_prefix", "separator"]


class Stabilizer:
    """One segment's text, as pieces to append.

    A piece is sent once two revisions in a row agree on it, and never taken back. The final brings
    the rest. Where it contradicts what was sent, it is said again from the first word that differs:
    then a word too many was sent, and none is missing.
    """

    def __init__(self) -> None:
        self.sent = ""
        """All pieces so far."""
        self._heard = ""

    def revise(self, text: str) -> str:
        """Take the whole text as it is heard now; return what to append, often nothing."""
        agreed = agreed_text(self.sent, self._heard, text)
        self._heard = text
        return self._send(agreed[len(self.sent) :])

    def finish(self, text: str) -> str:
        """Take the final text; return what to append."""
        rest = added_text(self.sent, text)
        return self._send(_correction(self.sent, text) if rest is None else rest)

    def _send(self, piece: str) -> str:
        self.sent += piece
        return piece


def agreed_text(sent: str, heard: str, now: str) -> str:
    """Return what can be sent as an append: text sent before, and more that has been said twice.

    Args:
        sent: what the client has.
        heard: the text of the revision before.
        now: the text of this one.
    """
    agreed = common_prefix(heard, now)
    return agreed if agreed.startswith(sent) else sent


def added_text(before: str, after: str) -> str | None:
    """Return what makes `after` of `before` when it is appended; None: nothing can."""
    return after[len(before) :] if after.startswith(before) else None


def common_prefix(one: str, other: str) -> str:
    """Return the longest beginning that both have."""
    n_same = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return one[:n_same]


def separator(before: str, after: str) -> str:
    """Return what belongs between two texts: a blank, or nothing in scripts that have none."""
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return ""
    return " " if _is_spaced(before[-1]) and _is_spaced(after[0]) else ""


def _correction(sent: str, text: str) -> str:
    """Return what follows a text that turned out wrong: the right one from where they differ."""
    at = len(common_prefix(sent, text))
    if at == len(text):
        return ""  # a word too many was sent, and nothing else
    if text[at].isalnum() or sent[at].isalnum():
        while at > 0 and text[at - 1].isalnum() and _is_spaced(text[at - 1]):
            at -= 1  # half a word is no word
    rest = text[at:]
    return separator(sent, rest) + rest if rest[0].isalnum() else rest


def _is_spaced(character: str) -> bool:
    """Tell whether words around a character are set apart by blanks."""
    is_hangul = "\uac00" <= character <= "\ud7a3"
    is_symbol = character < "\u2e80" or "\U0001f000" <= character <= "\U0001faff"  # emoji are wide
    is_narrow_kana = "\uff61" <= character <= "\uff9f"
    is_wide = unicodedata.east_asian_width(character) in "WF"
    return is_hangul or is_symbol or not (is_wide or is_narrow_kana)
