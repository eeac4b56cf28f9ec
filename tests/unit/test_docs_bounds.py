"""The table of bounds in docs/architecture.md against the constants."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| .+? \| `([\w.]+)\.(\w+)` \| ([\d,.]+)(?: ([A-Za-z]+))?.* \|", PAGE, re.MULTILINE
)
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "MB": 10**6}


def test_the_table_has_rows() -> None:
    """Another layout of the table must not turn the check below into nothing."""
    assert len(ROWS) > 30


@pytest.mark.parametrize(("module", "constant", "number", "unit"), ROWS)
def test_a_bound_is_what_the_table_says(module: str, constant: str, number: str, unit: str) -> None:
    """Who sizes a deployment calculates with these numbers."""
    value = getattr(importlib.import_module(module), constant)

    assert float(number.replace(",", "")) * SIZES.get(unit, 1) == value
