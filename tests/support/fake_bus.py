"""A bus connection without a server: records what is sent, hands in what the test says."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg

from speechbus_runtime.bus import BusConnection, DirectHandler

__all__ = ["FakeBus", "Sent"]


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One published message."""

    subject: bytes
    payload: bytes
    reply: bytes = b""
    headers: bytes = b""


class FakeBus(BusConnection):
    """Stands in for a connection; `is_away` makes it behave like a lost one."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.is_stalled = False
        """Whether NATS takes everything and gives nothing back."""
        self.sent: list[Sent] = []
        self.handlers: dict[int, tuple[str, DirectHandler]] = {}
        self.answer_request: Callable[[str], Awaitable[bytes]] | None = None
        self.requests: list[str] = []
        self.reconnected: list[Callable[[], Awaitable[None]]] = []
        self.disconnected: list[Callable[[], None]] = []
        self._next_sid = 0

    @property
    def is_connected(self) -> bool:
        """Whether the test lets it be."""
        return not self.is_away

    def new_inbox(self) -> str:
        """A subject that no other inbox of this bus has."""
        self._next_sid += 1
        return f"_INBOX.{self._next_sid}"

    def subscribe_direct(self, subject: str, handler: DirectHandler, *, queue: str = "") -> int:
        """Remember the handler for `deliver`."""
        self._next_sid += 1
        self.handlers[self._next_sid] = (subject, handler)
        return self._next_sid

    def unsubscribe_direct(self, sid: int) -> None:
        """Forget the handler."""
        self.handlers.pop(sid, None)

    def publish_nowait(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> bool:
        """Record one message."""
        if self.is_away:
            return False
        self.sent.append(Sent(subject=subject, payload=payload, reply=reply, headers=headers))
        if subject.startswith(b"_INBOX") and not self.is_stalled:
            self.deliver(subject, payload, reply=reply, headers=headers)
        return True

    def publish_parts_nowait(
        self, subject: bytes, first: bytes, second: bytes, *, reply: bytes
    ) -> bool:
        """Record one message."""
        return self.publish_nowait(subject, first + second, reply=reply)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109 - nats-py's signature
        old_style: bool = False,  # noqa: FBT001, FBT002 - nats-py's signature
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """Ask `answer_request`; without one, nobody listens."""
        del payload, old_style, headers
        self.requests.append(subject)
        if self.answer_request is None:
            raise nats.errors.NoRespondersError
        async with asyncio.timeout(timeout):
            return Msg(self, data=await self.answer_request(subject))

    def on_reconnected(self, hook: Callable[[], Awaitable[None]]) -> None:
        """Remember the hook in `reconnected`."""
        self.reconnected.append(hook)

    def on_disconnected(self, hook: Callable[[], None]) -> None:
        """Remember the hook in `disconnected`."""
        self.disconnected.append(hook)

    def deliver(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> None:
        """Hand a message to every subscription of its subject."""
        for pattern, handler in list(self.handlers.values()):
            if _matches(pattern.split("."), subject.decode().split(".")):
                handler(subject, reply, payload, headers)


def _matches(pattern: list[str], tokens: list[str]) -> bool:
    if pattern[-1] == ">":
        return len(tokens) >= len(pattern) and _matches(pattern[:-1], tokens[: len(pattern) - 1])
    return len(pattern) == len(tokens) and all(
        wanted in ("*", token) for wanted, token in zip(pattern, tokens, strict=True)
    )
