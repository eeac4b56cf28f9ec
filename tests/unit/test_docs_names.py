"""Names of variables and metrics in what operators read, against what exists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from speechbus_cli import settings as cli_settings
from speechbus_runtime.settings import describe_settings
from tests.support.chart_schema import COMPONENTS
from tests.support.instruments import expose

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
NATS: Final = "".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "deploy" / "nats").glob("*.conf")
)
_NATS_VARIABLES: Final = ("NATS_USER", "NATS_PASSWORD", "NATS_CA", "NATS_CERT", "NATS_KEY")
OUTSIDE_OF_SERVICES: Final = frozenset(
    value for name, value in vars(cli_settings).items() if name.isupper() and str(value)
) | {f"{cli_settings.NATS_PREFIX}{name}" for name in _NATS_VARIABLES}


def list_variables() -> set[str]:
    """Every variable that something of ours reads, by the name without `_FILE`."""
    declared = {
        described.variable
        for kind, prefix in COMPONENTS.values()
        for described in describe_settings(kind, prefix)
    }
    interpolated = set(re.findall(r"\$\{(SPEECHBUS_\w+)", COMPOSE))
    servers = set(re.findall(r"\$(SPEECHBUS_NATS_\w+)", NATS))
    known = declared | interpolated | servers | {str(name) for name in OUTSIDE_OF_SERVICES}
    return {name.removesuffix("_FILE") for name in known}


def list_documents() -> list[Path]:
    """What operators read, without the records of decisions."""
    deploy = (path for path in (ROOT / "deploy").rglob("*") if path.is_file())
    return [
        *(path for folder in (".", "docs", "contracts") for path in (ROOT / folder).glob("*.md")),
        *(path for path in deploy if path.parent.name not in {"secrets", "locks"}),
        ROOT / "docker-compose.yml",
    ]


def find_unknown_variables(text: str) -> Iterator[str]:
    """Yield names that nothing reads; `SPEECHBUS_<SERVICE>_…` and prefixes are none."""
    known = list_variables()
    for name in re.findall(r"(?<!\w)SPEECHBUS_[A-Z0-9_]*[A-Z0-9](?![\w<*…{$])", text):
        if name.removesuffix("_FILE") not in known:
            yield name


@pytest.mark.parametrize("document", list_documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_variable_that_is_named_exists(document: Path) -> None:
    """Whoever sets one that was renamed waits for an effect that never comes."""
    assert list(find_unknown_variables(document.read_text(encoding="utf-8"))) == []


def test_a_variable_that_nothing_reads_is_found() -> None:
    """The check above can fail."""
    assert list(find_unknown_variables("set `SPEECHBUS_TRANSCRIBER_CAPACITY`, SPEECHBUS_KEY")) == [
        "SPEECHBUS_TRANSCRIBER_CAPACITY"
    ]


@pytest.mark.parametrize("name", ["CHANGELOG.md", "docs/nats.md", "docs/kubernetes.md"])
def test_every_metric_that_is_named_exists(name: str) -> None:
    """Alerts are written from these pages, too."""
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`(speechbus_\w+(?:_total|_seconds|_streams))`", text))

    assert named
    assert {each for each in named if not re.search(rf"^{each}\b", expose(), re.MULTILINE)} == set()
