"""A Palabra client, as the documentation's example program and the vendor's SDKs behave."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import msgspec
import nats
import pytest
import websockets
from nats.aio.msg import Msg
from websockets.asyncio.client import ClientConnection, connect

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    SegmentFinal,
    TranslationFinal,
    WriteSubject,
    encode_event,
    parse_transcription_id,
)
from speechbus_runtime.bus import connect_bus
from speechbus_runtime.jetstream import fetch_stored
from speechbus_runtime.publisher import AckedPublisher
from tests.support.system import Service, System

__all__ = [
    "KEYS",
    "PATIENCE_S",
    "Client",
    "Door",
    "another_door",
    "events_of",
    "publish_translation",
]

PATIENCE_S: Final = 30.0
"""Only a hang reaches it."""
KEYS: Final = "acme:key-of-acme,beta:key-of-beta"
"""Setting `API_KEYS` of the ingest."""


class Client:
    """One connection of a Palabra client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, data: bytes) -> None:
        """Send audio."""
        await self.connection.send(data)

    async def say(self, message: object) -> None:
        """Send a text message, as JSON unless it is a text."""
        text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
        await self.connection.send(text)

    async def hear(self) -> dict[str, Any]:
        """Return the next message."""
        async with asyncio.timeout(PATIENCE_S):
            return msgspec.json.decode(await self.connection.recv(), type=dict[str, Any])

    async def hear_until(self, text: str) -> list[dict[str, Any]]:
        """Return the messages up to the one whose segment has this text."""
        heard = [await self.hear()]
        while heard[-1]["segment"]["text"] != text:
            heard.append(await self.hear())
        return heard

    async def close_code(self) -> int | None:
        """Read until the server closes; return its code."""
        async with asyncio.timeout(PATIENCE_S):
            with suppress(websockets.ConnectionClosed):
                while True:
                    await self.connection.recv()
        return self.connection.close_code


class Door:
    """The Palabra-compatible door of one ingest.

    Args:
        ingest: with the keys of `KEYS`.
    """

    def __init__(self, ingest: Service) -> None:
        self.ingest = ingest

    @property
    def stream_url(self) -> str:
        """Where its streams are."""
        return f"ws://127.0.0.1:{self.ingest.port}/asr/v1/speech-to-text/stream"

    def post_session(
        self, *, tenant: str = "acme", key: str = "key-of-acme", body: object = None
    ) -> httpx.Response:
        """Ask for a session."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body or {"data": {}})
        return httpx.post(
            f"{self.ingest.url}/session-storage/session",
            content=content,
            headers={"ClientId": tenant, "ClientSecret": key},
        )

    def manage(
        self,
        method: str,
        session_id: str | None = None,
        *,
        tenant: str = "acme",
        key: str | None = None,
        **query: str,
    ) -> httpx.Response:
        """Send one of the other requests of the session storage; the key is `key-of-<tenant>`."""
        place = "" if session_id is None else f"/{session_id}"
        return httpx.request(
            method,
            f"{self.ingest.url}/session-storage/sessions{place}",
            params=query,
            headers={"ClientID": tenant, "ClientSecret": key or f"key-of-{tenant}"},
        )

    def get_session(self, *, tenant: str = "acme") -> tuple[str, str]:
        """Return id and token of a new session."""
        response = self.post_session(tenant=tenant, key=f"key-of-{tenant}")
        response.raise_for_status()
        data = response.json()["data"]
        return str(data["id"]), str(data["publisher"])

    def get_token(self) -> str:
        """Do what the seed's `get_token` does."""
        response = self.post_session()
        response.raise_for_status()
        return str(response.json()["data"]["publisher"])

    @asynccontextmanager
    async def connect(
        self, token: str | None, *, bearer: str | None = None, **query: str
    ) -> AsyncGenerator[Client, None]:
        """Open a stream; `format=pcm_s16le` unless the query says otherwise."""
        parameters = {"token": token} if token is not None else {}
        parameters |= {"format": "pcm_s16le"} | query
        async with connect(
            f"{self.stream_url}?{urlencode(parameters)}",
            additional_headers={} if bearer is None else {"Authorization": f"Bearer {bearer}"},
            compression=None,
        ) as connection:
            yield Client(connection)

    async def refusal(
        self, token: str | None, *, bearer: str | None = None, **query: str
    ) -> tuple[int, str]:
        """Return status and explanation of an upgrade that is refused."""
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with self.connect(token, bearer=bearer, **query):
                pass
        response = refused.value.response
        body = msgspec.json.decode(response.body or b"", type=dict[str, Any])
        (error,) = body["errors"]
        assert (body["ok"], error["status"]) == (False, response.status_code)
        return response.status_code, error["detail"]

    async def wait_until_free(self, token: str) -> None:
        """Return when a token's identity can connect again."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(websockets.InvalidStatus):
                    async with self.connect(token):
                        return


@contextmanager
def another_door(system: System, **settings: str) -> Generator[Door, None, None]:
    """One more ingest, for a test of its own."""
    ingest = system.add_service("ingest", **settings)
    try:
        yield Door(ingest)
    finally:
        if ingest.is_running:
            ingest.stop()


@asynccontextmanager
async def events_of(system: System, kind: str) -> AsyncGenerator[asyncio.Queue[bytes], None]:
    """Payloads of all events of one kind, from now on."""
    received: asyncio.Queue[bytes] = asyncio.Queue()
    bus = await nats.connect(system.nats.url)  # pyright: ignore[reportUnknownMemberType]

    async def keep(message: Msg) -> None:
        await received.put(message.data)

    try:
        await bus.subscribe(f"speech.v1.transcript.*.*.{kind}", cb=keep)  # pyright: ignore[reportUnknownMemberType]
        await bus.flush()
        yield received
    finally:
        await bus.close()


async def publish_translation(
    system: System, transcription_id: str, language: str, text: str
) -> None:
    """Translate the first three seconds of one of acme's streams, as any translator may."""
    stream_id, _ = parse_transcription_id(transcription_id)
    bus = await connect_bus(system.nats.url, name="test")
    finals = await fetch_stored(
        bus, TRANSCRIPT_STORE, str(WriteSubject("acme", stream_id, "final"))
    )
    sources = [msgspec.json.decode(message.payload, type=SegmentFinal) for message in finals]
    translation = TranslationFinal(
        stream_id=stream_id,
        tenant="acme",
        transcription_id=transcription_id,
        language=language,
        text=text,
        start_ms=0,
        end_ms=3_000,
        provider="test",
        revision=next(s.revision for s in sources if s.transcription_id == transcription_id),
    )
    subject = str(WriteSubject("acme", stream_id, "translation", language))
    await AckedPublisher(bus).publish(subject, encode_event(translation), headers=b"")
    await bus.shut_down()
