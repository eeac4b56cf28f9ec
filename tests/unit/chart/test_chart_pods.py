"""The pods of the chart: least privilege, settings that services know, time to drain."""

import re
from pathlib import Path
from typing import Any

import certifi
import pytest
from msgspec import structs

from speechbus_contracts import AUDIO_BYTES_MAX, AUDIO_MAX_AGE_S
from speechbus_correlator.captions import STORE_WITHIN_S
from speechbus_ingest.service import STOP_MARGIN_S as INGEST_MARGIN_S
from speechbus_runtime.lifecycle import CANCEL_WITHIN_S, CLOSE_WITHIN_S
from speechbus_runtime.pull_service import STOP_MARGIN_S as PULL_MARGIN_S
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_transcriber.service import STOP_MARGIN_S as TRANSCRIBER_MARGIN_S
from speechbus_translator.translator import HANDLE_WITHIN_S
from tests.support.chart import (
    EXAMPLES,
    Manifests,
    Object,
    pod_of,
    read_example,
    read_values,
    render_chart,
    variables_of,
)
from tests.support.chart_schema import COMPONENTS

SETS = ("default", *EXAMPLES)
PAGE = Path(__file__).parents[3] / "docs" / "kubernetes.md"
SECRETS_FOLDER = "/run/secrets/speechbus"
SECRET_TEXTS = {
    "api-keys": "tenant:a-key",
    "ca.crt": Path(certifi.where()).read_text(encoding="utf-8").split("\n\n", 2)[1],
}
BUSY_NODE_S = 5.0
"""The least that a grace period has beyond what the process itself allows."""


def component_of(workload: Object) -> str:
    component: str = workload["metadata"]["labels"]["app.kubernetes.io/component"]
    return component


@pytest.mark.parametrize("name", SETS)
def test_pods_have_no_more_rights_than_a_locked_room(name: str) -> None:
    """Namespaces that enforce `restricted` admit them, and more is closed than it asks."""
    for workload in render_chart(read_example(name)).workloads:
        pod = pod_of(workload)
        (container,) = pod["containers"]

        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        # A process of its own reaps orphans: ours is not the pod's first.
        assert pod.get("shareProcessNamespace", False) is (workload["kind"] == "Deployment")
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert "memory" in container["resources"]["limits"]
        # Only /tmp can be written, and no more of it than a node can spare.
        writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
        assert writable == ["/tmp"]
        assert pod["volumes"][0] == {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}


@pytest.mark.parametrize("name", SETS)
def test_no_secret_is_rendered(name: str) -> None:
    """Secrets come from where secrets are kept."""
    assert render_chart(read_example(name)).of("Secret") == []


def list_secret_keys(manifests: Manifests) -> set[tuple[str, str]]:
    """Every key of a Secret that a pod refers to."""
    found: set[tuple[str, str]] = set()
    for workload in manifests.workloads:
        pod = pod_of(workload)
        for volume in pod["volumes"]:
            for source in volume.get("projected", {}).get("sources", ()):
                secret = source["secret"]
                found |= {(secret["name"], item["key"]) for item in secret["items"]}
        for each in pod["containers"][0].get("env", ()):
            if reference := each.get("valueFrom", {}).get("secretKeyRef"):
                found.add((reference["name"], reference["key"]))
    return found


def test_every_key_of_a_secret_is_documented() -> None:
    """A pod whose key is missing stays in ContainerCreating."""
    text = PAGE.read_text(encoding="utf-8")
    keys = {key for name in SETS for _, key in list_secret_keys(render_chart(read_example(name)))}

    assert len(keys) > 10
    assert sorted(key for key in keys if f"`{key}`" not in text) == []


