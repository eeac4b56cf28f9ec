"""The providers there are, by the name that routes and events use."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from speechbus_transcriber.providers import echo, local
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ProviderProtocol,
    SessionRequest,
)

__all__ = ["PROVIDERS", "Provider"]


class Provider(msgspec.Struct, frozen=True):
    """What a worker knows about a provider before a session exists."""

    capabilities: Capabilities
    open_protocol: Callable[[SessionRequest], ProviderProtocol]


PROVIDERS: Final[Mapping[str, Provider]] = {
    "echo": Provider(echo.CAPABILITIES, echo.EchoProtocol),
    "local": Provider(local.CAPABILITIES, local.LocalProtocol),
}
