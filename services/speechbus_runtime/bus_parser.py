"""NATS' protocol as the server speaks it, for messages too many for nats-py's own parser."""

from collections.abc import Callable
from typing import Protocol

import nats.errors

__all__ = ["DirectHandler", "DirectParser", "Receiver"]

DirectHandler = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, reply subject, payload and raw header block (empty without headers)."""


class Receiver(Protocol):
    """The connection that a parser works for."""

    direct_handlers: dict[int, DirectHandler]

    def call_direct(
        self, handler: DirectHandler, subject: bytes, reply: bytes, payload: bytes, headers: bytes
    ) -> None:
        """Take a message of a direct subscription."""
        ...

    async def process_queued(
        self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes
    ) -> None:
        """Take any other message."""
        ...

    async def process_operation(self, line: bytes) -> None:
        """Take an operation without payload."""
        ...


class DirectParser:
    """NATS protocol parser; takes the place of nats-py's regular expressions.

    Messages of direct subscriptions go straight to their handlers, everything else takes nats-py's
    way. Keeps at most one unfinished message (the server limits those to `max_payload`).
    """

    def __init__(self, bus: Receiver) -> None:
        """Parse for a connection."""
        self._bus = bus
        self._rest = b""
        self._resets = 0

    def reset(self) -> None:
        """Forget what was not complete: the connection is a new one."""
        self._rest = b""
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        """Handle every complete operation in `data`.

        Raises:
            nats.errors.ProtocolError: the server speaks something else.
        """
        buffer = self._rest + data if self._rest else data
        position = 0
        end = len(buffer)
        direct = self._bus.direct_handlers
        resets = self._resets
        while position < end:
            line_end = buffer.find(b"\r\n", position)
            if line_end < 0:
                break
            line = buffer[position:line_end]
            body = line_end + 2
            if line.startswith((b"MSG ", b"HMSG ")):
                parts = line.split()
                with_headers = line[0] == 72  # "H"
                try:
                    size = int(parts[-1])
                    sid = int(parts[2])
                    header_size = int(parts[-2]) if with_headers else 0
                except (ValueError, IndexError):
                    raise nats.errors.ProtocolError("nats: malformed MSG") from None
                after = body + size + 2
                if after > end:
                    break
                has_reply = len(parts) == (6 if with_headers else 5)
                reply = parts[3] if has_reply else b""
                headers = buffer[body : body + header_size]
                payload = buffer[body + header_size : body + size]
                position = after
                handler = direct.get(sid)
                if handler is None:
                    await self._bus.process_queued(sid, parts[1], reply, payload, headers)
                else:
                    self._bus.call_direct(handler, parts[1], reply, payload, headers)
                continue
            position = body
            await self._bus.process_operation(line)
        # An operation (`-ERR`), or a wait in one, may have ended the connection: its last bytes
        # would be read as the beginning of the next one's.
        if resets == self._resets:
            self._rest = buffer[position:] if position < end else b""
