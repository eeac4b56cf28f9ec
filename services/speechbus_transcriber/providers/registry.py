"""The providers there are, by the name that routes and events use."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from speechbus_transcriber.providers import echo, local
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ProviderProtocol,
    SessionRequest,
)

__all__ = ["PROVIDERS", "Provider", "default_route", "plan_route"]


class Provider(msgspec.Struct, frozen=True):
    """What a worker knows about a provider before a session exists."""

    capabilities: Capabilities
    open_protocol: Callable[[SessionRequest], ProviderProtocol]


PROVIDERS: Final[Mapping[str, Provider]] = {
    "echo": Provider(echo.CAPABILITIES, echo.EchoProtocol),
    "local": Provider(local.CAPABILITIES, local.LocalProtocol),
}


def default_route(available: Sequence[str]) -> Sequence[str]:
    """Return what streams that name no provider get: never `echo`, unless there is nothing else."""
    return [name for name in available if name != "echo"] or available


def plan_route(
    wanted: Iterable[str], *, available: Sequence[str], language: str | None
) -> list[str]:
    """Return the providers to try, in order.

    Args:
        wanted: names in the order to try; unknown ones are skipped.
        available: what this worker has.
        language: BCP 47 tag of the speech; None: unknown, which every provider takes.
    """
    primary = language.partition("-")[0].lower() if language else None
    route: list[str] = []
    for name in wanted:
        if name in available and name not in route:
            languages = PROVIDERS[name].capabilities.languages
            if primary is None or languages is None or primary in languages:
                route.append(name)
    return route
