"""The providers there are, by the name that routes and events use."""

import hashlib
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
    "Account",
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
    """What this worker may use of the cloud providers: any number of credentials of each."""

    palabra: tuple[PalabraAccount, ...] = ()
    kotoba: tuple[KotobaAccount, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Cloud providers with an account, in the order to try them."""
        return tuple(name for name in CLOUD_PROVIDERS if getattr(self, name))


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One credential at a provider; where none is needed, the one that stands for all sessions."""

    id: str
    """Names it on the bus; tells nothing about the secret."""
    sessions_max: int | None = None
    """Sessions that the whole pool may have with it at once; None: no limit is known."""
    open_protocol: Callable[[SessionRequest], ProviderProtocol]


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker knows about a provider before a session exists."""

    capabilities: Capabilities
    accounts: tuple[Account, ...]
    """At least one."""
    endpoint: str | None = None
    """Names the address that all workers share; None: it is part of this worker."""


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
            return Provider(
                capabilities=echo.CAPABILITIES,
                accounts=(Account(id="echo", open_protocol=echo.EchoProtocol),),
            )
        case "local":
            return Provider(
                capabilities=local.CAPABILITIES,
                accounts=(Account(id="local", open_protocol=local.LocalProtocol),),
            )
        case "palabra" if accounts.palabra:
            return Provider(
                capabilities=palabra.CAPABILITIES,
                accounts=tuple(
                    Account(
                        id=_digest(name, account.stt_url, account.api_key or account.client_id),
                        sessions_max=account.sessions_max,
                        open_protocol=partial(palabra.PalabraProtocol, account=account),
                    )
                    for account in accounts.palabra
                ),
                endpoint=_digest(name, accounts.palabra[0].stt_url),
            )
        case "kotoba" if accounts.kotoba:
            return Provider(
                capabilities=kotoba.CAPABILITIES,
                accounts=tuple(
                    Account(
                        id=_digest(name, account.url, account.api_key),
                        sessions_max=account.sessions_max,
                        open_protocol=partial(
                            kotoba.KotobaProtocol, account=account, wishes=kotoba.KotobaWishes()
                        ),
                    )
                    for account in accounts.kotoba
                ),
                endpoint=_digest(name, accounts.kotoba[0].url),
            )
        case _:
            raise KeyError(name)


def _digest(name: str, *parts: str) -> str:
    return f"{name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


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
