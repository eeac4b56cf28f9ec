"""Nothing private in what is written down: logs, errors, spans."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["assert_nothing_private", "spell_span"]

SHORTEST = 5
"""Shorter ones may stand somewhere by chance, and prove nothing."""


def assert_nothing_private(written: Mapping[str, str], private: Iterable[str]) -> None:
    """Check that none of the words stands in what was written.

    Args:
        written: by name: logs, bodies, spans (`spell_span`); each must have some text.
        private: keys, tokens, recognized texts; too short ones are a mistake of the test.
    """
    words = list(private)
    assert words
    assert all(len(word) >= SHORTEST for word in words), "a word could be there by chance"
    assert written
    assert all(written.values()), f"nothing was written: {[k for k, v in written.items() if not v]}"
    found = [
        f"{name}: …{text[max(0, text.index(word) - 60) : text.index(word)]}<here>"
        for name, text in written.items()
        for word in words
        if word in text
    ]
    assert not found, found


def spell_span(span: Any) -> str:  # noqa: ANN401 (of whatever SDK or wire made it)
    """Return all that a span tells: name, attributes, events, links, status.

    Args:
        span: a `ReadableSpan`, or what came over OTLP as JSON.
    """
    return span.to_json() if hasattr(span, "to_json") else repr(span)
