"""What NetworkPolicies let through, decided as Kubernetes does (networking.k8s.io/v1)."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network

import msgspec

from tests.support.chart import Object

__all__ = ["Place", "is_allowed"]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a connection: a pod, or an address outside of the cluster.

    Attributes:
        labels: of the pod; empty for an address.
        namespace: of the pod.
        address: outside of the cluster; empty for a pod.
        ports: of the pod's container, by name.
    """

    labels: Mapping[str, str] = {}
    namespace: str = "prod"
    address: str = ""
    ports: Mapping[str, int] = {}


def is_allowed(
    policies: Sequence[Object], source: Place, target: Place, port: int, protocol: str = "TCP"
) -> bool:
    """Tell whether `source` may open a connection: both its own side and the other must let it."""
    outward = _sides(policies, source, "Egress")
    inward = _sides(policies, target, "Ingress")
    return _lets(outward, "to", target, target, port, protocol) and _lets(
        inward, "from", source, target, port, protocol
    )


def _sides(policies: Iterable[Object], place: Place, kind: str) -> list[list[Object]] | None:
    """Return the rules of all policies that hold for a pod; None: nothing restricts it."""
    if place.address:
        return None
    holding = [
        each["spec"].get(kind.lower(), [])
        for each in policies
        if kind in each["spec"]["policyTypes"]
        and place.namespace == "prod"
        and _matches(each["spec"]["podSelector"], place.labels)
    ]
    return holding or None


def _lets(
    rules: list[list[Object]] | None,
    side: str,
    other: Place,
    target: Place,
    port: int,
    protocol: str,
) -> bool:
    if rules is None:
        return True
    return any(
        _has_port(rule.get("ports"), target, port, protocol) and _has_peer(rule.get(side), other)
        for group in rules
        for rule in group
    )


def _has_port(ports: Sequence[Object] | None, target: Place, port: int, protocol: str) -> bool:
    if not ports:
        return True
    return any(
        target.ports.get(each["port"], each["port"]) == port
        and each.get("protocol", "TCP") == protocol
        for each in ports
    )


def _has_peer(peers: Sequence[Object] | None, other: Place) -> bool:
    return not peers or any(_is_peer(each, other) for each in peers)


def _is_peer(peer: Object, other: Place) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return bool(other.address) and (
            ip_address(other.address) in ip_network(block["cidr"])
            and not any(
                ip_address(other.address) in ip_network(each) for each in block.get("except", ())
            )
        )
    if other.address:
        return False
    if "namespaceSelector" in peer:
        name = {"kubernetes.io/metadata.name": other.namespace}
        if not _matches(peer["namespaceSelector"], name):
            return False
    elif other.namespace != "prod":
        return False
    return _matches(peer.get("podSelector", {}), other.labels)


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "expressions are not needed yet"
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
