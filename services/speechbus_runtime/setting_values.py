"""The text form of setting values: which types there are and how each is written."""

import math
import re
from collections.abc import Iterator
from typing import Final, cast

from msgspec import inspect

from speechbus_runtime.secret import HIDDEN, Secret

__all__ = ["SettingValueError", "describe_value", "expected_value", "parse_value"]

_WHOLE_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
"""18 digits fit every counter; more is a typing mistake, and Python refuses 4,301."""
_SEPARATORS: Final = re.compile(r"[,\n]")
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


class SettingValueError(ValueError):
    """A text is not a value of its type; the message is the problem and never quotes the text.

    It may be a secret that went into the wrong variable.
    """


def parse_value(text: str, kind: inspect.Type) -> object:
    """Return the value that `text` stands for.

    Args:
        text: without blanks around it, not empty.
        kind: what `msgspec.inspect` says about the field.

    Raises:
        SettingValueError: the text is no such value, or breaks a bound.
        TypeError: no setting can have this type (a mistake in the code).
    """
    match kind:
        case inspect.Metadata():
            return parse_value(text, kind.type)
        case inspect.UnionType():
            return parse_value(text, _sole_member(kind))
        case inspect.VarTupleType():
            entries = tuple(_parse_entry(entry, kind.item_type) for entry in _split(text))
            _check_size(len(entries), kind, "entries")
            return entries
        case inspect.DictType():
            return _parse_mapping(text, kind)
        case _:
            return _parse_single(text, kind)


def _parse_single(text: str, kind: inspect.Type) -> object:
    match kind:
        case inspect.IntType():
            return _parse_whole_number(text, kind)
        case inspect.FloatType():
            return _parse_number(text, kind)
        case inspect.BoolType():
            return _parse_bool(text)
        case inspect.LiteralType():
            return _parse_choice(text, kind)
        case inspect.StrType():
            _check_size(len(text), kind, "characters")
            if kind.pattern is not None and re.search(kind.pattern, text) is None:
                raise SettingValueError("does not have the required form")
            return text
        case inspect.CustomType() if kind.cls is Secret:
            return Secret(text)
        case _:
            raise TypeError(f"no setting can be of type {type(kind).__name__}")


def _parse_whole_number(text: str, kind: inspect.IntType) -> int:
    if _WHOLE_NUMBER.fullmatch(text) is None:
        raise SettingValueError("is not a whole number")
    value = int(text)
    _check_bounds(value, kind)
    return value


def _parse_number(text: str, kind: inspect.FloatType) -> float:
    try:
        value = float(text)
    except ValueError:
        raise SettingValueError("is not a number") from None
    if not math.isfinite(value):
        raise SettingValueError("is not a finite number")
    _check_bounds(value, kind)
    return value


def _parse_bool(text: str) -> bool:
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise SettingValueError("is neither true nor false")
    return word in _TRUE


def _parse_choice(text: str, kind: inspect.LiteralType) -> object:
    for value in kind.values:
        if text == str(value):
            return value
    raise SettingValueError("is none of the possible values")


def _parse_mapping(text: str, kind: inspect.DictType) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for name, value in (_parse_pair(entry, kind.value_type) for entry in _split(text)):
        if name in mapping:
            raise SettingValueError("names an entry twice")
        mapping[name] = value
    _check_size(len(mapping), kind, "entries")
    return mapping


def _parse_entry(text: str, kind: inspect.Type) -> object:
    match kind:
        case inspect.TupleType(item_types=(inspect.StrType(), value_type)):
            return _parse_pair(text, value_type)
        case _:
            return _parse_single(text, kind)


