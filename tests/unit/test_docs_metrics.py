"""The table of metrics in docs/operations.md against what the services' instruments say."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.instruments import expose

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def test_every_metric_is_told_with_its_type_its_labels_and_its_meaning() -> None:
    """Rules and dashboards are written from the page."""
    told = re.findall(r"^\| `(speechbus_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", PAGE, re.MULTILINE)
    exposed = [
        (
            f"{family.name}_total" if family.type == "counter" else family.name,
            family.type,
            ", ".join(
                f"`{label}`"
                for label in sorted({label for s in family.samples for label in s.labels} - {"le"})
            ),
            family.documentation,
        )
        for family in text_string_to_metric_families(expose())
        if family.name.startswith("speechbus_")
    ]

    assert sorted(told) == sorted(exposed)


def test_the_classes_of_errors_are_told() -> None:
    """Alerts choose by them."""
    sentence = PAGE.split("`error_type`:")[1].split("\n\n")[0]
    exposed = re.findall(r'error_type="(\w+)"', expose())

    assert re.findall(r"`(\w+)`", sentence) == exposed
