"""Relative links in all documents."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^(```+).*?^\1", re.MULTILINE | re.DOTALL)


def find_documents() -> list[Path]:
    """All Markdown files of the project, none of what tools put beside it."""
    return [
        path
        for path in sorted(ROOT.rglob("*.md"))
        if not any(
            part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts
        )
    ]


def find_anchors(document: Path) -> set[str]:
    """Where a link may point inside a document, as code forges spell its headings."""
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_broken_links(document: Path) -> Iterator[str]:
    """Yield the targets that lead nowhere."""
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue  # another site's business
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        if not linked.exists() or (anchor and anchor not in find_anchors(linked)):
            yield target


def test_there_are_documents_to_check() -> None:
    """A moved folder must not turn the check below into nothing."""
    names = {str(path.relative_to(ROOT)) for path in find_documents()}

    assert {"README.md", "contracts/README.md", "docs/architecture.md"} <= names


@pytest.mark.parametrize("document", find_documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    """A reader who follows a link gets what it promises."""
    assert list(find_broken_links(document)) == []
