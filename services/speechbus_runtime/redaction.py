"""What may stand in a log line: values made plain, small and free of private content."""

import math
import re
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Final, cast
from uuid import UUID

import msgspec

from speechbus_runtime.secret import HIDDEN, Secret

__all__ = ["REDACTED", "is_private_name", "loggable_fields", "scrub_text"]

REDACTED: Final = "[redacted]"
"""Stands where a private value was."""

TEXT_CHARS_MAX: Final = 2_048
"""Our own fields are ids and numbers; more than this is a payload that went astray."""
ENTRIES_MAX: Final = 32
"""Of one list or mapping; likewise."""
DEPTH_MAX: Final = 4
"""Our own fields are flat; this also ends values that contain themselves."""

_PRIVATE_WORDS: Final = frozenset(
    {"text", "token", "key", "secret", "authorization", "password", "credential", "cookie"}
)
_NAME_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PRIVATE_PATTERNS: Final = (
    # Query strings of URLs and request paths: browsers can send a token nowhere else.
    re.compile(r"(?<=\S\?)[^\s\"'<>]+"),
    # nats://user:password@host
    re.compile(r"(?<=://)[^\s/@\"']+(?=@)"),
    re.compile(r"(?<=\bbearer )\S+", re.IGNORECASE),
    re.compile(r"(?<=\bauthorization: )[^\r\n]+", re.IGNORECASE),
)


def is_private_name(name: str) -> bool:
    """Tell whether a field's last word says that its value is private.

    `api_key`, `source_text` and `Authorization` are; `text_bytes` and `keys_max` are not.
    """
    words = _NAME_WORD.findall(name)
    return bool(words) and words[-1].lower().rstrip("s") in _PRIVATE_WORDS


def scrub_text(text: str, *, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Return `text` without query strings, passwords in URLs and bearer tokens, and not longer.

    Code points that no encoding can write (half surrogates) become `?`.
    """
    if len(text) > chars_max:
        text = f"{text[:chars_max]}…"
    for pattern in _PRIVATE_PATTERNS:
        text = pattern.sub(REDACTED, text)
    return text.encode(errors="replace").decode()


def loggable_fields(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields as plain values that JSON can hold, private ones replaced.

    Bytes are told by their size, exceptions and unknown objects by their type: their text may be
    what a provider sent, and so may be speech.
    """
    return _plain_mapping(fields, DEPTH_MAX)


def _plain_mapping(fields: Mapping[str, object], depth: int) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name, value in list(fields.items())[:ENTRIES_MAX]:
        key = scrub_text(str(name))
        plain[key] = REDACTED if is_private_name(key) else _plain(value, depth - 1)
    return plain


def _plain(value: object, depth: int) -> object:
    match value:
        case None | bool():
            return value
        case int():
            # JSON readers hold 64 bits.
            return int(value) if -(2**63) <= value < 2**63 else str(type(value).__name__)
        case float():
            return float(value) if math.isfinite(value) else str(value)
        case str():
            return scrub_text(value)
        case Secret():
            return HIDDEN
        case UUID() | PurePath():
            return scrub_text(str(value))
        case bytes() | bytearray() | memoryview():
            return f"{len(cast('bytes', value))} bytes"
        case _:
            return type(value).__name__ if depth <= 0 else _plain_container(value, depth)


def _plain_container(value: object, depth: int) -> object:
    match value:
        case Mapping():
            return _plain_mapping(cast("Mapping[str, object]", value), depth)
        case list() | tuple() | Set():
            entries = list(cast("list[object]", value))[:ENTRIES_MAX]
            return [_plain(entry, depth - 1) for entry in entries]
        case msgspec.Struct():
            return _plain_mapping(msgspec.structs.asdict(value), depth)
        case _:
            return type(value).__name__
