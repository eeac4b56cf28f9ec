"""The native door, `WS /v1/streams`: a JSON hello, binary audio, the bus's events back.

Specified in docs/native-door.md.
"""

import asyncio
import logging
from contextlib import ExitStack, suppress
from typing import Any, Final

import msgspec
from starlette.websockets import WebSocket

from speechbus_ingest.connections import TenantConnections
from speechbus_ingest.doors.credentials import find_credential
from speechbus_ingest.doors.native_errors import DoorError, overloaded
from speechbus_ingest.doors.native_hello import (
    Configure,
    End,
    Hello,
    build_request,
    parse_control,
    parse_hello,
)
from speechbus_ingest.doors.native_resume import FinishedStreamError, NativeResuming
from speechbus_ingest.doors.outbox import Outbox, OutboxFullError
from speechbus_ingest.doors.refusals import refusal
from speechbus_ingest.doors.sending import close, send_text
from speechbus_ingest.formats.undecodable import PROBLEMS
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.registry import OverLimitError, StreamRegistry
from speechbus_ingest.resume import Resumer
from speechbus_ingest.seat import Seat
from speechbus_ingest.stream import IngestStream
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.task_groups import plain_errors

__all__ = ["NativeDoor"]

logger = logging.getLogger(__name__)

HELLO_TIMEOUT_S: Final = 10.0
OPEN_TIMEOUT_S: Final = 10.0
"""The bus answers within a millisecond; a restart of NATS takes seconds."""
FLUSH_INTERVAL_S: Final = 0.1
"""A client's messages behind a flush are read this much later: ten flushes a second are enough for
anybody, and each is a stored chunk and a stored event."""
FAREWELL_S: Final = 10.0
"""A stream ended by this side may take this long to get its last finals to its client."""
CONFIGURE_INTERVAL_S: Final = 1.0
"""Between two changes of language: each costs a session at a provider."""
QUEUED_AFTER_S: Final = 1.0
ACCEPTED_S: Final = 1.0
"""A client that can resume keeps what it was not told of: this much more than is on its way."""

NONE_TAKES_IT: Final = (
    "nobody here could transcribe it: look at 'providers' and 'language' of the hello"
)
"""Of the close frame, which takes 123 bytes."""
_CLOSE_NORMAL: Final = 1000
_CLOSE_RESTART: Final = 1012


class _Closed(msgspec.Struct, frozen=True):
    reason: str


class _GoneError(Exception):
    """The client's side of the connection has ended."""


