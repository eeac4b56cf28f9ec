"""Damaged inputs beyond bytes: JSON whose values are replaced by what parsers stumble over."""

import json
import random
from typing import Final, cast

from tests.support.mutations import mutate

__all__ = ["damage", "damage_text"]

_NASTY: Final[tuple[str, ...]] = (
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "-0.0",
    "1e-400",
    "9223372036854775808",
    "18446744073709551616",
    "1" * 5_000,
    "0." + "3" * 1_000,
    '""',
    '"\\ud800"',
    '"\\u0000"',
    '"*.>"',
    '"\\u202e\\ufeff"',
    "[]",
    "{}",
    '"' + "a" * 70_000 + '"',
    "[" * 2_000 + "]" * 2_000,
    '{"a":' * 2_000 + "1" + "}" * 2_000,
    "[" + "0," * 5_000 + "0]",
    "NaN",
    "Infinity",
)
_HOLE: Final = "\ue000hole\ue000"


def damage(data: bytes, chance: random.Random) -> bytes:
    """Return the input with something wrong in it: in its values where it is JSON, or its bytes."""
    if chance.random() < 0.6:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            pass
        else:
            return _damage_json(value, chance)
    return mutate(data, chance)


def damage_text(data: bytes, chance: random.Random) -> str:
    """Return the damaged input as a text, as a WebSocket would hand it over."""
    return damage(data, chance).decode(errors="replace")


def _damage_json(value: object, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 3)):
        value = _punch(value, chance)
    text = json.dumps(value)
    hole = json.dumps(_HOLE)
    while hole in text:
        text = text.replace(hole, chance.choice(_NASTY), 1)
    return text.encode()


def _punch(value: object, chance: random.Random) -> object:
    """Put a hole somewhere, take a field away, or give one another name."""
    if isinstance(value, dict) and value:
        fields = dict(cast("dict[str, object]", value))
        name = chance.choice(sorted(fields))
        match chance.randrange(6):
            case 0:
                del fields[name]
            case 1:
                fields[chance.choice(["", "type", "\u0000", name * 2])] = fields.pop(name)
            case 2 | 3:
                fields[name] = _punch(fields[name], chance)
            case _:
                fields[name] = _HOLE
        return fields
    if isinstance(value, list) and value and chance.random() < 0.7:
        entries = list(cast("list[object]", value))
        at = chance.randrange(len(entries))
        entries[at] = _punch(entries[at], chance)
        return entries * chance.choice([1, 1, 1, 50])
    return _HOLE
