"""What the chart takes as values, and what it says to others."""

import json
from collections.abc import Iterator
from typing import Any, cast

import helm_python
import pytest

from tests.support.chart import Object, read_values, render_chart
from tests.support.chart_schema import SCHEMA_PATH, render_schema


def test_the_schema_knows_the_settings_of_the_services() -> None:
    """`make schema` writes them; the chart would refuse a setting that it has not heard of."""
    assert SCHEMA_PATH.read_text(encoding="utf-8") == render_schema()


def find_open_objects(schema: dict[str, Any], path: str) -> Iterator[str]:
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        yield path
    for key, each in {**schema.get("properties", {}), **schema.get("definitions", {})}.items():
        yield from find_open_objects(each, f"{path}.{key}")
    if isinstance(items := schema.get("items"), dict):
        yield from find_open_objects(cast("Object", items), f"{path}[]")


def test_only_what_kubernetes_and_nats_know_better_is_open() -> None:
    """Everywhere else a typing error is an error."""
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))

    assert sorted(find_open_objects(schema, "$")) == [
        "$.affinity.nodeAffinity",
        "$.affinity.podAffinity",
        "$.affinity.podAntiAffinity",
        "$.env.valueFrom",
        "$.global",
        "$.nats",
        "$.nats.config",
        "$.nats.config.cluster",
        "$.peer.namespaceSelector",
        "$.peer.podSelector",
        "$.volume",
    ]


MISTAKES: list[tuple[Object, str]] = [
    ({"replicas": 3}, "additional properties 'replicas' not allowed"),
    ({"ingest": {"replica": 3}}, "at '/ingest': additional properties 'replica' not allowed"),
    (
        {"ingest": {"settings": {"STREAM_MAX": 3}}},
        "at '/ingest/settings': additional properties 'STREAM_MAX' not allowed",
    ),
    (
        {"ingest": {"settings": {"API_KEYS": "acme:secret"}}},
        "at '/ingest/settings': additional properties 'API_KEYS' not allowed",
    ),
    (
        {"transcriber": {"settings": {"PALABRA_API_KEY": "secret"}}},
        "at '/transcriber/settings': additional properties 'PALABRA_API_KEY' not allowed",
    ),
    (
        {"transcriber": {"settings": {"SESSIONS_MAX": 0}}},
        "at '/transcriber/settings/SESSIONS_MAX': minimum: got 0, want 1",
    ),
    (
        {"transcriber": {"settings": {"WITHOUT_SLOT": "later"}}},
        "value must be one of 'next', 'wait'",
    ),
    (
        {"transcriber": {"secretKeys": ["palabra"]}},
        "'palabra-api-key', 'palabra-client-id', 'palabra-client-secret', 'kotoba-api-key'",
    ),
    (
        {"transcriber": {"autoscaling": {"kind": "hpa and keda"}}},
        "at '/transcriber/autoscaling/kind': value must be one of 'none', 'hpa', 'keda'",
    ),
    ({"ingest": {"existingSecret": ""}}, "at '/ingest/existingSecret'"),
    ({"image": {"tag": 1.0}}, "at '/image/tag': got number, want string"),
    ({"image": {"registry": "registry.example"}}, "at '/image/registry'"),
    ({"bus": {"url": "http://nats.example"}}, "at '/bus/url'"),
    ({"ingest": {"ingress": {"hosts": ["https://speech.example"]}}}, "/ingest/ingress/hosts/0"),
    ({"networkPolicy": {"doorsFrom": [{}]}}, "at '/networkPolicy/doorsFrom/0'"),
    ({"nats": {"config": {"cluster": {"replicas": 1}}}}, "at '/nats/config/cluster/replicas'"),
    ({"nats": {"enabled": False}}, "There is no NATS: set bus.url to yours"),
    ({"bus": {"url": "nats://nats.example:4222"}}, "are two NATS"),
    (
        {"bus": {"url": "nats://me:secret@nats.example"}, "nats": {"enabled": False}},
        "bus.url has a user or password",
    ),
    ({"global": {"busSecret": ""}}, "has users with passwords: set global.busSecret"),
    ({"bus": {"tls": {"clientCertificate": True}}}, "needs bus.tls.existingSecret"),
    (
        {"bootstrap": {"settings": {"REPLICAS": 3}}},
        "asks for 3 replicas of NATS' 1 server(s): set nats.config.cluster.enabled=true",
    ),
    (
        {"ingest": {"autoscaling": {"minReplicas": 11}}},
        "ingest.autoscaling.minReplicas is more than maxReplicas",
    ),
    (
        {
            "transcriber": {
                "settings": {"SESSIONS_MAX": 50},
                "autoscaling": {"kind": "hpa", "targetStreams": 50},
            }
        },
        "targetStreams (50) must be less than transcriber.settings.SESSIONS_MAX (50)",
    ),
    (
        {"ingest": {"autoscaling": {"kind": "hpa", "targetStreams": 1000}}},
        "targetStreams (1000) must be less than ingest.settings.STREAMS_MAX (1000)",
    ),
    (
        {
            "bus": {"url": "nats://nats.example:4222"},
            "nats": {"enabled": False},
            "transcriber": {"autoscaling": {"kind": "keda"}},
        },
        "set transcriber.autoscaling.keda.natsMonitoring",
    ),
    (
        {"correlator": {"settings": {"DEADLINE_S": 2.5}}, "translator": {"enabled": True}},
        "STEP_IN_S (2.5) must be less than correlator.settings.DEADLINE_S (2.5)",
    ),
    ({"transcriber": {"secretKeys": ["palabra-client-id"]}}, "come together"),
    (
        {"transcriber": {"secretKeys": ["kotoba-api-key"], "existingSecret": ""}},
        "transcriber.secretKeys needs transcriber.existingSecret",
    ),
    ({"ingest": {"ingress": {"enabled": True}}}, "needs at least one host"),
]


