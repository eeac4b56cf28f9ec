"""What an error of Kotoba's means for the next try. Pure."""

from typing import Final

from speechbus_transcriber.providers.closing import status_error
from speechbus_transcriber.providers.interface import (
    HttpResponse,
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from speechbus_wire.kotoba_errors import Failure, read_error_body

__all__ = [
    "PROVIDER",
    "confused",
    "failure_error",
    "is_about_settings",
    "refusal_error",
    "unavailable",
]

PROVIDER: Final = "kotoba"

_NEVER: Final = frozenset({"invalid_api_key", "invalid_url"})
_OF_SETTINGS: Final = frozenset({"invalid_parameters", "invalid_request_error"})
_AT_FIRST: Final = _OF_SETTINGS | {"session_expired"}
"""About the settings or the credential, until these are accepted. After that a session that has
expired is worth another one, and the others are about a message of ours."""
_OUR_BUGS: Final = _OF_SETTINGS | {"invalid_event", "invalid_json"}


def failure_error(failure: Failure, *, is_open: bool) -> ProviderError:
    """Return what an `error` event means; every one ends the session (case 17).

    Args:
        failure: in words of the vendor's table, so that nothing else gets into an error.
        is_open: whether the server had accepted the session before.
    """
    name = _name(failure)
    if _is_limit(failure):
        return ProviderRateLimitedError("rate_limit_error", provider=PROVIDER)
    if name in _NEVER or (name in _AT_FIRST and not is_open):
        return ProviderRejectedError(name, provider=PROVIDER)
    if name in _OUR_BUGS:
        return confused(name)
    return unavailable(name)


def is_about_settings(failure: Failure) -> bool:
    """Whether an `error` event, if it answers the settings, says that these are not taken."""
    return _name(failure) in _OF_SETTINGS and not _is_limit(failure)


def refusal_error(response: HttpResponse) -> ProviderError:
    """Return what a refused upgrade means: the status decides, unless the body speaks of limits.

    Beyond the limit a connection "may be rejected", with what status is not said (seed).
    """
    if _is_limit(read_error_body(response.body)):
        return ProviderRateLimitedError(
            f"http_{response.status}", provider=PROVIDER, retry_after_s=response.retry_after_s
        )
    return status_error(response, provider=PROVIDER)


def confused(code: str) -> ProviderProtocolError:
    """Return the error for a message that cannot be understood."""
    return ProviderProtocolError(code, provider=PROVIDER)


def unavailable(code: str) -> ProviderUnavailableError:
    """Return the error for an answer that the server owes."""
    return ProviderUnavailableError(code, provider=PROVIDER)


def _name(failure: Failure) -> str:
    return failure.code or failure.kind or "error"


def _is_limit(failure: Failure) -> bool:
    """Whether there is no room; a time-out is a `limitation`, too, and none of those."""
    is_limitation = failure.kind == "limitation" and failure.code != "timeout_error"
    return failure.is_capacity or failure.code == "rate_limit_error" or is_limitation
