"""docs/kotoba-door.md against the door."""

import re
from pathlib import Path

from speechbus_wire import kotoba_secrets

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kotoba-door.md").read_text(encoding="utf-8")
SOURCES = [
    *(ROOT / "services" / "speechbus_wire").glob("kotoba*.py"),
    *(ROOT / "services" / "speechbus_ingest" / "doors").glob("kotoba*.py"),
]
RAISED = r'\(\s*(?:\d{3}, ?)?\s*"(invalid_(?!request)[a-z_]+|[a-z_]+_(?:expired|error|empty))",'
"""First argument of an error, or the second behind a status."""


def test_every_error_is_told() -> None:
    """Clients decide by code."""
    raised = {
        code for path in SOURCES for code in re.findall(RAISED, path.read_text(encoding="utf-8"))
    }
    told = re.findall(r"^\| `([a-z_]+)` \| (?:\d{3})? ?\|", PAGE, re.MULTILINE)

    assert sorted(told) == sorted(raised)


def test_the_life_of_a_secret_is_told() -> None:
    """Who hands them out plans with it."""
    assert f"expire {kotoba_secrets.TTL_S} s after" in PAGE
