"""Kotoba's errors in every shape they have, read into words of its own table. Pure.

Nothing else of what a server writes there is kept: it may quote speech, and errors reach logs.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

__all__ = ["Failure", "read_error_body", "read_failure"]

KINDS: Final = frozenset({"invalid_request_error", "limitation", "server_error"})
CODES: Final = (
    "invalid_url",
    "invalid_api_key",
    "invalid_json",
    "invalid_event",
    "invalid_parameters",
    "session_expired",
    "timeout_error",
    "rate_limit_error",
    "internal_error",
)
"""The vendor's table (providers.md 1.8)."""
_BY_STATUS: Final[Mapping[int, str]] = {
    401: "invalid_api_key",
    403: "invalid_api_key",
    404: "invalid_url",
    429: "rate_limit_error",
    500: "internal_error",
    504: "internal_error",
}
"""Codes by the HTTP statuses of the same table: some servers put those in their place."""
_CAPACITY: Final = (
    "no available batch slot",
    "init_success not received",
    "worker_unavailable",
    "try again later",
)
"""Texts seen when there is no room (providers.md 1.8)."""
DEPTH_MAX: Final = 2
"""An HTTP body holds the object in `error`; an event may hold such a body there, too."""

_decoder: Final = msgspec.json.Decoder(dict[str, Any])


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An error event or body; the session is over."""

    kind: str = ""
    """`type` of the error, of `KINDS`; empty: none of them."""
    code: str = ""
    """Of `CODES`; empty: none of them."""
    is_capacity: bool = False
    """Its text speaks of room that there is not."""


def read_failure(event: Mapping[str, Any]) -> Failure:
    """Read an error that is an object, a string, or fields of the event (providers.md 1.1)."""
    fields: Mapping[str, Any] = event
    inner: Any = event.get("error")
    for _ in range(DEPTH_MAX):
        if not isinstance(inner, dict):
            break
        fields = cast(dict[str, Any], inner)
        inner = fields.get("error")
    message = inner if isinstance(inner, str) else fields.get("message")
    text = message.lower() if isinstance(message, str) else ""
    kind, code = fields.get("type"), fields.get("code")
    return Failure(
        kind=kind if isinstance(kind, str) and kind in KINDS else "",
        code=_read_code(code) or _read_code(kind) or _find_code(text),
        is_capacity=any(words in f"{code} {text}".lower() for words in _CAPACITY),
    )


def read_error_body(body: bytes) -> Failure:
    """Read the body of an HTTP refusal; one that is not Kotoba's says nothing."""
    try:
        return read_failure(_decoder.decode(body))
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return Failure()


def _read_code(value: object) -> str:
    if isinstance(value, str) and value in CODES:
        return value
    return next((code for status, code in _BY_STATUS.items() if value in (status, str(status))), "")


def _find_code(text: str) -> str:
    return next((code for code in CODES if code in text), "")
