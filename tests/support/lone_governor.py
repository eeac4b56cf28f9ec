"""A governor of one worker, in tests of what lies around it: no limits, no pool."""

from collections.abc import Callable, Mapping

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.publisher import AckedPublisher
from speechbus_transcriber.driver import Connections
from speechbus_transcriber.governor.governor import Governor
from speechbus_transcriber.providers.interface import (
    Capabilities,
    ProviderProtocol,
    SessionRequest,
)
from speechbus_transcriber.providers.registry import Account, Provider

__all__ = ["build_governor", "build_provider"]


def build_provider(
    capabilities: Capabilities,
    open_protocol: Callable[[SessionRequest], ProviderProtocol],
    *,
    name: str = "echo",
) -> Provider:
    """Return a provider with one account."""
    account = Account(id=name, open_protocol=open_protocol)
    return Provider(capabilities=capabilities, accounts=(account,))


def build_governor(
    bus: BusConnection, connections: Connections, providers: Mapping[str, Provider]
) -> Governor:
    """Return one whose tasks do not run."""
    return Governor(
        bus,
        AckedPublisher(bus),
        connections,
        providers,
        worker_id="w1",
        without_slot="next",
        now_ms=lambda: 0,
    )
