"""One connection at Kotoba's address, in virtual time: what depends on the clock or on its end."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from starlette.types import Message
from starlette.websockets import WebSocket

from speechbus_contracts import encode_event
from speechbus_ingest.doors.kotoba_conversation import (
    AFTER_COMMITTED_S,
    OPEN_TIMEOUT_S,
    SETUP_S,
    Caller,
    Conversation,
)
from speechbus_ingest.doors.kotoba_exchange import FAREWELL_S
from speechbus_ingest.doors.kotoba_peer import GOODBYE_S, Peer
from speechbus_ingest.doors.outbox import Outbox
from speechbus_ingest.registry import StreamRegistry
from speechbus_ingest.stream import StreamRequest
from tests.support.kotoba import COMMIT, build_update
from tests.support.segments import closed, final
from tests.support.virtual_time import run_virtual

LEFT: Message = {"type": "websocket.disconnect", "code": 1000}
IDLE_S = 60.0
DURATION_S = 100.0


class Stream:
    """An ingest stream: keeps what it takes, and is closed as soon as it is ended."""

    stream_id = "s-1"

    def __init__(self, outbox: Outbox, closes_for: str | None) -> None:
        self.taken = b""
        self.end_reason: str | None = None
        self._outbox = outbox
        self._closes_for = closes_for

    async def take(self, data: bytes) -> None:
        """Keep audio."""
        self.taken += data

    def end(self, reason: str) -> None:
        """Close, with the reason given or the one the test wants."""
        if self.end_reason is None:
            self.end_reason = reason
            self._outbox.take_event("final", encode_event(final(0, "hi")))
            self._outbox.take_event("closed", encode_event(closed(self._closes_for or reason)))


class Registry:
    """Opens streams, or hangs as when the bus is away."""

    def __init__(self, *, opens: bool = True, closes_for: str | None = None) -> None:
        self.stream: Stream | None = None
        self.ended_for: str | None = None
        self._opens = opens
        self._closes_for = closes_for

    @asynccontextmanager
    async def open_stream(
        self, request: StreamRequest, sink: Outbox
    ) -> AsyncGenerator[Stream, None]:
        """Hold a stream open."""
        assert request.tenant == "acme"
        if not self._opens:
            await asyncio.sleep(3_600)
        self.stream = Stream(sink, self._closes_for)
        try:
            yield self.stream
        finally:
            self.stream.end("client_gone")
            self.ended_for = self.stream.end_reason


class Page:
    """The client's side of a socket: says what it is given, and keeps what it is told."""

    def __init__(self, *said: Message | Mapping[str, Any], reads: bool = True) -> None:
        self.told: list[dict[str, Any]] = []
        self.code: int | None = None
        self.reads = reads
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._said.put_nowait({"type": "websocket.connect"})
        for message in said:
            is_raw = str(message["type"]).startswith("websocket.")
            text = {"type": "websocket.receive", "text": json.dumps(message)}
            self._said.put_nowait(dict(message) if is_raw else text)

    async def receive(self) -> Message:
        """For the door: the next message, or nothing for ever."""
        return await self._said.get()

    async def send(self, message: Message) -> None:
        """For the door: tell the client."""
        if message["type"] == "websocket.accept":
            return
        if not self.reads:
            await asyncio.sleep(3_600)
        if message["type"] == "websocket.close":
            self.code = message["code"]
        else:
            self.told.append(json.loads(message["text"]))


def append(audio: bytes) -> dict[str, Any]:
    """Audio."""
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()}


def converse(page: Callable[[], Page], registry: Registry) -> tuple[Page, float]:
    """Carry a connection to its end; return the client's side, and how long it took."""

    async def run() -> tuple[Page, float]:
        client = page()
        socket = WebSocket(
            {"type": "websocket", "headers": [], "subprotocols": []}, client.receive, client.send
        )
        await socket.accept()
        conversation = Conversation(
            Peer(socket, dialect="kotoba", session_id="sess_1"),
            cast(StreamRegistry, registry),
            Caller(tenant="acme", dialect="kotoba", claims=None),
            idle_s=IDLE_S,
            duration_s=DURATION_S,
        )
        await conversation.run()
        return client, asyncio.get_running_loop().time()

    return run_virtual(run())


