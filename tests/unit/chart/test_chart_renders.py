"""The chart as Helm renders it, against the schemas of those who will read it."""

import copy
from collections import Counter

import pytest

from tests.support.chart import (
    EXAMPLES,
    KUBERNETES_VERSIONS,
    Object,
    find_schema_mistakes,
    lint_chart,
    read_example,
    render_chart,
)

SETS = ("default", *EXAMPLES)
NATS_CHART_IS_FETCHED_LATER = ["chart directory is missing these dependencies: nats"]
"""`helm dependency update` fetches it; no registry that tests reach has it."""


def count_kinds(objects: list[Object]) -> Counter[str]:
    return Counter(each["kind"] for each in objects)


@pytest.mark.parametrize("name", SETS)
def test_helm_lints_it(name: str) -> None:
    """`helm lint` is what a platform team runs first."""
    assert lint_chart(read_example(name)) == NATS_CHART_IS_FETCHED_LATER


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    """A field that is misspelt is dropped by the server without a word, and does nothing."""
    objects = render_chart(read_example(name)).objects

    mistakes = {
        f"{each['kind']} {each['metadata']['name']}": found
        for each in objects
        if (found := find_schema_mistakes(each, version))
    }
    assert (len(objects) > 10, mistakes) == (True, {})


@pytest.mark.parametrize(
    "kind", ["Deployment", "NetworkPolicy", "ScaledObject", "PodMonitor", "Ingress"]
)
def test_a_misspelt_field_is_found(kind: str) -> None:
    """The check above would be worth nothing if it passed everything."""
    wrong = copy.deepcopy(render_chart(read_example("everything")).of(kind)[0])
    wrong["spec"]["replicaz"] = 3

    (mistake,) = find_schema_mistakes(wrong, KUBERNETES_VERSIONS[-1])

    assert "replicaz" in mistake


def test_a_value_of_the_wrong_type_is_found_also_in_kedas_objects() -> None:
    """Numbers that should be texts are the usual mistake in `triggers`."""
    wrong = copy.deepcopy(render_chart(read_example("keda")).of("ScaledObject")[0])
    wrong["spec"]["triggers"][0]["metadata"]["lagThreshold"] = {"is": 10}

    assert find_schema_mistakes(wrong, KUBERNETES_VERSIONS[-1]) != []


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("default", {}),
        ("external-nats", {"ConfigMap": -1, "NetworkPolicy": 0}),
        ("three-nats", {"NetworkPolicy": 1}),
        ("hpa", {"HorizontalPodAutoscaler": 2, "PodMonitor": 1, "NetworkPolicy": 2}),
        ("keda", {"ScaledObject": 1, "PodMonitor": 1, "NetworkPolicy": 2}),
        (
            "everything",
            {
                "ConfigMap": 1,
                "Deployment": 1,
                "HorizontalPodAutoscaler": 1,
                "Ingress": 1,
                "NetworkPolicy": 3,
                "PodDisruptionBudget": 1,
                "PodMonitor": 1,
                "PrometheusRule": 1,
                "ScaledObject": 1,
            },
        ),
    ],
)
def test_what_is_there_follows_the_values(name: str, kinds: dict[str, int]) -> None:
    """Nothing appears that was not asked for: a cluster without KEDA refuses its objects."""
    default = Counter(
        {
            "ConfigMap": 5,
            "Deployment": 3,
            "Job": 1,
            "NetworkPolicy": 3,
            "PodDisruptionBudget": 3,
            "Service": 1,
            "ServiceAccount": 1,
        }
    )
    expected = Counter({kind: default[kind] + kinds.get(kind, 0) for kind in {*default, *kinds}})

    assert count_kinds(render_chart(read_example(name)).objects) == expected


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("release", ["speech", "speechbus", "r" * 53])
def test_names_are_unique_and_short_enough(name: str, release: str) -> None:
    """Labels hold names of Jobs and pods, and take 63 characters; so do names in DNS."""
    objects = render_chart(read_example(name), release=release).objects
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]

    assert len(set(names)) == len(names)
    assert [each for each in names if len(each[1]) > 63] == []


def test_large_numbers_keep_their_digits() -> None:
    """Helm holds numbers as floats and would write 4.02653184e+08, which no service reads."""
    manifests = render_chart(read_example("everything"))

    assert {
        name: manifests.get("ConfigMap", component)["data"][name]
        for component, name in [
            ("-bootstrap", "SPEECHBUS_BOOTSTRAP_AUDIO_BYTES_MAX"),
            ("-transcriber", "PALABRA_SESSIONS_MAX"),
            ("-transcriber", "SPEECHBUS_TRANSCRIBER_DRAIN_S"),
            ("-transcriber", "SPEECHBUS_TRANSCRIBER_PROVIDERS"),
        ]
    } == {
        "SPEECHBUS_BOOTSTRAP_AUDIO_BYTES_MAX": "402653184",
        "PALABRA_SESSIONS_MAX": "1000000",
        "SPEECHBUS_TRANSCRIBER_DRAIN_S": "45.5",
        "SPEECHBUS_TRANSCRIBER_PROVIDERS": "kotoba,palabra",
    }


def test_other_settings_make_other_pods_and_another_job() -> None:
    """Settings are read once, at the start; a Job cannot be changed."""
    before, after = render_chart(), render_chart({"bus": {"shards": 8}})

    def stamp(component: str) -> list[str]:
        return [
            each.get("Deployment", component)["spec"]["template"]["metadata"]["annotations"][
                "checksum/settings"
            ]
            for each in (before, after)
        ]

    assert len(set(stamp("-ingest"))) == 2
    assert len(set(stamp("-correlator"))) == 1  # it knows no shards
    assert before.of("Job")[0]["metadata"]["name"] != after.of("Job")[0]["metadata"]["name"]
