"""What a service measures, read as Prometheus reads it."""

import urllib.request
from collections.abc import Mapping
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Samples", "parse_metrics", "scrape"]

Samples = Mapping[str, float]
"""Values by name and labels, spelled as in the text, the labels in order of their names."""
TIMEOUT_S: Final = 10.0


def scrape(url: str) -> Samples:
    """Return what the `/metrics` of a service's health port says now."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=TIMEOUT_S) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parse_metrics(answer.read())


def parse_metrics(text: bytes) -> Samples:
    """Return all samples of an exposition."""
    return {
        sample.name
        + (
            "{" + ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items())) + "}"
            if sample.labels
            else ""
        ): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
