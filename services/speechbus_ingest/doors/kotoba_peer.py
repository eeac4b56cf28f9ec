"""The client at the other end of a connection at Kotoba's address: its messages in and out."""

import asyncio
from contextlib import suppress
from typing import Final, Literal

from starlette.websockets import WebSocket

from speechbus_ingest.doors.kotoba_answers import name_events
from speechbus_ingest.doors.sending import close, send_text
from speechbus_wire.kotoba import RequestError, Told, encode_error, encode_error_body
from speechbus_wire.kotoba_door import DoorMessage, decode_door_message
from speechbus_wire.kotoba_openai import OpenAIMessage, encode_event, encode_session_event
from speechbus_wire.kotoba_sessions import Asked, Dialect

__all__ = ["FatalError", "GoneError", "Peer", "over_limit"]

GOODBYE_S: Final = 2.0
"""A client that does not read gets neither its error nor a close."""

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
POLICY: Final = 1008
INTERNAL: Final = 1011
TRY_LATER: Final = 1013


class FatalError(Exception):
    """The client gets an error event, then the connection is closed."""

    def __init__(
        self, code: str, message: str, close_code: int = POLICY, *, param: str | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.close_code = close_code
        self.param = param

    @classmethod
    def of(cls, error: RequestError) -> "FatalError":
        """What a wrong message means in Kotoba's dialect."""
        return cls(error.code, str(error), param=error.param)


class GoneError(Exception):
    """The client's side of the connection has ended.

    Attributes:
        reason: that its stream ends for.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def over_limit() -> FatalError:
    """No room for another session."""
    return FatalError(
        "rate_limit_error", "Too many sessions: end another one, or try again later.", TRY_LATER
    )


class Peer:
    """One client.

    Args:
        socket: accepted.
        dialect: in which it introduced itself; follows its settings.
        session_id: names the connection and its events.
        is_fal: it came by fal's address.
    """

    def __init__(
        self, socket: WebSocket, *, dialect: Dialect, session_id: str, is_fal: bool
    ) -> None:
        self.dialect: Dialect = dialect
        self.settings = b"{}"
        """JSON of its settings so far."""
        self.name_event = name_events(session_id)
        self._socket = socket
        self._session_id = session_id
        self._is_fal = is_fal

    async def read(self) -> DoorMessage:
        """Return its next message.

        Raises:
            RequestError: it is wrong.
            GoneError: the client has closed.
        """
        text = await self._receive()
        if text is None:
            raise RequestError("invalid_json", "Messages are text.")
        return decode_door_message(text, self.dialect, self.settings, is_fal=self._is_fal)

    async def ignore(self) -> None:
        """Read and forget a message.

        Raises:
            GoneError: the client has closed.
        """
        await self._receive()

    async def tell(self, message: Told | OpenAIMessage) -> None:
        """Send a message."""
        await self._send(encode_event(message))

    async def tell_session(self, kind: Literal["created", "updated"], asked: Asked) -> None:
        """Send `created` or `updated`."""
        name = self.name_event("tc" if kind == "created" else "tu")
        await self._send(
            encode_session_event(kind, asked, event_id=name, session_id=self._session_id)
        )

    async def forgive(self, error: RequestError) -> None:
        """Tell an OpenAI client what is wrong and go on.

        Raises:
            RequestError: it is Kotoba's, who take every error for the end.
        """
        if self.dialect == "kotoba":
            raise error
        await self._send_error(FatalError.of(error))

    async def close(self, error: FatalError | None) -> None:
        """Close the connection, and say why if it is for an error."""
        with suppress(TimeoutError):  # it may read nothing
            async with asyncio.timeout(GOODBYE_S):
                if error is not None:
                    await self._send_error(error)
                await close(self._socket, NORMAL if error is None else error.close_code)

    async def _receive(self) -> str | None:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            is_farewell = message.get("code") in {NORMAL, GOING_AWAY}
            raise GoneError("end" if is_farewell else "client_gone")
        text: str | None = message.get("text")
        return text

    async def _send_error(self, error: FatalError) -> None:
        body = encode_error_body(error.code, error.message, param=error.param)
        await self._send(encode_error(body["error"], event_id=self.name_event("er")))

    async def _send(self, text: str) -> None:
        await send_text(self._socket, text)
