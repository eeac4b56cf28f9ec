"""The table of metrics in docs/operations.md against what the services' instruments say."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from speechbus_contracts import Gap
from speechbus_ingest.measures import measure_ingest
from speechbus_runtime.telemetry import Telemetry
from speechbus_transcriber.lag_watch import Lag
from speechbus_transcriber.measures import Measures
from speechbus_transcriber.providers.interface import (
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderUnavailableError,
)

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
ERRORS: tuple[type[ProviderError], ...] = (
    ProviderUnavailableError,
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderProtocolError,
)
GAP = Gap(
    stream_id="s",
    tenant="t",
    epoch=1,
    from_ms=0,
    to_ms=1_500,
    reason="lag",
    next_index=0,
    gap_ms_total=1_500,
    audio_received_at=0,
)


def expose() -> str:
    """What a process with all instruments says when everything has happened."""
    telemetry = Telemetry("test")
    measure_ingest(telemetry, count_streams=lambda: 1)
    measures = Measures(telemetry, capacity=1)
    measures.count_claim("opened")
    measures.count_opened("palabra")
    for error in ERRORS:
        measures.count_failed(error("code", provider="palabra"))
    measures.count_gap(GAP)
    measures.note_lags([Lag(uncovered_s=7.0, waiting_s=4.0, is_behind=True)])
    return telemetry.render().decode()


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
