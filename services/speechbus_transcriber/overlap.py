"""What a final says again of the final before it, where the two overlap in time. Pure."""

import math
import re
from typing import Final

import msgspec

from speechbus_transcriber.providers.interface import Heard, HeardWord

__all__ = ["Said", "trim_repeated"]

TOKENS_MAX: Final = 64
"""Words that a final may repeat: some 20 s of speech."""
UNEVENNESS: Final = 1.5
"""Without times of words, so many more may lie in a stretch than in the mean."""
_TOKEN: Final = re.compile(
    # Scripts without spaces by the character, all others by the word; punctuation says nothing.
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


class Said(msgspec.Struct, frozen=True):
    """The end of what finals have said so far."""

    to_ms: int = -1
    """`end_ms` of the last one."""
    tokens: tuple[str, ...] = ()
    """The last words."""

    def add(self, text: str, *, to_ms: int) -> "Said":
        """Return what is said with one more final."""
        return Said(to_ms, (*self.tokens, *_TOKEN.findall(text.casefold()))[-TOKENS_MAX:])


def trim_repeated(heard: Heard, said: Said) -> Heard:
    """Take away what the final before has said already.

    Only what overlaps in time and has the same words is a repetition: a provider's times are
    estimates, and people do say things twice.

    Args:
        heard: a final.
        said: of the final before, in the same time as `heard`.

    Returns:
        `heard` from behind the repeated words; its text is empty when nothing is new.
    """
    if heard.start_ms >= said.to_ms:
        return heard
    tokens = list(_TOKEN.finditer(heard.text))
    n_repeated = _count_repeated(
        [token.group().casefold() for token in tokens],
        said.tokens,
        n_max=_count_overlapping(heard, said, n_tokens=len(tokens)),
    )
    if n_repeated == 0:
        return heard
    if n_repeated == len(tokens):
        return msgspec.structs.replace(heard, text="", words=None)
    words = None if heard.words is None else _drop(heard.words, n_repeated)
    return msgspec.structs.replace(
        heard,
        start_ms=words[0].start_ms if words else min(said.to_ms, heard.end_ms),
        text=heard.text[tokens[n_repeated].start() :],
        words=words,
    )


def _count_overlapping(heard: Heard, said: Said, *, n_tokens: int) -> int:
    """How many of the first words begin before the end of the final before."""
    if heard.words is None:
        duration_ms = max(1, heard.end_ms - heard.start_ms)
        share = (said.to_ms - heard.start_ms) / duration_ms
        return min(n_tokens, math.ceil(n_tokens * share * UNEVENNESS))
    return sum(len(_TOKEN.findall(word.text)) for word in heard.words if word.start_ms < said.to_ms)


def _count_repeated(tokens: list[str], said: tuple[str, ...], *, n_max: int) -> int:
    for n_tokens in range(min(n_max, len(tokens), len(said)), 0, -1):
        if tuple(tokens[:n_tokens]) == said[-n_tokens:]:
            return n_tokens
    return 0


def _drop(words: tuple[HeardWord, ...], n_tokens: int) -> tuple[HeardWord, ...]:
    n_dropped = 0
    for index, word in enumerate(words):
        if n_dropped >= n_tokens:
            return words[index:]
        n_dropped += len(_TOKEN.findall(word.text))
    return ()
