"""The chart's README and docs/kubernetes.md against the chart."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from speechbus_ingest.registry import RESUME_S
from speechbus_ingest.server import MESSAGE_BYTES_MAX
from tests.support.chart import CHART, EXAMPLES, pod_of, read_values, render_chart

ROOT = Path(__file__).parents[3]
README = (CHART / "README.md").read_text(encoding="utf-8")
SERVICES = ("ingest", "transcriber", "correlator", "translator")


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value by its path; resources and settings are one value each."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        is_leaf = path.endswith((".resources", ".settings")) or path.startswith("nats.config.merge")
        if isinstance(value, dict) and value and not is_leaf:
            yield from flatten(cast("dict[str, Any]", value), f"{path}.")
        else:
            yield path, value


def list_rows() -> dict[str, str]:
    """What the README should say: what all services have alike is one row."""
    values = read_values()
    nats = values.pop("nats")
    rows = {path: json.dumps(value) for path, value in flatten(values)}
    rows["nats.enabled"] = json.dumps(nats["enabled"])
    for path, value in list(flatten({"nats": {"config": nats["config"]}})):
        if ".merge" not in path:
            rows[path] = json.dumps(value)
    for path in [each for each in rows if each.startswith("ingest.")]:
        name = path.removeprefix("ingest.")
        if len({rows.get(f"{service}.{name}") for service in SERVICES}) == 1:
            rows[f"<service>.{name}"] = rows[path]
            for service in SERVICES:
                del rows[f"{service}.{name}"]
    return rows


def test_the_readme_has_every_value_with_its_default() -> None:
    """Nobody reads values.yaml first."""
    told = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|.*\|$", README, re.MULTILINE)

    assert dict(told) == list_rows()
    assert len(told) == len(dict(told))


def test_every_example_is_named() -> None:
    """A file that nobody hears of helps nobody."""
    assert [name for name in EXAMPLES if f"(examples/{name}.yaml)" not in README] == []


def test_the_commands_for_secrets_make_what_the_chart_mounts(tmp_path: Path) -> None:
    """They are copied and run, and the first mistake in them is a pod that does not start."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    fenced = re.search(r"<!-- A test runs these commands.*?```sh\n(.*?)```", page, re.DOTALL)
    assert fenced is not None
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text('#!/bin/sh\nfor each; do echo "$each"; done >>"$0.log"\n')
    kubectl.chmod(0o755)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")

    subprocess.run(
        ["bash", "-euc", fenced[1]],
        cwd=tmp_path,
        env={"PATH": f"{kubectl.parent}:/usr/bin:/bin"},
        check=True,
        timeout=30,
    )

    made = {
        path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "secrets").iterdir()
    }
    log = (tmp_path / "bin" / "kubectl.log").read_text(encoding="utf-8").splitlines()
    literal = [line.partition("=")[2] for line in log if line.startswith("--from-literal=")]
    mounted = {
        item["key"]
        for workload in render_chart().workloads
        for volume in pod_of(workload)["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        for item in source["secret"]["items"]
    }
    values = dict(each.split("=", 1) for each in literal)
    assert mounted - made.keys() == values.keys()
    assert len(values["token-secret"]) == 40
    passwords = dict(re.findall(r'^(\w+)_PASSWORD: "(\w+)"$', made["passwords.conf"], re.MULTILINE))
    users = re.findall(r"password: \$(\w+)_PASSWORD", (ROOT / "deploy/nats/users.conf").read_text())
    assert sorted(passwords) == sorted(users)
    assert {made[f"nats_{user.lower()}_password"] for user in users} == set(passwords.values())
    assert len(set(passwords.values())) == len(users)
    assert made["tenants.conf"] == (ROOT / "deploy/nats/tenants.conf").read_text(encoding="utf-8")


def test_figures_of_the_guide_are_those_of_the_code() -> None:
    """Load balancers are set by these."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    manifests = render_chart({"translator": {"enabled": True}})
    graces = {
        service: pod_of(manifests.get("Deployment", f"-{service}"))["terminationGracePeriodSeconds"]
        for service in SERVICES
    }

    assert [f"| {name} | {seconds} s |" in page for name, seconds in graces.items()] == [True] * 4
    assert f"{MESSAGE_BYTES_MAX >> 20} MiB" in page
    assert f"for {RESUME_S:.0f} s" in page
