"""Dashboard and alert rules against what services export, and against the runbook."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.instruments import expose

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "deploy" / "observability"
DASHBOARD: Final = json.loads((FOLDER / "grafana/dashboards/speechbus.json").read_text())
RULES: Final = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
RUNBOOK: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PROMTOOL: Final = shutil.which("promtool")
JOBS: Final = {"ingest", "transcriber", "correlator", "translator"}
SCRAPED: Final[Mapping[str, set[str]]] = {"job": JOBS, "instance": set()}
"""Labels that Prometheus adds, and their values where those are agreed."""
BROKEN: Final = (
    "speechbus_ingest_streams_open",
    'speechbus_transcriber_gap_duration_seconds_total{cause="lag"}',
    'speechbus_transcriber_gap_duration_seconds_total{reason="lagg"}',
    'up{job="worker"}',
    "sum by (tenant) (speechbus_ingest_streams)",
    "speechbus_ready / on (worker) speechbus_ready",
)


def read_exported() -> dict[str, dict[str, set[str]]]:
    """Label values by label, by name of a time series."""
    exported: dict[str, dict[str, set[str]]] = {"up": {}}
    for family in text_string_to_metric_families(expose()):
        for sample in family.samples:
            labels = exported.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return exported


EXPORTED: Final = read_exported()


def walk(node: object) -> Iterator[object]:
    """Yield a query's nodes."""
    yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        child = getattr(node, name, None)
        if child is not None:
            yield from walk(child)
    for child in getattr(node, "args", ()):
        yield from walk(child)


def find_mistakes(query: str) -> list[str]:
    """Return what a query asks for that no service exports."""
    nodes = list(walk(promql_parser.parse(query.replace("$__rate_interval", "5m"))))
    selectors = [node for node in nodes if isinstance(node, promql_parser.VectorSelector)]
    mistakes = [] if selectors else ["nothing is asked for"]
    known = set(SCRAPED)
    for selector in selectors:
        labels = EXPORTED.get(selector.name or "")
        if labels is None:
            mistakes.append(f"no time series {selector.name}")
        else:
            mistakes.extend(find_wrong_matchers(selector, {**SCRAPED, **labels}))
            known |= labels.keys()
    return [
        *mistakes,
        *(f"no label {label}" for label in list_grouped(nodes) if label not in known),
    ]


def find_wrong_matchers(
    selector: promql_parser.VectorSelector, labels: Mapping[str, set[str]]
) -> Iterator[str]:
    """Yield labels and values that a time series does not have."""
    for matcher in selector.matchers.matchers:
        values = labels.get(matcher.name)
        if values is None:
            yield f"{selector.name} has no label {matcher.name}"
        elif values and not set(matcher.value.split("|")) <= values:
            yield f"{selector.name} has no {matcher.name} {matcher.value}"


def list_grouped(nodes: list[object]) -> Iterator[str]:
    """Yield the labels by which a query groups and joins."""
    for node in nodes:
        named = getattr(node, "modifier", None)
        for modifier in (named, getattr(named, "matching", None)):
            yield from getattr(modifier, "labels", ())


def list_queries() -> list[tuple[str, str]]:
    """Queries of the dashboard and of the rules, each with its title."""
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    shown = [
        (panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())
    ]
    return [*shown, *((rule["alert"], rule["expr"]) for rule in RULES)]


def test_every_query_asks_for_what_is_exported() -> None:
    """A panel without data looks like a quiet night, and so does an alert that cannot fire."""
    queries = list_queries()

    assert len(queries) > 60
    assert [
        (title, *found) for title, query in queries if (found := list(find_mistakes(query)))
    ] == []


@pytest.mark.parametrize("query", BROKEN)
def test_a_query_for_what_nobody_exports_is_found(query: str) -> None:
    """Else the test above would prove nothing."""
    assert len(find_mistakes(query)) == 1


def test_every_metric_is_on_the_dashboard() -> None:
    """What is worth exporting is worth seeing."""
    asked = " ".join(query for _, query in list_queries())
    names = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name in EXPORTED
        if name.startswith("speechbus_") and not name.endswith("_created")
    }

    assert sorted(name for name in names if name not in asked) == []


def test_every_alert_has_a_section_in_the_runbook() -> None:
    """Whoever is paged follows the link, half asleep."""
    told = re.findall(r"^### (Speechbus\w+)$", RUNBOOK, re.MULTILINE)

    assert told == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_every_alert_is_tested_quiet_and_firing() -> None:
    """By promtool, where that is installed; here it is checked that none is left out."""
    tests = yaml.safe_load((FOLDER / "alerts.test.yaml").read_text())["tests"]

    assert {test["name"] for test in tests} == {rule["alert"] for rule in RULES}
    for test in tests:
        quiet, firing, *_ = test["promql_expr_test"]
        assert "exp_samples" not in quiet
        assert f'"{test["name"]}"' in firing["exp_samples"][0]["labels"]


def test_panels_can_be_provisioned() -> None:
    """The dashboard names the data source that the provisioning files make."""
    (source,) = yaml.safe_load(
        (FOLDER / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"]
    panels: list[dict[str, Any]] = DASHBOARD["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    used = {target["datasource"]["uid"] for p in panels for target in p.get("targets", ())}
    assert used == {source["uid"]}


def test_prometheus_scrapes_every_service() -> None:
    """By the names that rules and dashboard use."""
    scraped = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]

    assert {config["job_name"] for config in scraped} == JOBS
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for config in scraped:
        name = config["job_name"]
        (discovery,) = config["dns_sd_configs"]
        variables = compose[name]["environment"]
        assert discovery["names"] == [name]
        assert discovery["port"] == variables[f"SPEECHBUS_{name.upper()}_HEALTH_PORT"]
        assert variables[f"SPEECHBUS_{name.upper()}_HEALTH_HOST"] == "0.0.0.0"
        assert set(compose[name]["networks"]) & set(compose["prometheus"]["networks"])


@pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: install Debian's package `prometheus`"
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("test", "rules", "alerts.test.yaml"),
        ("check", "rules", "alerts.yaml"),
        ("check", "config", "prometheus.yml"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    """Prometheus' own tool: rules fire when they should, and the configuration loads."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=100
    )

    assert done.returncode == 0, done.stdout + done.stderr