def error_of(peer: Page) -> str:
    """Code of the last message."""
    return str(peer.told[-1]["error"]["code"])


def test_the_update_must_come_within_ten_seconds() -> None:
    """A connection without settings holds a place for nobody (providers.md 1.4)."""
    peer, took_s = converse(Page, Registry())

    assert (error_of(peer), peer.code, took_s) == ("timeout_error", 1008, SETUP_S)


def test_after_committed_the_server_closes_when_the_client_does_not() -> None:
    """5 s later; the stream is let go at once."""
    registry = Registry()
    peer, took_s = converse(lambda: Page(build_update(), COMMIT), registry)

    assert peer.told[-1]["type"] == "input_audio_buffer.committed"
    assert (peer.code, took_s) == (1000, AFTER_COMMITTED_S)


def test_a_bus_that_does_not_answer_is_told() -> None:
    """Try again: nothing is wrong with the client."""
    peer, took_s = converse(lambda: Page(build_update()), Registry(opens=False))

    assert (error_of(peer), peer.code, took_s) == ("internal_error", 1011, OPEN_TIMEOUT_S)
    assert [message["type"] for message in peer.told[:-1]] == ["transcription_session.created"]


def test_a_stream_that_nobody_transcribed_is_not_committed() -> None:
    """A commit is answered by `committed` only when everything is there."""
    registry = Registry(closes_for="no_provider")
    peer, _ = converse(lambda: Page(build_update(), COMMIT), registry)

    assert (error_of(peer), peer.code) == ("internal_error", 1011)
    assert peer.told[-2]["delta"] == "hi"


def test_a_silent_client_is_sent_away() -> None:
    """With the text of what it said."""
    peer, took_s = converse(lambda: Page(build_update()), Registry())

    assert (error_of(peer), peer.code, took_s) == ("timeout_error", 1001, IDLE_S)
    assert peer.told[-2]["delta"] == "hi"


def test_a_client_that_has_closed_loses_nothing_it_said_before() -> None:
    """What it sent is still to be read when nothing can be sent to it any more."""

    class Gone(Page):
        async def send(self, message: Message) -> None:
            if message["type"] == "websocket.send" and len(self.told) == 2:
                raise OSError
            await super().send(message)

    registry = Registry()
    converse(lambda: Gone(build_update(), append(b"ab"), append(b"cd"), LEFT), registry)

    assert registry.stream is not None
    assert (registry.stream.taken, registry.ended_for) == (b"abcd", "end")


@pytest.mark.parametrize(("code", "reason"), [(1001, "end"), (1006, "client_gone")])
def test_how_a_client_left_is_on_record(code: int, reason: str) -> None:
    """A goodbye is one, and a broken connection is another thing."""
    registry = Registry()
    converse(lambda: Page(build_update(), {**LEFT, "code": code}), registry)

    assert registry.ended_for == reason


def test_a_client_that_never_reads_is_given_up() -> None:
    """It holds its stream and this connection no longer than it takes to be sure."""

    class Deaf(Page):
        async def send(self, message: Message) -> None:
            self.reads = len(self.told) < 2
            await super().send(message)

    registry = Registry()
    peer, took_s = converse(lambda: Deaf(build_update()), registry)

    assert took_s == IDLE_S + FAREWELL_S + GOODBYE_S
    assert (registry.ended_for, peer.code) == ("idle", None)


def test_a_mistake_is_told_behind_the_text_of_what_came_before() -> None:
    """And nothing behind the mistake is read."""
    registry = Registry()
    peer, _ = converse(
        lambda: Page(build_update(), append(b"ab"), build_update(), append(b"cd")), registry
    )

    assert registry.stream is not None
    assert registry.stream.taken == b"ab"
    assert (peer.told[-2]["delta"], error_of(peer), peer.code) == ("hi", "invalid_event", 1008)