def test_each_service_gets_its_own_secrets_only() -> None:
    """Who breaks into one has the credentials of one."""
    manifests = render_chart(read_example("everything"))

    def keys(component: str, kind: str = "Deployment") -> set[str]:
        (workload,) = (e for e in manifests.of(kind) if component_of(e) == component)
        alone = Manifests({"NOTES.txt": ""})
        alone.objects = [workload]
        return {key for _, key in list_secret_keys(alone)} - {"otlp-headers"}

    assert keys("ingest") == {
        *("nats_ingest_password", "api-keys", "token-secret", "token-secret-former"),
    }
    assert keys("transcriber") == {
        "nats_transcriber_password",
        "palabra-api-key",
        "kotoba-api-key",
    }
    assert keys("correlator") == {"nats_correlator_password"}
    assert keys("translator") == {"nats_translator_password", "libretranslate-api-key"}
    assert keys("bootstrap", "Job") == {"nats_bootstrap_password"}


def read_variables(
    workload: Object, manifests: Manifests, folder: Path
) -> tuple[str, dict[str, str]]:
    """Put a file into `folder` for each key of a Secret; return component and environment."""
    variables = variables_of(workload, manifests)
    for volume in pod_of(workload)["volumes"]:
        for source in volume.get("projected", {}).get("sources", ()):
            for item in source["secret"]["items"]:
                value = SECRET_TEXTS.get(item["key"], "s" * 40)
                (folder / item["path"]).write_text(value, encoding="utf-8")
    return component_of(workload), {
        name: value.replace(SECRETS_FOLDER, str(folder)) for name, value in variables.items()
    }


@pytest.mark.parametrize("name", SETS)
def test_services_accept_every_variable(name: str, tmp_path: Path) -> None:
    """They refuse to start with one that they do not know, or cannot read."""
    manifests = render_chart(read_example(name))
    seen: list[str] = []
    for workload in manifests.workloads:
        component, variables = read_variables(workload, manifests, tmp_path)
        kind, prefix = COMPONENTS[component]
        settings = read_settings(kind, prefix=prefix, environ=variables)
        seen.append(component)

        others = [
            v for v in variables if not v.startswith((prefix, "PALABRA_", "KOTOBA_", "OTEL_"))
        ]
        assert set(others) <= {"SSL_CERT_FILE"}
        assert getattr(settings, "nats_url", "").startswith(("nats://", "tls://"))
    assert set(seen) >= {"ingest", "transcriber", "correlator", "bootstrap"}


def test_a_variable_that_no_service_knows_would_be_found(tmp_path: Path) -> None:
    """The check above rests on the services' own refusal."""
    manifests = render_chart()
    _, variables = read_variables(manifests.get("Deployment", "-ingest"), manifests, tmp_path)
    kind, prefix = COMPONENTS["ingest"]

    with pytest.raises(SettingsError, match="SPEECHBUS_INGEST_DRAIN is not a setting"):
        read_settings(kind, prefix=prefix, environ={**variables, f"{prefix}DRAIN": "1"})


def grace_s(manifests: Manifests, component: str) -> int:
    grace: int = pod_of(manifests.get("Deployment", f"-{component}"))[
        "terminationGracePeriodSeconds"
    ]
    return grace


@pytest.mark.parametrize("drain_s", [None, 0, 2.5, 10, 45.5, 600])
@pytest.mark.parametrize("sleep_s", [0, 5, 30])
def test_kubernetes_waits_longer_than_a_drain_takes(drain_s: float | None, sleep_s: int) -> None:
    """A pod that is killed in its drain may take accepted audio along."""
    settings = {} if drain_s is None else {"DRAIN_S": drain_s}
    values: dict[str, Any] = {
        "ingest": {"settings": settings, "preStopSleepSeconds": sleep_s},
        "transcriber": {"settings": settings},
        "translator": {"enabled": True},
    }
    manifests = render_chart(values)
    # After `stop_within_s` the process cancels itself, and ends where it stands soon after.
    itself_s = CANCEL_WITHIN_S + CLOSE_WITHIN_S
    own = {
        component: float(
            variables_of(manifests.get("Deployment", f"-{component}"), manifests)[
                f"SPEECHBUS_{component.upper()}_DRAIN_S"
            ]
        )
        for component in ("ingest", "transcriber")
    }
    needed = {
        "ingest": sleep_s + own["ingest"] + INGEST_MARGIN_S + itself_s,
        "transcriber": own["transcriber"] + TRANSCRIBER_MARGIN_S + itself_s,
        "correlator": STORE_WITHIN_S + PULL_MARGIN_S + itself_s,
        "translator": HANDLE_WITHIN_S + PULL_MARGIN_S + itself_s,
    }

    spare = {name: grace_s(manifests, name) - seconds for name, seconds in needed.items()}
    assert {name: s for name, s in spare.items() if not BUSY_NODE_S <= s <= BUSY_NODE_S + 2} == {}