def _parse_pair(text: str, value_type: inspect.Type) -> tuple[str, object]:
    """Split at the first colon, so that a value may hold colons (a URL does)."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon:
        raise SettingValueError("has an entry without a colon")
    if not name or not value:
        # An empty key for a tenant would let everyone in.
        raise SettingValueError("has an entry with nothing on one side of the colon")
    return name, _parse_single(value, value_type)


def _split(text: str) -> Iterator[str]:
    # A file of a list has an entry in each line.
    return (entry.strip() for entry in _SEPARATORS.split(text) if entry.strip())


def _sole_member(kind: inspect.UnionType) -> inspect.Type:
    """Return what `X | None` may hold."""
    members = [member for member in kind.types if not isinstance(member, inspect.NoneType)]
    if len(members) != 1:
        raise TypeError("a setting has one type, or one type or None")
    return members[0]


def _check_bounds(value: float, kind: inspect.IntType | inspect.FloatType) -> None:
    in_range = (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
    )
    if not in_range:
        raise SettingValueError("is outside the possible range")
    if kind.multiple_of is not None and value % kind.multiple_of:
        raise SettingValueError("is not a multiple of the step")


def _check_size(
    size: int, kind: inspect.StrType | inspect.VarTupleType | inspect.DictType, unit: str
) -> None:
    if kind.min_length is not None and size < kind.min_length:
        raise SettingValueError(f"has too few {unit}")
    if kind.max_length is not None and size > kind.max_length:
        raise SettingValueError(f"has too many {unit}")


def expected_value(kind: inspect.Type) -> str:
    """Return in words what may be written, such as "a whole number from 1 to 500".

    Raises:
        TypeError: no setting can have this type (a mistake in the code).
    """
    match kind:
        case inspect.Metadata():
            return expected_value(kind.type)
        case inspect.UnionType():
            return expected_value(_sole_member(kind))
        case inspect.VarTupleType():
            return _expected_list(kind)
        case inspect.DictType(key_type=inspect.StrType()):
            pairs = f"name:value pairs with commas between them{_size_words(kind, 'pairs')}"
            return f"{pairs}; each value is {_expected_single(kind.value_type)}"
        case _:
            return _expected_single(kind)


def _expected_list(kind: inspect.VarTupleType) -> str:
    match kind.item_type:
        case inspect.TupleType(item_types=(inspect.StrType(), value_type)):
            entry = f"name:value where value is {_expected_single(value_type)}"
        case item_type:
            entry = _expected_single(item_type)
    return f"a list with commas between{_size_words(kind, 'entries')}; each entry is {entry}"


def _expected_single(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType():
            return f"a whole number{_bounds_words(kind)}"
        case inspect.FloatType():
            return f"a number{_bounds_words(kind)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return f"one of {', '.join(str(value) for value in kind.values)}"
        case inspect.StrType():
            form = "" if kind.pattern is None else f" of the form {kind.pattern}"
            return f"a text{_size_words(kind, 'characters')}{form}"
        case inspect.CustomType() if kind.cls is Secret:
            return "a secret"
        case _:
            raise TypeError(f"no setting can be of type {type(kind).__name__}")


def _bounds_words(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        words = f" from {kind.ge} to {kind.le}"
    else:
        limits = (
            ("of at least", kind.ge),
            ("above", kind.gt),
            ("of at most", kind.le),
            ("below", kind.lt),
        )
        claims = [f"{claim} {limit}" for claim, limit in limits if limit is not None]
        words = f" {' and '.join(claims)}" if claims else ""
    return words if kind.multiple_of is None else f"{words}, a multiple of {kind.multiple_of}"


def _size_words(kind: inspect.StrType | inspect.VarTupleType | inspect.DictType, unit: str) -> str:
    match kind.min_length, kind.max_length:
        case None, None:
            return ""
        case least, None:
            return f" of at least {least} {unit}"
        case None, most:
            return f" of at most {most} {unit}"
        case least, most:
            return f" of {least} to {most} {unit}"


def describe_value(value: object) -> str:
    """Return how a value is written in a variable; secrets as `***`, None and empty ones as ""."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Secret):
        return HIDDEN if value else ""
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return ",".join(f"{name}:{describe_value(entry)}" for name, entry in pairs)
    if isinstance(value, tuple):
        entries = cast("tuple[object, ...]", value)
        return ",".join(_describe_entry(entry) for entry in entries)
    return str(value)


def _describe_entry(entry: object) -> str:
    if isinstance(entry, tuple):
        return ":".join(describe_value(part) for part in cast("tuple[object, ...]", entry))
    return describe_value(entry)
