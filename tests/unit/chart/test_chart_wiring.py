"""Names that must agree: selectors and labels, ports, targets of scaling, limits of NATS."""

import re
from pathlib import Path

import pytest
import yaml

from speechbus_contracts import JOBS_CONSUMER, JOBS_STORE
from speechbus_transcriber.settings import Settings as TranscriberSettings
from speechbus_translator.settings import Settings as TranslatorSettings
from tests.support.chart import (
    CHART,
    EXAMPLES,
    Object,
    pod_of,
    read_example,
    read_values,
    render_chart,
    select,
    variables_of,
)

SETS = ("default", *EXAMPLES)
ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "deploy" / "observability" / "alerts.yaml"


def list_selectors(each: Object) -> list[dict[str, str]]:
    """Label selectors by which an object finds pods of this chart."""
    spec = each["spec"]
    match each["kind"]:
        case "Service":
            return [spec["selector"]]
        case "Deployment":
            spreads = pod_of(each).get("topologySpreadConstraints", ())
            return [
                spec["selector"]["matchLabels"],
                *(spread["labelSelector"]["matchLabels"] for spread in spreads),
            ]
        case "PodDisruptionBudget" | "PodMonitor":
            return [spec["selector"]["matchLabels"]]
        case "NetworkPolicy" if not each["metadata"]["name"].endswith("-nats"):
            return [spec["podSelector"]["matchLabels"]]
        case _:
            return []


@pytest.mark.parametrize("name", SETS)
def test_every_selector_finds_the_pods_that_it_means(name: str) -> None:
    """An empty selection is no error to Kubernetes: the budget or policy just protects nothing."""
    manifests = render_chart(read_example(name))
    missed: list[str] = []
    for each in manifests.objects:
        for selector in list_selectors(each) if "spec" in each else ():
            found = select(manifests.workloads, selector)
            component = each["metadata"]["labels"].get("app.kubernetes.io/component")
            if component is None:
                right = found == manifests.workloads
            else:
                right = [f["metadata"]["labels"]["app.kubernetes.io/component"] for f in found] == [
                    component
                ]
            if not right:
                missed.append(f"{each['kind']} {each['metadata']['name']}")

    assert missed == []


@pytest.mark.parametrize("name", SETS)
def test_ports_and_probes_are_where_the_services_listen(name: str) -> None:
    """A probe of a port that nobody listens on ends the pod again and again."""
    manifests = render_chart(read_example(name))
    for deployment in manifests.of("Deployment"):
        (container,) = pod_of(deployment)["containers"]
        variables = variables_of(deployment, manifests)
        prefix = f"SPEECHBUS_{container['name'].upper()}_"
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}

        assert str(ports["health"]) == variables[f"{prefix}HEALTH_PORT"]
        assert variables[f"{prefix}HEALTH_HOST"] == "0.0.0.0"
        assert str(ports.get("doors", "none")) == variables.get(f"{prefix}LISTEN_PORT", "none")
        assert {
            name: (container[name]["httpGet"]["path"], container[name]["httpGet"]["port"])
            for name in ("startupProbe", "livenessProbe", "readinessProbe")
        } == {
            "startupProbe": ("/healthz", "health"),
            "livenessProbe": ("/healthz", "health"),
            "readinessProbe": ("/readyz", "health"),
        }
    (service,) = manifests.of("Service")
    assert [each["targetPort"] for each in service["spec"]["ports"]] == ["doors"]


def test_ports_are_those_of_the_services_own_defaults() -> None:
    """Who knows a service from development finds it at the same port."""
    manifests = render_chart(read_example("everything"))

    def port(component: str) -> int:
        number: int = pod_of(manifests.get("Deployment", component))["containers"][0]["ports"][-1][
            "containerPort"
        ]
        return number

    assert port("-transcriber") == TranscriberSettings().health_port
    assert port("-translator") == TranslatorSettings().health_port


def test_an_ingress_leads_to_the_service() -> None:
    """By name and by the port's name."""
    manifests = render_chart(read_example("everything"))
    (ingress,) = manifests.of("Ingress")
    (service,) = manifests.of("Service")
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]

    assert backend == {"name": service["metadata"]["name"], "port": {"name": "doors"}}
    assert [each["name"] for each in service["spec"]["ports"]] == ["doors"]


@pytest.mark.parametrize("name", ["hpa", "keda", "everything"])
def test_scaling_has_a_deployment_that_leaves_its_number_alone(name: str) -> None:
    """Two owners of one number would fight."""
    manifests = render_chart(read_example(name))
    scalers = [*manifests.of("HorizontalPodAutoscaler"), *manifests.of("ScaledObject")]
    targets = [each["spec"]["scaleTargetRef"]["name"] for each in scalers]

    assert len(set(targets)) == len(targets) > 0
    for target in targets:
        (deployment,) = (e for e in manifests.of("Deployment") if e["metadata"]["name"] == target)
        assert "replicas" not in deployment["spec"]