class NativeDoor:
    """Serves connections of `WS /v1/streams`.

    Args:
        keys: who may come in.
        registry: holds the streams.
        resumer: brings clients back to them.
        connections: counts those of each tenant.
        idle_s: a client that sends nothing this long is sent away.
        duration_s: longest stream.
    """

    def __init__(
        self,
        keys: KeyRing,
        registry: StreamRegistry,
        resumer: Resumer,
        *,
        connections: TenantConnections,
        idle_s: float,
        duration_s: float,
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._connections = connections
        self._resuming = NativeResuming(resumer, resume_s=registry.resume_s)
        self._idle_s = idle_s
        self._duration_s = duration_s

    async def serve(self, socket: WebSocket) -> None:
        """Carry one client from its upgrade to its close."""
        tenant = self._keys.find_tenant(find_credential(socket))
        if tenant is None:
            await _refuse(
                socket,
                401,
                "unauthorized",
                "Send your API key as 'Authorization: Bearer KEY' or as ?token=KEY.",
            )
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(self._connections.hold(tenant))
                self._check_room(tenant)
            except OverLimitError as error:
                await _refuse(
                    socket,
                    429,
                    "too_many_streams",
                    "End another stream first, or try again later.",
                    retry_after_s=error.retry_after_s,
                )
                return
            await socket.accept()
            try:
                await self._serve_accepted(socket, tenant)
            except DoorError as error:
                await _say_goodbye(socket, error)
            except _GoneError:
                pass

    def _check_room(self, tenant: str) -> None:
        try:
            self._registry.check_room(tenant)
        except OverLimitError:
            if not self._registry.may_return(tenant):
                raise

    async def _serve_accepted(self, socket: WebSocket, tenant: str) -> None:
        hello = await _receive_hello(socket)
        outbox = Outbox()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S) as opening:
                request = build_request(
                    hello, tenant, traceparent=socket.headers.get("traceparent", "")
                )
                if hello.resume is None:
                    entry = self._registry.open_stream(request, outbox)
                else:
                    entry = self._resuming.enter(request, hello.resume, outbox)
                async with entry as stream:
                    opening.reschedule(None)
                    await self._converse(socket, stream, outbox)
        except FinishedStreamError as finished:
            await self._resuming.tell_the_end(socket, finished)
        except OverLimitError:
            raise DoorError(
                "too_many_streams", "End another stream first, or try again later."
            ) from None
        except (TimeoutError, JetStreamUnavailableError):
            raise overloaded() from None

    async def _converse(self, socket: WebSocket, stream: IngestStream, outbox: Outbox) -> None:
        ready: dict[str, Any] = {
            "type": "ready",
            "stream_id": stream.stream_id,
            "accepted_samples": stream.accepted_samples,
        }
        if stream.request.split_channels is not None:
            ready["stream_ids"] = stream.stream_ids
        seat = stream.seat
        if stream.request.is_resumable:
            ready["resume_within_s"] = self._registry.resume_s
        await _send(socket, ready)
        with plain_errors(DoorError, _GoneError):
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(_send_events(socket, stream, outbox))
                receiver = tasks.create_task(_receive_audio(socket, stream))
                watcher = tasks.create_task(self._watch(socket, stream))
                leaver = tasks.create_task(_wait_until_taken(seat))
                tellers = [tasks.create_task(_tell_queued(socket, stream))]
                if stream.request.is_resumable:
                    tellers.append(tasks.create_task(_tell_accepted(socket, stream)))
                await asyncio.wait(
                    {sender, receiver, watcher, leaver}, return_when=asyncio.FIRST_COMPLETED
                )
                parting = watcher.result() if watcher.done() else None
                if not sender.done() and not receiver.done() and not leaver.done():
                    await asyncio.wait(
                        {sender, receiver, leaver},
                        timeout=None if parting is None else FAREWELL_S,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                for task in (sender, receiver, watcher, leaver, *tellers):
                    task.cancel()
        if parting is not None:
            await close(socket, parting.close_code, parting.code)
        elif seat.is_shutdown:
            await close(socket, _CLOSE_RESTART, "the server goes away; resume the stream")
        elif stream.end_reason == "shutdown":
            await close(socket, _CLOSE_RESTART, "the server goes away; open a new stream")
        else:
            await close(socket, _CLOSE_NORMAL, "" if sender.cancelled() else sender.result())

    async def _watch(self, socket: WebSocket, stream: IngestStream) -> DoorError:
        """End the stream when it is idle, too long or broken.

        One sleeping task, so that receiving a message costs no timer.

        Returns:
            Why this side has ended the stream, as the client was told; its last finals follow.
        """
        parting = await self._wait_for_parting(stream)
        stream.end(parting.code)  # no effect on one that is broken: it has ended
        await _send_error(socket, parting)
        return parting

    async def _wait_for_parting(self, stream: IngestStream) -> DoorError:
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + self._duration_s - stream.age_s
        while not stream.undecodable.is_set():
            now_s = loop.time()
            # A client that is held back cannot be idle.
            heard_at_s = stream.written_at_s if stream.has_room else now_s
            idle_at_s = heard_at_s + self._idle_s
            wait_s = None
            if stream.end_reason is None:
                if now_s >= idle_at_s:
                    return DoorError(
                        "idle", "Nothing came for too long: send audio, or end the stream."
                    )
                if now_s >= ends_at_s:
                    return DoorError("limit", "The longest duration is reached: open a new stream.")
                wait_s = min(idle_at_s, ends_at_s) - now_s
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await stream.undecodable.wait()
        assert stream.problem is not None
        return DoorError(
            "audio.undecodable",
            f"The audio cannot be decoded: {PROBLEMS[stream.problem]}."
            " What came before is transcribed.",
        )


async def _wait_until_taken(seat: Seat) -> None:
    await seat.taken.wait()
    if not seat.is_shutdown:
        raise DoorError(
            "resumed", "Another connection has resumed this stream, and has it from now on."
        )


async def _tell_accepted(socket: WebSocket, stream: IngestStream) -> None:
    """Tell the client again and again what it need not keep, and that somebody is here."""
    while True:
        await asyncio.sleep(ACCEPTED_S)
        await _send(socket, {"type": "accepted", "samples": stream.stored_samples})


async def _tell_queued(socket: WebSocket, stream: IngestStream) -> None:
    """Tell the client when its stream waits for a worker."""
    await stream.opened.wait()
    try:
        async with asyncio.timeout(QUEUED_AFTER_S):
            await stream.claimed.wait()
    except TimeoutError:
        await _send(
            socket,
            {
                "type": "queued",
                "message": "No transcriber has room yet: keep sending, your audio is kept.",
            },
        )


async def _receive_audio(socket: WebSocket, stream: IngestStream) -> None:
    """Read until the client goes; returns never otherwise."""
    has_said_end = False
    configured_at_s = -CONFIGURE_INTERVAL_S
    loop = asyncio.get_running_loop()
    while True:
        message = await socket.receive()
        data = message.get("bytes")
        if data is not None:
            if has_said_end:
                raise DoorError("message.invalid", "No audio may follow 'end'.")
            if stream.end_reason is not None:
                continue  # by this side, which the client learns with its last finals
            await stream.take(data)
        elif message["type"] == "websocket.receive":
            control = parse_control(message["text"])
            if has_said_end:
                raise DoorError("message.invalid", "Nothing may follow 'end'.")
            has_said_end = isinstance(control, End)
            if has_said_end:
                stream.end("end")
            elif stream.end_reason is not None:
                pass
            elif isinstance(control, Configure):
                await asyncio.sleep(configured_at_s + CONFIGURE_INTERVAL_S - loop.time())
                await stream.settle()
                await stream.change_language(control.language)
                configured_at_s = loop.time()
            else:
                await stream.settle()
                stream.flush()
                await asyncio.sleep(FLUSH_INTERVAL_S)
                await stream.wait_for_room()
        else:
            raise _see_off(stream)


def _see_off(stream: IngestStream) -> _GoneError:
    if not stream.request.is_resumable:
        stream.end("client_gone")  # no effect after 'end'
    return _GoneError()


async def _receive_hello(socket: WebSocket) -> Hello:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            message = await socket.receive()
    except TimeoutError:
        raise DoorError("hello.timeout", "Send the hello within 10 s of connecting.") from None
    if message["type"] != "websocket.receive":
        raise _GoneError
    return parse_hello(message.get("text"))


async def _send_events(socket: WebSocket, stream: IngestStream, outbox: Outbox) -> str:
    """Send events until the stream is closed and everything is sent.

    Returns:
        What the client may do about the way in which it was closed; empty: nothing.
    """
    while True:
        try:
            events = await outbox.next_events()
        except OutboxFullError:
            raise DoorError("too_slow", "Read the events as they come.") from None
        for kind, payload in events:
            await send_text(socket, payload.decode())
            if kind == "closed":
                is_untaken = msgspec.json.decode(payload, type=_Closed).reason == "no_provider"
                return NONE_TAKES_IT if is_untaken else ""


async def _send(socket: WebSocket, message: dict[str, Any]) -> None:
    await send_text(socket, msgspec.json.encode(message).decode())


async def _send_error(socket: WebSocket, error: DoorError) -> None:
    await _send(socket, {"type": "error", "code": error.code, "message": error.message})


async def _refuse(
    socket: WebSocket, status: int, code: str, message: str, *, retry_after_s: int | None = None
) -> None:
    await socket.send_denial_response(refusal(status, code, message, retry_after_s=retry_after_s))


async def _say_goodbye(socket: WebSocket, error: DoorError) -> None:
    await _send_error(socket, error)
    await close(socket, error.close_code, error.code)
