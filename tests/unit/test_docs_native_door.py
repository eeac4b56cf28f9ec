"""docs/native-door.md against the door."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from speechbus_ingest.doors import native, native_errors, native_hello, native_resume

PAGE = (Path(__file__).parents[2] / "docs" / "native-door.md").read_text(encoding="utf-8")
POLICY, TRY_LATER = 1008, 1013


def find_errors() -> Iterator[tuple[str, int]]:
    """Yield code and close code of every error that the door's source raises."""
    for module in (native, native_errors, native_hello, native_resume):
        tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Name(id="DoorError"),
                    args=[ast.Constant(value=str() as code), _, *rest],
                ):
                    yield code, TRY_LATER if rest else POLICY
                case _:
                    pass


def test_every_error_is_told_with_its_close_code() -> None:
    """Clients decide by code whether to try again."""
    told = re.findall(r"^\| `([a-z_.]+)` \| (\d{4}) \|", PAGE, re.MULTILINE)

    assert sorted((code, int(close)) for code, close in told) == sorted(set(find_errors()))


def test_every_refusal_at_the_upgrade_is_told() -> None:
    """A client sees these as HTTP statuses, before any message."""
    told = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", PAGE, re.MULTILINE)
    source = Path(native.__file__).read_text(encoding="utf-8")
    refused = re.findall(r'_refuse\(\s*socket,\s*(\d{3}),\s*"(\w+)"', source)

    assert sorted(told) == sorted(refused)
