"""Awkward cases of the providers' protocols and the tests named after them.

`python -m tests.support.awkward_cases` writes `docs/awkward-cases.md`.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["CASES", "PAGE", "build_page", "find_tests"]

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "awkward-cases.md"
_NAMED: Final = re.compile(r"test_case_(\d\d)_")

CASES: Final[Mapping[int, str]] = {
    1: "the filler filter rewrites the end of what was said",
    2: "a translation comes before its final",
    3: "a translation comes long after its final",
    4: "a translation of something that never became final",
    5: "only some of the target languages arrive",
    6: "a second message for an id that was final",
    7: "a final never comes",
    8: "a final is empty: fillers only",
    9: "times begin at zero again after a reconnect",
    10: "audio that is sent again says its words twice",
    11: "409: a session is already active",
    12: "a rate limit, as an HTTP status or as an event after the upgrade",
    13: "a close frame without a word",
    14: "Palabra closes with 1001 after ten seconds without audio",
    15: "Kotoba ends no turn while no audio comes",
    16: "`commit` ends the session at one provider and a turn at the next",
    17: "an error that ends the session or does not; a text or an object",
    18: "turns complete out of order",
    19: "empty deltas, about every 80 ms",
    20: "audio as base64 in JSON or as bytes",
    21: "24 kHz here, 16 kHz there",
    22: "chunks of 20, 80 or 320 ms",
    23: "stereo, where providers take mono",
    24: "a change of configuration inside a session",
    25: "an `update` before `created`",
    26: "no finals: Kotoba without turn detection",
    27: "the text's language is not the session's",
    28: "audio that comes faster than time, and consumers that are slow",
}

_HEAD: Final = """\
# Awkward cases

What the providers' protocols leave open or do in their own way, and the tests that are named after
each case (`test_case_NN_…`). Made by `python -m tests.support.awkward_cases`; a test compares.

| | case | tests |
|---|---|---|
"""


def find_tests() -> Mapping[int, list[str]]:
    """Return the tests of each case, as pytest names them."""
    found: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            named = _NAMED.match(node.name)
            if named is not None:
                test = f"{path.relative_to(ROOT).as_posix()}::{node.name}"
                found.setdefault(int(named[1]), []).append(test)
    return found


def build_page(tests: Mapping[int, list[str]]) -> str:
    """Return the page as it should be."""
    rows = [
        f"| {number} | {case} | {' · '.join(f'`{test}`' for test in tests.get(number, ()))} |\n"
        for number, case in CASES.items()
    ]
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(build_page(find_tests()), encoding="utf-8")
