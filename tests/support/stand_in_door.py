"""A stand-in for ingest's native door: real sockets, scripted answers, everything received kept."""

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from speechbus_contracts import (
    Event,
    Gap,
    SegmentFinal,
    SegmentPartial,
    StreamClosed,
    TranslationFinal,
    TurnStarted,
    encode_event,
)

__all__ = [
    "KEY",
    "STREAM_ID",
    "StandInDoor",
    "build_final",
    "build_gap",
    "build_partial",
    "build_translation",
]

KEY = "stand-in-key"
STREAM_ID = "0198c0de-0000-7000-8000-000000000001"


def build_partial(
    text: str, *, index: int = 0, revision: int = 0, epoch: int = 1
) -> SegmentPartial:
    """Build a partial that differs from another only in what is named."""
    return SegmentPartial(**_segment(text, index, revision, epoch))


def build_final(text: str, *, index: int = 0, revision: int = 9, epoch: int = 1) -> SegmentFinal:
    """Build a final that differs from another only in what is named."""
    return SegmentFinal(**_segment(text, index, revision, epoch))


def build_gap(*, from_ms: int = 1_000, to_ms: int = 2_500) -> Gap:
    """Build a gap."""
    return Gap(
        stream_id=STREAM_ID,
        tenant="dev",
        epoch=1,
        from_ms=from_ms,
        to_ms=to_ms,
        reason="lag",
        next_index=1,
        gap_ms_total=to_ms - from_ms,
        audio_received_at=0,
    )


def build_translation(text: str, *, index: int = 0) -> TranslationFinal:
    """Build the German translation of a final with this index, of revision 9."""
    return TranslationFinal(
        stream_id=STREAM_ID,
        tenant="dev",
        transcription_id=f"{STREAM_ID}-{index}",
        language="de",
        text=text,
        start_ms=1_000 * index,
        end_ms=1_000 * index + 800,
        provider="palabra",
        revision=9,
    )


def _segment(text: str, index: int, revision: int, epoch: int) -> dict[str, Any]:
    return {
        "stream_id": STREAM_ID,
        "tenant": "dev",
        "transcription_id": f"{STREAM_ID}-{index}",
        "index": index,
        "revision": revision,
        "epoch": epoch,
        "language": "en",
        "text": text,
        "start_ms": 1_000 * index,
        "end_ms": 1_000 * index + 800,
        "provider": "local",
        "covered_ms": 1_000 * index + 800,
        "audio_received_at": 0,
        "emitted_at": 0,
    }


class Conversation:
    """What one client sent."""

    def __init__(self) -> None:
        self.hello: dict[str, Any] = {}
        self.audio = b""
        self.controls: list[str] = []


class StandInDoor:
    """Serves in a thread of its own; a context manager.

    Args:
        during: events sent as soon as the first audio came.
        after: events sent after `end`, before `stream.closed`.
        refusal: code of an error sent instead of `ready`.
        reason: of `stream.closed`.
        breaks_off: the server closes with 1012 where `stream.closed` would come.
    """

    def __init__(
        self,
        *,
        during: Sequence[Event] = (),
        after: Sequence[Event] = (),
        refusal: str | None = None,
        reason: str = "end",
        breaks_off: bool = False,
    ) -> None:
        self.conversations: list[Conversation] = []
        self.port = 0
        self.heard_audio = threading.Event()
        self._during = during
        self._after = after
        self._refusal = refusal
        self._reason = reason
        self._breaks_off = breaks_off
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="stand-in door")
        self._started = threading.Event()
        self._stop: Callable[[], object] = lambda: None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        stop = asyncio.Event()
        self._stop = stop.set
        async with serve(
            self._converse,
            "127.0.0.1",
            0,
            process_request=self._check_key,
            compression=None,
            close_timeout=1,
        ) as server:
            self.port = _port_of(server)
            self._started.set()
            await stop.wait()

    def _check_key(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Authorization") == f"Bearer {KEY}":
            return None
        return connection.respond(HTTPStatus.UNAUTHORIZED, '{"type":"error","code":"unauthorized"}')

    async def _converse(self, connection: ServerConnection) -> None:
        conversation = Conversation()
        self.conversations.append(conversation)
        try:
            conversation.hello = json.loads(await connection.recv())
            if self._refusal is not None:
                message = {"type": "error", "code": self._refusal, "message": "Send another one."}
                await connection.send(json.dumps(message))
                await connection.close(1008)
                return
            await _send(connection, b'{"type":"ready","stream_id":"%b"}' % STREAM_ID.encode())
            await _send(connection, b'{"type":"something.new","field":1}')
            await self._take_audio(connection, conversation)
            for event in self._after:
                await _send(connection, encode_event(event))
            if self._breaks_off:
                await connection.close(1012)
                return
            await _send(connection, encode_event(_closed(len(conversation.audio), self._reason)))
        except ConnectionClosed:
            return

    async def _take_audio(self, connection: ServerConnection, conversation: Conversation) -> None:
        async for message in connection:
            if isinstance(message, str):
                kind = json.loads(message)["type"]
                conversation.controls.append(kind)
                if kind == "end":
                    return
                continue
            if not conversation.audio:
                for event in self._during:
                    await _send(connection, encode_event(event))
                self.heard_audio.set()
            conversation.audio += message


async def _send(connection: ServerConnection, message: bytes) -> None:
    await connection.send(message, text=True)


def _closed(audio_bytes: int, reason: str) -> StreamClosed:
    return StreamClosed(
        stream_id=STREAM_ID,
        tenant="dev",
        epoch=1,
        reason=reason,
        audio_ms=audio_bytes // 32,
        finals=0,
        gap_ms=0,
    )


def _port_of(server: Server) -> int:
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


def turn_started(at_ms: int) -> TurnStarted:
    """Build a start of speech."""
    return TurnStarted(stream_id=STREAM_ID, tenant="dev", epoch=1, at_ms=at_ms)
