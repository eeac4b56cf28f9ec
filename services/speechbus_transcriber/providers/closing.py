"""What the end of a WebSocket, or the refusal of one, means for the next try. Pure."""

from typing import Final

from speechbus_transcriber.providers.interface import (
    HttpResponse,
    ProviderError,
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderUnavailableError,
)

__all__ = ["close_error", "status_error"]

_REJECTED: Final = frozenset({1008, 4000, 4001, 4003, 4400, 4401, 4403})
"""Policy violation, and what services use for 400, 401 and 403: the same again ends the same."""
_RATE_LIMITED: Final = frozenset({4029, 4429})


def close_error(code: int | None, *, provider: str) -> ProviderError:
    """Return what a close frame means that came before the session had finished.

    Palabra says nothing else (seed); its clients connect again after 1001, 1006 and 1011 and not
    after 1008 (providers.md 3.7, case 13). Unknown codes are worth another try.

    Args:
        code: of the close frame; None: the connection broke without one.
        provider: for the error.
    """
    name = "connection_lost" if code is None else f"closed_{code}"
    if code in _REJECTED:
        return ProviderRejectedError(name, provider=provider)
    if code in _RATE_LIMITED:
        return ProviderRateLimitedError(name, provider=provider)
    return ProviderUnavailableError(name, provider=provider)


def status_error(response: HttpResponse, *, provider: str) -> ProviderError:
    """Return what an HTTP status means that is no success.

    409 is Palabra's word for a session that is still active (case 11); 429 is everybody's for too
    many.
    """
    name = f"http_{response.status}"
    if response.status in {409, 429}:
        return ProviderRateLimitedError(
            name, provider=provider, retry_after_s=response.retry_after_s
        )
    if 400 <= response.status < 500 and response.status != 408:
        return ProviderRejectedError(name, provider=provider)
    return ProviderUnavailableError(name, provider=provider)
