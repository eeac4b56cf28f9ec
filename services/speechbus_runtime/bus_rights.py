"""Readiness is lost with a right that NATS denies, and with a user that it does not let in."""

from collections.abc import Sequence
from typing import Final

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.health import Health

__all__ = ["follow_rights"]

PERMISSIONS: Final = "permissions"
LOGIN: Final = "login"


def follow_rights(buses: Sequence[BusConnection], health: Health) -> None:
    """Set the conditions of readiness `permissions` and `login` as the server speaks.

    What is denied once is denied at each further try, and some things are tried once only: the
    condition holds again after the next connect, when all subscriptions are made anew.

    Args:
        buses: all connections of the service; one of them in trouble is enough.
        health: gets the conditions.
    """
    denied: dict[str, str] = {}
    refused: dict[str, str] = {}

    def tell() -> None:
        what = "; ".join(f"{what} ({name})" for name, what in denied.items())
        advice = "give this service's user the right (users.conf), reload the server, restart this"
        health.set_ready(PERMISSIONS, ok=not denied, reason=f"NATS denies {what}: {advice}")
        health.set_ready(LOGIN, ok=not refused, reason=next(iter(refused.values()), ""))

    def follow(bus: BusConnection) -> None:
        name = str(bus.options["name"])

        def deny(what: str) -> None:
            denied.setdefault(name, what)  # the first is told; the log has the others
            tell()

        def refuse(advice: str) -> None:
            refused[name] = advice
            tell()

        async def back() -> None:
            denied.pop(name, None)
            refused.pop(name, None)
            tell()

        bus.on_denied(deny)
        bus.on_refused(refuse)
        bus.on_reconnected(back)

    for bus in buses:
        follow(bus)
