"""Where clients put their key."""

import base64
import binascii

import msgspec
from starlette.requests import HTTPConnection

__all__ = ["RealtimeCredential", "find_credential", "find_realtime_credential"]

_SUBPROTOCOLS = ("kotoba-insecure-api-key.", "openai-insecure-api-key.")


class RealtimeCredential(msgspec.Struct, frozen=True):
    """What a client of Kotoba's address shows."""

    value: str
    is_browser: bool
    """It came as a subprotocol: such a client cannot read HTTP statuses."""


def find_credential(connection: HTTPConnection) -> str | None:
    """Return the key of `Authorization: Bearer KEY` or of `?token=KEY`; None: neither is there."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return connection.query_params.get("token")


def find_realtime_credential(connection: HTTPConnection) -> RealtimeCredential | None:
    """Return the key or client secret; None: there is none.

    `Authorization` with `Bearer`, `Key` (as at fal.ai) or `Basic` (the key is the user), or a
    subprotocol, where browsers can put one (providers.md 1.2).
    """
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    value = value.strip()
    match scheme.lower():
        case "bearer" | "key" if value:
            return RealtimeCredential(value, is_browser=False)
        case "basic" if user := _read_user(value):
            return RealtimeCredential(user, is_browser=False)
        case _:
            pass
    for name in connection.scope.get("subprotocols", ()):
        for prefix in _SUBPROTOCOLS:
            if name.startswith(prefix):
                return RealtimeCredential(name.removeprefix(prefix), is_browser=True)
    return None


def _read_user(value: str) -> str:
    try:
        return base64.b64decode(value).decode().partition(":")[0]
    except (binascii.Error, ValueError):
        return ""