def test_a_drain_that_is_unset_is_the_services_own() -> None:
    """`DRAIN_S: null` takes the chart's value away, and the service's default holds."""
    unset = render_chart(
        {
            "ingest": {"settings": {"DRAIN_S": None}},
            "transcriber": {"settings": {"DRAIN_S": None}},
        }
    )
    config = unset.get("ConfigMap", "-ingest")["data"]

    assert "SPEECHBUS_INGEST_DRAIN_S" not in config
    for component in ("ingest", "transcriber"):
        kind, _ = COMPONENTS[component]
        (default_s,) = (f.default for f in structs.fields(kind) if f.name == "drain_s")
        set_to_it = render_chart({component: {"settings": {"DRAIN_S": default_s}}})
        assert grace_s(unset, component) == grace_s(set_to_it, component)


@pytest.mark.parametrize("component", ["ingest", "transcriber", "correlator"])
def test_the_new_pod_is_there_before_the_old_one_ends(component: str) -> None:
    """A drain hands streams over to somebody: make before break."""
    deployment = render_chart().get("Deployment", f"-{component}")

    assert deployment["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_ingest_takes_clients_until_load_balancers_have_left_it_out() -> None:
    """SIGTERM and the removal from the endpoints are sent at the same moment."""
    (container,) = pod_of(render_chart().get("Deployment", "-ingest"))["containers"]

    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}


def test_a_scaled_deployment_names_no_replicas() -> None:
    """Each `helm upgrade` would set the number back, and end pods."""
    manifests = render_chart(read_example("everything"))

    assert {
        component_of(each): each["spec"].get("replicas") for each in manifests.of("Deployment")
    } == {"ingest": None, "transcriber": None, "correlator": 2, "translator": 2}


def read_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"Mi": 20, "Gi": 30}[unit]


def test_memory_suffices_for_what_is_configured() -> None:
    """As docs/kubernetes.md, "Sizing", says; a pod beyond its limit is killed without a drain."""
    values = read_values()
    limits = {
        name: read_bytes(values[name]["resources"]["limits"]["memory"])
        for name in ("ingest", "transcriber")
    }
    nats = values["nats"]
    memory_store = read_bytes(nats["config"]["jetstream"]["memoryStore"]["maxSize"])
    nats_limit = read_bytes(nats["container"]["merge"]["resources"]["limits"]["memory"])
    go_limit = read_bytes(nats["container"]["env"]["GOMEMLIMIT"].removesuffix("B"))
    second = 32_000  # 16 kHz, 16 bit

    # STREAMS_MAX streams with 20 s not covered each, and DECODERS_MAX decoders.
    assert limits["ingest"] > 60e6 + 1_000 * 20 * second + 200 * 6e6 + 40e6
    # 100 streams at cloud providers; the soak's worker had 541 MB at most with 100 streams.
    assert limits["transcriber"] > 541e6 * 1.5
    assert values["bus"]["shards"] * AUDIO_BYTES_MAX <= memory_store
    assert memory_store < go_limit < nats_limit
    # targetStreams of all pods of the HPA's ingest fit into what NATS keeps of audio.
    assert 1_000 * AUDIO_MAX_AGE_S * second < memory_store
