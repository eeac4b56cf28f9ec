"""Sending to clients, who may go at any moment."""

from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

__all__ = ["close", "send_text"]


async def send_text(socket: WebSocket, text: str) -> None:
    """Send a message, unless the client has gone.

    That is no error here: what it sent before it went is still to be read, and its end is found
    there. An error would take that away.
    """
    if socket.application_state is WebSocketState.CONNECTED:
        # The server under us may have closed it a moment ago, for a message that is too large.
        with suppress(WebSocketDisconnect, OSError, RuntimeError):
            await socket.send({"type": "websocket.send", "text": text})


async def close(socket: WebSocket, code: int, reason: str = "") -> None:
    """Close the connection, unless it is closed."""
    with suppress(OSError, RuntimeError, WebSocketDisconnect):
        await socket.close(code, reason)
