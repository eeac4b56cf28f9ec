"""Where a client is: behind proxies that are trusted, what they say of it. Pure."""

import ipaddress
from collections.abc import Iterable
from typing import Final

__all__ = ["Proxies", "UnknownNetworkError", "find_site"]

SITE_BITS: Final = 64
"""Of an IPv6 address: what one line is given. Its owner has all 2**64 addresses behind."""
HOPS_MAX: Final = 16
"""Of a list of forwarders; a longer one was made up."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Headers = Iterable[tuple[bytes, bytes]]


class UnknownNetworkError(ValueError):
    """No address and no network."""


class Proxies:
    """The proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.

    Args:
        networks: `10.0.0.0/8`, `192.0.2.7`, `fd00::/8`, …

    Raises:
        UnknownNetworkError: one of them is none; the text says which place it has in the list.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [_parse_network(number, text) for number, text in enumerate(networks, 1)]

    def find_client(self, peer: str, headers: _Headers) -> str:
        """Return the client's address.

        Read from the right, since each proxy appends who it was called by: the first that is no
        trusted proxy is the client, and what stands left of it may be invented.

        Args:
            peer: who holds the other end of the connection.
            headers: names in lower case.
        """
        if not self._trusts(peer):
            return peer
        client = peer
        for hop in _read_list(headers, b"x-forwarded-for")[: -HOPS_MAX - 1 : -1]:
            address = _strip_port(hop)
            if _parse_address(address) is None:
                break
            client = address
            if not self._trusts(address):
                break
        return client

    def is_secure(self, peer: str, headers: _Headers) -> bool:
        """Tell whether a trusted proxy says that its client uses TLS."""
        if not self._trusts(peer):
            return False
        schemes = _read_list(headers, b"x-forwarded-proto")
        return bool(schemes) and schemes[-1].lower() in {"https", "wss"}

    def _trusts(self, text: str) -> bool:
        if not self._networks:
            return False
        address = _parse_address(text)
        return address is not None and any(address in network for network in self._networks)


def find_site(address: str) -> str:
    """Return what stands for all addresses that whoever has this one can take at will."""
    parsed = _parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Address(int(parsed) >> SITE_BITS << SITE_BITS))
    return address if parsed is None else str(parsed)


def _parse_network(number: int, text: str) -> _Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UnknownNetworkError(f"entry {number} is no address and no network") from None


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A socket that takes both kinds shows IPv4 clients this way.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _read_list(headers: _Headers, wanted: bytes) -> list[str]:
    values = [value for name, value in headers if name == wanted]
    return [part.strip() for part in b",".join(values).decode("latin-1").split(",") if part.strip()]


def _strip_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
