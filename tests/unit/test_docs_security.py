"""docs/security.md against the tests that it names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


def test_the_page_names_tests() -> None:
    """Another layout of the table must not turn the check below into nothing."""
    assert len(NAMED) > 25


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists(path: str, name: str) -> None:
    """What is said to be defended is tried."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

    assert name in tests if name else any(test.startswith("test_") for test in tests)


def test_every_row_of_what_is_defended_names_one() -> None:
    """No claim without a test."""
    section = PAGE.partition("## What is defended\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]

    assert len(rows) > 15
    assert [row for row in rows if "`tests/" not in row.rpartition(" | ")[2]] == []
