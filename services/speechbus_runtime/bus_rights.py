"""Readiness is lost with a right that NATS denies, and with a user that it does not let in."""

from typing import Final

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.health import Health

__all__ = ["follow_rights"]

PERMISSIONS: Final = "permissions"
LOGIN: Final = "login"


def follow_rights(bus: BusConnection, health: Health) -> None:
    """Set the conditions of readiness `permissions` and `login` as the server speaks.

    What is denied once is denied at each further try, and some things are tried once only: the
    condition holds again after the next connect, when all subscriptions are made anew.
    """
    # By connection: a service has two, and one may be well while the other is not.
    of_connection = f"({bus.options['name']})"
    denied: set[str] = set()

    def deny(what: str) -> None:
        if denied:
            return  # the first is told; the log has the others
        denied.add(what)
        reason = (
            f"NATS denies {what} {of_connection}: give this service's user the right (users.conf),"
            " reload the server and restart this service"
        )
        health.set_ready(PERMISSIONS, ok=False, reason=reason)

    async def back() -> None:
        if denied:
            denied.clear()
            health.set_ready(PERMISSIONS, ok=True)
        health.set_ready(LOGIN, ok=True)

    bus.on_denied(deny)
    bus.on_refused(lambda advice: health.set_ready(LOGIN, ok=False, reason=advice))
    bus.on_reconnected(back)
