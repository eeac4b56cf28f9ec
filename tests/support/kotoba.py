"""A client of Kotoba's address, bare: its messages go out and come in as they are."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import httpx
import msgspec
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support.system import Service

__all__ = ["COMMIT", "KEYS", "PATIENCE_S", "Client", "Door", "build_update"]

PATIENCE_S: Final = 30.0
"""Only a hang reaches it."""
KEYS: Final = "acme:key-of-acme,beta:key-of-beta"
"""Setting `API_KEYS` of the ingest."""
COMMIT: Final = {"type": "input_audio_buffer.commit"}


def build_update(
    *, turns: bool = False, timestamps: bool = False, **session: object
) -> dict[str, Any]:
    """Kotoba's update for numbered frames, with fields of the session on top."""
    transcription: dict[str, Any] = {"language": "en", "target_language": "en"}
    if timestamps:
        transcription["timestamps"] = True
    fields: dict[str, Any] = {
        "input_audio_sample_rate": 16_000,
        "input_audio_transcription": transcription,
        "turn_detection": {"type": "server_vad"} if turns else False,
    }
    return {"type": "transcription_session.update", "session": fields | session}


class Client:
    """One connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.told: list[dict[str, Any]] = []
        """Everything that was received."""

    async def say(self, message: object) -> None:
        """Send a message, as JSON unless it is a text."""
        text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
        await self.connection.send(text)

    async def append(self, audio: bytes, event_id: str | None = None) -> None:
        """Send audio."""
        named = {} if event_id is None else {"event_id": event_id}
        encoded = base64.b64encode(audio).decode()
        await self.say({"type": "input_audio_buffer.append", **named, "audio": encoded})

    async def hear(self) -> dict[str, Any]:
        """Return the next message."""
        async with asyncio.timeout(PATIENCE_S):
            text = await self.connection.recv()
        self.told.append(msgspec.json.decode(text, type=dict[str, Any]))
        return self.told[-1]

    async def hear_until(self, kind: str) -> dict[str, Any]:
        """Return the next message whose type ends so."""
        while not (message := await self.hear())["type"].endswith(kind):
            pass
        return message

    async def close_code(self) -> int | None:
        """Read until the server closes; return its code."""
        with suppress(websockets.ConnectionClosed):
            while True:
                await self.hear()
        return self.connection.close_code

    @property
    def types(self) -> list[str]:
        """Of everything that was received."""
        return [message["type"] for message in self.told]

    @property
    def appended(self) -> str:
        """All deltas."""
        return "".join(message["delta"] for message in self.told if "delta" in message)

    @property
    def transcripts(self) -> list[str]:
        """Of everything completed."""
        return [message["transcript"] for message in self.told if "transcript" in message]


class Door:
    """The Kotoba-compatible door of one ingest.

    Args:
        ingest: with the keys of `KEYS`.
    """

    def __init__(self, ingest: Service) -> None:
        self.ingest = ingest

    def post(
        self,
        path: str = "transcription_sessions",
        *,
        key: str = "key-of-acme",
        body: object = None,
        **headers: str,
    ) -> httpx.Response:
        """Ask for a client secret."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body or {})
        return httpx.post(
            f"{self.ingest.url}/v1/realtime/{path}",
            content=content,
            headers={"Authorization": f"Bearer {key}", **headers},
        )

    def get_secret(self, *, key: str = "key-of-acme", body: object = None) -> str:
        """Do what the seed's program does."""
        response = self.post(key=key, body=body)
        response.raise_for_status()
        return str(response.json()["client_secret"]["value"])

    @asynccontextmanager
    async def connect(
        self,
        authorization: str | None = "Bearer key-of-acme",
        *,
        subprotocols: Sequence[str] = (),
        path: str = "/v1/realtime",
        **headers: str,
    ) -> AsyncGenerator[Client, None]:
        """Open a connection."""
        if authorization is not None and not subprotocols:
            headers["Authorization"] = authorization
        async with connect(
            f"ws://127.0.0.1:{self.ingest.port}{path}",
            additional_headers=headers,
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            compression=None,
        ) as connection:
            yield Client(connection)

    @asynccontextmanager
    async def connect_browser(
        self, secret: str, vendor: str = "kotoba"
    ) -> AsyncGenerator[Client, None]:
        """Open a connection as a browser does."""
        names = ["realtime", f"{vendor}-insecure-api-key.{secret}"]
        async with self.connect(subprotocols=names) as client:
            yield client

    async def refusal(
        self,
        authorization: str | None = None,
        *,
        subprotocols: Sequence[str] = (),
        path: str = "/v1/realtime",
    ) -> tuple[int, str]:
        """Return status and code of an upgrade that is refused."""
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with self.connect(authorization, subprotocols=subprotocols, path=path):
                pass
        response = refused.value.response
        body = msgspec.json.decode(response.body or b"", type=dict[str, Any])
        return response.status_code, body["error"]["code"]
