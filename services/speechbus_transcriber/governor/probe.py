"""A handshake with a provider, and nothing more: no audio goes out for it."""

import asyncio
from collections.abc import Callable
from typing import Final

from speechbus_transcriber.driver import Connections, SessionDriver
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ProviderError,
    ProviderProtocol,
    ProviderRateLimitedError,
    ProviderRejectedError,
    Result,
    SessionRequest,
)

__all__ = ["PATIENCE_S", "try_handshake"]

PATIENCE_S: Final = 3.0
"""A handshake waits so long for a slot: with the opening's time-out it ends before `PROBE_S`."""
STANDS_S: Final = 0.25
"""A session that stands so long was accepted: refusals in words come right after the upgrade."""
SAMPLE_RATE_HZ: Final = 16_000


async def try_handshake(
    open_protocol: Callable[[SessionRequest], ProviderProtocol],
    capabilities: Capabilities,
    connections: Connections,
    *,
    on_gone: Callable[[], None],
) -> bool:
    """Open a session and close it; return whether the provider accepts sessions.

    One that has no room, or does not want this request, is not dead.

    Args:
        open_protocol: of the credential to use.
        capabilities: of the provider.
        connections: how to reach it.
        on_gone: called when the connection has ended.
    """
    rate_hz = (capabilities.sample_rates_hz or (SAMPLE_RATE_HZ,))[0]
    language = capabilities.languages[0] if capabilities.languages else None
    failed: asyncio.Future[ProviderError] = asyncio.get_running_loop().create_future()

    def fail(error: ProviderError) -> None:
        if not failed.done():
            failed.set_result(error)

    driver = SessionDriver(
        open_protocol(SessionRequest(sample_rate_hz=rate_hz, language=language)),
        connections,
        sample_rate_hz=rate_hz,
        provider_rate_hz=rate_hz,
        pace=None,
        deaf_after_s=None,
        on_results=_ignore,
        on_failed=fail,
        on_room=_ignore,
        on_gone=on_gone,
    )
    try:
        await driver.open()
        async with asyncio.timeout(STANDS_S):
            raise await failed
    except (TimeoutError, ProviderRateLimitedError, ProviderRejectedError):
        return True
    except ProviderError:
        return False
    finally:
        driver.close()


def _ignore(_results: list[Result] | None = None) -> None:
    pass
