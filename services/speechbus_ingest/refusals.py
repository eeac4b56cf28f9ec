"""Counts what the doors refuse, whatever protocol they speak: all of them do it by HTTP status."""

from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["COUNTED", "CountingRefusals"]

COUNTED: Final = frozenset({401, 403, 429})


class CountingRefusals:
    """An application that looks at the status of each answer of another.

    Args:
        app: the other.
        count: called with 401, 403 or 429.
    """

    def __init__(self, app: ASGIApp, count: Callable[[int], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""

        async def counted(message: Message) -> None:
            status = message.get("status")  # no message has one after a WebSocket was let in
            if status in COUNTED:
                self._count(status)
            await send(message)

        await self._app(scope, receive, counted)