@pytest.mark.parametrize(("values", "message"), MISTAKES)
def test_a_mistake_is_refused_and_the_text_says_where(values: dict[str, Any], message: str) -> None:
    """Better than a pod that does not start, at three in the morning."""
    with pytest.raises(helm_python.HelmError) as refused:
        render_chart(values)

    assert message in str(refused.value)


def test_no_refusal_repeats_a_secret() -> None:
    """What a shell shows is in its history, and in CI's log."""
    for values in (
        {"ingest": {"settings": {"API_KEYS": "acme:hunter2"}}},
        {"bus": {"url": "nats://me:hunter2@nats.example"}, "nats": {"enabled": False}},
    ):
        with pytest.raises(helm_python.HelmError) as refused:
            render_chart(values)

        assert "hunter2" not in str(refused.value)


def test_the_notes_say_what_to_do_next() -> None:
    """Who has installed it reads them, and little else."""
    notes = render_chart().notes

    assert "speechbus-nats" in notes
    assert "speechbus-ingest  keys api-keys" in notes
    assert "rollout status deployment/speech-speechbus-transcriber" in notes
    assert "port-forward service/speech-speechbus-ingest 8080:8080" in notes
    assert "ATTENTION: transcriber.secretKeys is empty" in notes


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"translator": {"enabled": True}}, "the translator has no engine"),
        ({"transcriber": {"autoscaling": {"kind": "keda"}}}, "never scales the transcribers down"),
        ({"networkPolicy": {"enabled": False}}, "without NetworkPolicies"),
        (
            {"ingest": {"ingress": {"enabled": True, "hosts": ["speech.example"]}}},
            "ingest.settings.TRUSTED_PROXIES is empty",
        ),
    ],
)
def test_the_notes_warn_of_what_works_and_is_seldom_meant(
    values: dict[str, Any], warning: str
) -> None:
    """Not wrong enough to refuse."""
    assert warning in render_chart(values).notes
    assert warning not in render_chart({"transcriber": {"secretKeys": ["kotoba-api-key"]}}).notes


def test_the_defaults_name_no_secret_value() -> None:
    """Secrets exist beforehand; values end up in the release, readable by who may read it."""
    texts = json.dumps(read_values())

    assert "existingSecret" in texts
    assert not any(word in texts for word in ('"password"', '"apiKey"', '"token":'))