def test_keda_asks_for_the_jobs_that_wait() -> None:
    """Store and consumer as `speechbus bootstrap` makes them, in the account that has them."""
    (scaler,) = render_chart(read_example("keda")).of("ScaledObject")
    backlog, carried = scaler["spec"]["triggers"]

    assert backlog["metadata"] == {
        # KEDA puts a pod's name before it when the consumer's leader is another server.
        "natsServerMonitoringEndpoint": "speech-nats-headless.prod:8222",
        "account": "SPEECHBUS",
        "stream": JOBS_STORE,
        "consumer": JOBS_CONSUMER,
        "lagThreshold": "10",
    }
    assert carried["metadata"] == {
        "serverAddress": "http://prometheus-operated.monitoring:9090",
        "query": 'sum(speechbus_transcriber_streams{namespace="prod"})',
        "threshold": "70",
    }


def test_scaling_down_goes_pod_by_pod_and_not_on_the_backlog_alone() -> None:
    """An empty backlog is the normal state of a pool that carries its streams."""

    def scale_down(values: Object) -> Object:
        (scaler,) = render_chart(values).of("ScaledObject")
        config = scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
        down: Object = config["behavior"]["scaleDown"]
        return down

    values = read_example("keda")
    assert scale_down(values) == {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }
    values["transcriber"]["autoscaling"]["keda"]["prometheusAddress"] = ""
    assert scale_down(values) == {"selectPolicy": "Disabled"}


def test_a_stabilization_of_zero_is_taken() -> None:
    """Zero is a value, not its absence."""
    values = read_example("hpa")
    values["transcriber"]["autoscaling"]["scaleDownStabilizationSeconds"] = 0
    scaler = render_chart(values).get("HorizontalPodAutoscaler", "-transcriber")

    assert scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 0


@pytest.mark.parametrize(
    ("release", "url"),
    [
        ("speech", "nats://speech-nats:4222"),
        ("my-nats", "nats://my-nats:4222"),
    ],
)
def test_one_nats_is_found_by_its_service(release: str, url: str) -> None:
    """As NATS' own chart names it: with the release's name alone where that says `nats` already."""
    config = render_chart(release=release).get("ConfigMap", "-ingest")["data"]

    assert config["SPEECHBUS_INGEST_NATS_URL"] == url


def test_servers_of_a_cluster_are_named_one_by_one() -> None:
    """NATS' chart has them not tell of each other, and a service must find the next one."""
    config = render_chart(read_example("three-nats")).get("ConfigMap", "-ingest")["data"]

    assert config["SPEECHBUS_INGEST_NATS_URL"] == ",".join(
        f"nats://speech-nats-{i}.speech-nats-headless:4222" for i in range(3)
    )


def test_the_nats_of_the_chart_has_the_projects_limits() -> None:
    """The services were measured with these."""
    merge = dict(read_values()["nats"]["config"]["merge"])
    del merge["zz$include"]
    text = (ROOT / "deploy" / "nats" / "speechbus.conf").read_text(encoding="utf-8")
    limits = dict(re.findall(r"^(\w+): ([^\n]+)$", text, re.MULTILINE))
    for others in ("listen", "http"):  # NATS' own chart sets them
        del limits[others]
    # As NATS' own chart has them, whose pods end by `lame duck`.
    charts_own = {name: limits.pop(name) for name in list(limits) if name.startswith("lame_duck")}

    assert len(charts_own) == 2
    assert limits.pop("authorization") == "{ timeout: 5 }"
    assert merge.pop("authorization") == {"timeout": 5}
    assert {name: str(value).strip("<> ").lower() for name, value in merge.items()} == {
        name: value.strip('"').lower() for name, value in limits.items()
    }


def test_nats_gets_its_users_by_the_name_under_which_they_are_rendered() -> None:
    """NATS' own chart fills in the release's name; a wrong one keeps its pods waiting."""
    nats = read_values()["nats"]
    volume = nats["podTemplate"]["patch"][0]["value"]
    sources = volume["projected"]["sources"]
    name = sources[0]["configMap"]["name"]["$tplYaml"].replace("{{ .Release.Name }}", "speech")
    mount = nats["container"]["patch"][0]["value"]

    assert sorted(render_chart().get("ConfigMap", name)["data"]) == ["users.conf"]
    assert sources[1]["secret"]["name"] == {"$tplYaml": "{{ .Values.global.busSecret }}"}
    assert mount == {"name": volume["name"], "mountPath": "/etc/nats-speechbus"}
    assert nats["config"]["merge"]["zz$include"] == "../nats-speechbus/users.conf"


def test_the_chart_has_the_version_of_the_project() -> None:
    """Images are tagged with it."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    assert f'version = "{chart["appVersion"]}"' in project
    assert chart["version"] == chart["appVersion"]


def test_the_alerts_are_the_projects_and_keep_their_templates() -> None:
    """Helm's own braces must not touch what Prometheus fills in."""
    (rule,) = render_chart(read_example("everything")).of("PrometheusRule")
    text = ALERTS.read_text(encoding="utf-8")

    assert rule["spec"] == yaml.safe_load(text)
    assert [each["name"] for each in rule["spec"]["groups"]] != []
    assert "{{ $labels" in str(rule["spec"])
