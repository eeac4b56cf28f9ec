"""Who may talk to whom: the chart's NetworkPolicies against what the architecture needs."""

from collections.abc import Iterator

import pytest

from tests.support.chart import Manifests, pod_of, read_example, render_chart
from tests.support.cluster_network import Place, is_allowed

PROVIDER = Place(address="203.0.113.7")
PROVIDER_6 = Place(address="2001:db8::7")
METADATA = Place(address="169.254.169.254")
PRIVATE = Place(address="10.1.2.3")
DNS = Place(namespace="kube-system", labels={"k8s-app": "kube-dns"})
PORTS = (53, 443, 3128, 4222, 4318, 5000, 6222, 8080, 8081, 8082, 8083, 8084, 8222)


def find_places(manifests: Manifests) -> dict[str, Place]:
    """All pods of the release, those of NATS' own chart included, and the world around them."""
    own = {
        workload["metadata"]["labels"]["app.kubernetes.io/component"]: Place(
            labels=workload["spec"]["template"]["metadata"]["labels"],
            ports={
                each["name"]: each["containerPort"]
                for each in pod_of(workload)["containers"][0].get("ports", ())
            },
        )
        for workload in manifests.workloads
    }
    return {
        **own,
        "nats": Place(
            # Labels that NATS' own chart gives ("nats.labels"), read in its release 2.14.2.
            labels={
                "app.kubernetes.io/name": "nats",
                "app.kubernetes.io/instance": "speech",
                "app.kubernetes.io/component": "nats",
            }
        ),
        "stranger": Place(labels={"app": "other"}),
        "ingress-nginx": Place(namespace="ingress-nginx"),
        "prometheus": Place(namespace="monitoring"),
        "keda": Place(namespace="keda"),
        "subscriber": Place(namespace="subscribers"),
        "libretranslate": Place(namespace="translation"),
        "collector": Place(namespace="observability"),
        "dns": DNS,
        "provider": PROVIDER,
        "provider over IPv6": PROVIDER_6,
        "metadata server": METADATA,
        "private network": PRIVATE,
    }


def find_flows(manifests: Manifests) -> Iterator[tuple[str, str, int]]:
    """Every connection that is let through and has an end in this release."""
    places = find_places(manifests)
    ours = {
        each["metadata"]["labels"]["app.kubernetes.io/component"] for each in manifests.workloads
    }
    ours.add("nats")
    policies = manifests.of("NetworkPolicy")
    for source, here in places.items():
        for target, there in places.items():
            if source == target != "nats" or not {source, target} & ours:
                continue
            for port in PORTS:
                if is_allowed(policies, here, there, port):
                    yield source, target, port


def test_by_default_only_what_is_needed_is_let_through() -> None:
    """Clients reach the doors, services reach NATS and DNS; that is all without a provider."""
    services = ["ingest", "transcriber", "correlator", "bootstrap"]
    outside = [name for name in find_places(render_chart()) if name not in {*services, "nats"}]

    assert sorted(find_flows(render_chart())) == sorted(
        [
            *((service, "nats", 4222) for service in services),
            *((each, "dns", 53) for each in [*services, "nats"]),
            ("nats", "nats", 6222),
            *((each, "ingest", 8080) for each in outside),
        ]
    )


def test_with_everything_on_each_flow_has_its_own_hole() -> None:
    """A hole that is wider than its reason shows here as a flow that is not in the list."""
    services = ["ingest", "transcriber", "correlator", "translator", "bootstrap"]
    health = {"ingest": 8084, "transcriber": 8081, "correlator": 8082, "translator": 8083}

    assert sorted(find_flows(render_chart(read_example("everything")))) == sorted(
        [
            *((service, "nats", 4222) for service in services),
            *((each, "dns", 53) for each in [*services, "nats"]),
            *((service, "collector", 4318) for service in services),
            *(("prometheus", service, port) for service, port in health.items()),
            ("nats", "nats", 6222),
            ("ingress-nginx", "ingest", 8080),
            ("keda", "nats", 8222),
            ("subscriber", "nats", 4222),
            ("transcriber", "provider", 443),
            ("transcriber", "provider over IPv6", 443),
            ("translator", "libretranslate", 5000),
        ]
    )


def test_an_external_nats_is_reached_at_its_address_and_port_only() -> None:
    """Four servers' ports may differ; addresses are the operator's to name."""
    values = {
        **read_example("external-nats"),
        "bus": {"url": "nats://nats.example:4333, tls://other.example"},
        "networkPolicy": {"busTo": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]},
    }
    manifests = render_chart(values)
    policies, places = manifests.of("NetworkPolicy"), find_places(manifests)

    def reached(target: Place) -> list[int]:
        return [
            port
            for port in (4222, 4333, 443)
            if is_allowed(policies, places["correlator"], target, port)
        ]

    assert (reached(PRIVATE), reached(PROVIDER)) == ([4222, 4333], [])


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://libretranslate.example", 443),
        ("http://libretranslate.example/api", 80),
        ("http://libretranslate.example:5000/api", 5000),
    ],
)
def test_the_port_of_a_translation_server_is_that_of_its_url(url: str, port: int) -> None:
    """A rule for another port than the one that is called lets nothing through that is wanted."""
    manifests = render_chart(
        {"translator": {"enabled": True, "settings": {"LIBRETRANSLATE_URL": url}}}
    )
    translator = find_places(manifests)["translator"]

    assert [
        each
        for each in (80, 443, 5000)
        if is_allowed(manifests.of("NetworkPolicy"), translator, PROVIDER, each)
    ] == [port]


def test_dns_is_asked_over_udp_first() -> None:
    """Without UDP each look-up waits for a time-out."""
    manifests = render_chart()
    ingest = find_places(manifests)["ingest"]

    assert is_allowed(manifests.of("NetworkPolicy"), ingest, DNS, 53, "UDP")
    assert not is_allowed(manifests.of("NetworkPolicy"), ingest, PROVIDER, 53, "UDP")


def test_without_policies_everything_is_open() -> None:
    """Where something else guards the network, the chart's own can be left out."""
    manifests = render_chart({"networkPolicy": {"enabled": False}})

    assert manifests.of("NetworkPolicy") == []
    assert ("stranger", "nats", 4222) in set(find_flows(manifests))
