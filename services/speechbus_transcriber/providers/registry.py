"""The providers there are, by the name that routes and events use."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from speechbus_contracts import StreamOpened
from speechbus_transcriber.providers import echo, kotoba, local, palabra
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ProviderProtocol,
    SessionRequest,
)
from speechbus_transcriber.providers.kotoba import KotobaAccount
from speechbus_transcriber.providers.palabra import PalabraAccount

__all__ = [
    "CLOUD_PROVIDERS",
    "PROVIDER_NAMES",
    "Accounts",
    "Provider",
    "build_providers",
    "default_route",
    "plan_route",
    "plan_stream",
]

CLOUD_PROVIDERS: Final = ("palabra", "kotoba")
"""Those that need an account, in the order to try them."""
PROVIDER_NAMES: Final = (*CLOUD_PROVIDERS, "local", "echo")


class Accounts(msgspec.Struct, frozen=True, kw_only=True):
    """What this worker may use of the cloud providers; None: nothing."""

    palabra: PalabraAccount | None = None
    kotoba: KotobaAccount | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Cloud providers with an account, in the order to try them."""
        return tuple(name for name in CLOUD_PROVIDERS if getattr(self, name) is not None)


class Provider(msgspec.Struct, frozen=True):
    """What a worker knows about a provider before a session exists."""

    capabilities: Capabilities
    open_protocol: Callable[[SessionRequest], ProviderProtocol]


def build_providers(
    names: Iterable[str], accounts: Accounts, *, session_limit_s: float | None = None
) -> Mapping[str, Provider]:
    """Return the named providers, in their order.

    Args:
        names: of `PROVIDER_NAMES`; cloud providers have an account.
        accounts: of this worker.
        session_limit_s: of cloud providers that name none; None: unknown.
    """
    providers = {name: _build(name, accounts) for name in names}
    for name in CLOUD_PROVIDERS:
        if name in providers and providers[name].capabilities.session_limit_s is None:
            capabilities = msgspec.structs.replace(
                providers[name].capabilities, session_limit_s=session_limit_s
            )
            providers[name] = msgspec.structs.replace(providers[name], capabilities=capabilities)
    return providers


def _build(name: str, accounts: Accounts) -> Provider:
    match name:
        case "echo":
            return Provider(echo.CAPABILITIES, echo.EchoProtocol)
        case "local":
            return Provider(local.CAPABILITIES, local.LocalProtocol)
        case "palabra" if accounts.palabra is not None:
            return Provider(
                palabra.CAPABILITIES, partial(palabra.PalabraProtocol, account=accounts.palabra)
            )
        case "kotoba" if accounts.kotoba is not None:
            return Provider(
                kotoba.CAPABILITIES,
                partial(
                    kotoba.KotobaProtocol, account=accounts.kotoba, wishes=kotoba.KotobaWishes()
                ),
            )
        case _:
            raise KeyError(name)


def plan_stream(opened: StreamOpened, available: Mapping[str, Provider]) -> list[str]:
    """Return the providers to try for a stream, in order.

    Args:
        opened: names its own route, if it has one, and its language.
        available: what this worker has.
    """
    return plan_route(
        opened.providers or default_route(tuple(available)),
        available=available,
        language=opened.language,
    )


def default_route(available: Sequence[str]) -> Sequence[str]:
    """Return what streams that name no provider get: never `echo`, unless there is nothing else."""
    return [name for name in available if name != "echo"] or available


def plan_route(
    wanted: Iterable[str], *, available: Mapping[str, Provider], language: str | None
) -> list[str]:
    """Return the providers to try, in order.

    Args:
        wanted: names in the order to try; unknown ones are skipped.
        available: what this worker has.
        language: BCP 47 tag of the speech; None: unknown, which some providers cannot take.
    """
    primary = language.partition("-")[0].lower() if language else None
    route: list[str] = []
    for name in wanted:
        if name in available and name not in route:
            capabilities = available[name].capabilities
            if primary is None:
                takes_it = not capabilities.needs_language
            else:
                takes_it = capabilities.languages is None or primary in capabilities.languages
            if takes_it:
                route.append(name)
    return route
