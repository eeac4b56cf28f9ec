"""Which web pages may use the doors, and by which names the server may be called. Pure."""

import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Origins", "UnknownOriginError"]

ANY: Final = "*"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class UnknownOriginError(ValueError):
    """No origin: a scheme, a host and maybe a port."""


class Origins:
    """The origins of pages whose scripts are let in.

    Args:
        allowed: `https://app.example`, …; `*`: all.

    Raises:
        UnknownOriginError: one of them is none; the text says which place it has in the list.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        allowed = list(allowed)
        self._takes_all = ANY in allowed
        self._allowed = {
            _parse_setting(number, text) for number, text in enumerate(allowed, 1) if text != ANY
        }

    def allows(self, origin: str | None, *, host: str, is_secure: bool) -> bool:
        """Tell whether a request may pass.

        Args:
            origin: the header; None: it is from no browser, which has no user to be abused.
            host: the header `Host`: pages of this very server are always let in.
            is_secure: the client used TLS.
        """
        if origin is None or self._takes_all:
            return True
        parsed = _parse(origin)
        if parsed is None:
            return False
        return parsed in self._allowed or parsed == _parse(
            f"{'https' if is_secure else 'http'}://{host}"
        )

    def may_be_called(self, host: str) -> bool:
        """Tell whether a `Host` is none that a foreign DNS could have pointed at this server.

        A page of such a name could read whatever needs no key (DNS rebinding). Addresses, names
        without a dot and hosts of allowed origins cannot be used that way.
        """
        parsed = _parse(f"http://{host}")
        if parsed is None:
            return False
        name = parsed[1]
        return (
            "." not in name
            or name.endswith(".localhost")
            or _is_address(name)
            or any(name == allowed for _, allowed, _ in self._allowed)
        )


def _parse_setting(number: int, text: str) -> tuple[str, str, int]:
    parsed = _parse(text)
    if parsed is None:
        raise UnknownOriginError(f"entry {number} is no origin, such as https://app.example")
    return parsed


def _parse(origin: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port."""
    try:
        parts = urlsplit(origin)
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not name or parts.path or parts.query:
        return None
    return parts.scheme, name, port or _DEFAULT_PORTS[parts.scheme]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
