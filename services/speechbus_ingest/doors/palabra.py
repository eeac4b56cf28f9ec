"""The Palabra-compatible door: speech to text over WebSocket.

Its clients get their tokens from `palabra_storage`. What it keeps of the vendor's protocol, and
where it goes its own way, is in docs/palabra-door.md.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import msgspec
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from speechbus_contracts import AnyEvent, ContractError, StreamClosed, decode_event
from speechbus_ingest.doors.credentials import find_credential
from speechbus_ingest.doors.outbox import Outbox, OutboxFullError
from speechbus_ingest.doors.palabra_answers import Answers
from speechbus_ingest.doors.palabra_holds import (
    HeldSession,
    SessionBusyError,
    SessionGoneError,
    SessionHolds,
)
from speechbus_ingest.doors.palabra_refusals import RefusedError, build_unavailable
from speechbus_ingest.doors.sending import close, send_text
from speechbus_ingest.formats.names import parse_format
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.registry import OverLimitError, StreamRegistry
from speechbus_ingest.stream import IngestStream, StreamRequest
from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.task_groups import plain_errors
from speechbus_wire.palabra import (
    SESSION_PATH,
    STREAM_PATH,
    ParameterError,
    ServerMessage,
    StreamParameters,
    decode_client_message,
    encode_message,
    parse_stream_parameters,
)
from speechbus_wire.palabra_sessions import SessionClaims, verify_token

__all__ = ["PalabraDoor"]

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S: Final = 10.0
"""The bus answers within a millisecond; a restart of NATS takes seconds."""
FLUSH_INTERVAL_S: Final = 0.1
"""A client's messages behind a finalize are read this much later: ten a second are enough."""
FAREWELL_S: Final = 10.0
"""A stream ended by this side may take this long to get its last finals to its client."""

_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_POLICY: Final = 1008
_INTERNAL: Final = 1011
_CLOSE_CODES: Final = {
    "end": _NORMAL,
    "revoked": _POLICY,
    "idle": _GOING_AWAY,
    "limit": _GOING_AWAY,
    "shutdown": _GOING_AWAY,
    "undecodable": _POLICY,
}
"""By reason of `stream.closed`; all others are this side's failure. Clients connect again after
1001 and 1011, and not after 1008 (providers.md 3.7)."""
_FINALIZE: Final = "finalize"
"""Kind of this door's own entries in its outbox; no event of the bus has it."""


class _ClosingError(Exception):
    """This side ends the connection; Palabra's clients get a code and no explanation."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _GoneError(Exception):
    """The client's side of the connection has ended."""


class _Identity(msgspec.Struct, frozen=True):
    """Who connects."""

    tenant: str
    session_id: str | None
    """None: came with the API key itself."""


class PalabraDoor:
    """Carries the streams of Palabra's clients.

    Args:
        keys: tenants and their keys, which are tokens, too.
        registry: holds the streams.
        holds: counts the clients of each identity.
        token_secrets: sign session tokens; the same in all processes that shall take them.
        idle_s: a client that sends nothing this long is sent away.
        duration_s: longest stream.
        now_s: seconds since 1970.
    """

    def __init__(
        self,
        keys: KeyRing,
        registry: StreamRegistry,
        holds: SessionHolds,
        *,
        token_secrets: TokenSecrets,
        idle_s: float,
        duration_s: float,
        now_s: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._holds = holds
        self._token_secrets = token_secrets
        self._idle_s = idle_s
        self._duration_s = duration_s
        self._now_s = now_s

    def routes(self) -> list[BaseRoute]:
        """What to serve."""
        return [WebSocketRoute(STREAM_PATH, self.serve)]

    async def serve(self, socket: WebSocket) -> None:
        """Carry one client from its upgrade to its close."""
        async with AsyncExitStack() as stack:
            try:
                identity = self._authenticate(socket)
                request, parameters = _build_request(socket, identity.tenant)
                self._check_room(identity.tenant)
                held = await stack.enter_async_context(self._hold(identity))
            except RefusedError as error:
                await socket.send_denial_response(error.build_response(socket))
                return
            stack.enter_context(suppress(_GoneError))
            await socket.accept()
            try:
                code = await self._serve_accepted(socket, request, parameters, held)
            except _ClosingError as error:
                code = error.code
            await close(socket, code)

    def _authenticate(self, socket: WebSocket) -> _Identity:
        token = find_credential(socket) or ""
        claims = self._verify(token)
        if claims is not None and claims.role == "publisher":
            if not self._keys.has_tenant(claims.tenant):
                raise _build_unauthorized()  # its last key was taken away
            return _Identity(claims.tenant, claims.session_id)
        tenant = self._keys.find_tenant(token)
        if tenant is None:
            raise _build_unauthorized()
        return _Identity(tenant, None)

    def _verify(self, token: str) -> SessionClaims | None:
        for secret in self._token_secrets.taken:
            claims = verify_token(token, secret, now_s=self._now_s())
            if claims is not None:
                return claims
        return None

    def _check_room(self, tenant: str) -> None:
        try:
            self._registry.check_room(tenant)
        except OverLimitError as error:
            raise RefusedError(
                503,
                "no_room",
                "Service Unavailable",
                "No room for another stream: try again later.",
                retry_after_s=error.retry_after_s,
            ) from None

    @asynccontextmanager
    async def _hold(self, identity: _Identity) -> AsyncGenerator[HeldSession | None, None]:
        async with AsyncExitStack() as stack:
            held: HeldSession | None = None
            try:
                if identity.session_id is None:
                    await stack.enter_async_context(self._holds.hold_key(identity.tenant))
                else:
                    held = await stack.enter_async_context(
                        self._holds.hold(identity.tenant, identity.session_id)
                    )
            except SessionBusyError:
                raise RefusedError(
                    409,
                    "session_active",
                    "Conflict",
                    "A session is already active for this identity: end it first.",
                ) from None
            except SessionGoneError:
                raise _build_unauthorized() from None
            except JetStreamUnavailableError:
                raise build_unavailable() from None
            yield held

    async def _serve_accepted(
        self,
        socket: WebSocket,
        request: StreamRequest,
        parameters: StreamParameters,
        held: HeldSession | None,
    ) -> int:
        outbox = Outbox()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S) as opening:
                async with self._registry.open_stream(request, outbox) as stream:
                    opening.reschedule(None)
                    answers = Answers(stream.stream_id, parameters)
                    return await self._converse(socket, stream, outbox, answers, held)
        except OverLimitError:
            raise _ClosingError(_INTERNAL) from None  # others took the room during the upgrade
        except TimeoutError:
            logger.warning("a stream could not be opened", extra={"door": "palabra"})
            raise _ClosingError(_INTERNAL) from None

    async def _converse(
        self,
        socket: WebSocket,
        stream: IngestStream,
        outbox: Outbox,
        answers: Answers,
        held: HeldSession | None,
    ) -> int:
        with plain_errors(_ClosingError, _GoneError):
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self._receive(socket, stream, outbox))]
                if held is not None:
                    others.append(tasks.create_task(self._watch(held, stream)))
                reason = await _send_answers(socket, stream, outbox, answers)
                for task in others:
                    task.cancel()
        return _CLOSE_CODES.get(reason, _INTERNAL)

    async def _watch(self, held: HeldSession, stream: IngestStream) -> None:
        """End the stream when its session is deleted or expires."""
        await self._holds.watch(held)
        await _part(stream, "revoked")

    async def _receive(self, socket: WebSocket, stream: IngestStream, outbox: Outbox) -> None:
        """Read until this side has had enough, or the client goes."""
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + self._duration_s
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    message = await socket.receive()
            except TimeoutError:
                await _part(stream, "idle")
                return
            if message["type"] == "websocket.disconnect":
                is_farewell = message.get("code") in {_NORMAL, _GOING_AWAY}
                stream.end("end" if is_farewell else "client_gone")
                raise _GoneError
            if message.get("text") is not None:
                await stream.settle()
            if await _obey(message.get("bytes"), message.get("text"), stream, outbox):
                await asyncio.sleep(FLUSH_INTERVAL_S)
            await stream.wait_for_room()
            if loop.time() > ends_at_s:
                await _part(stream, "limit")
                return


def _build_unauthorized() -> RefusedError:
    return RefusedError(
        401,
        "unauthorized",
        "Unauthorized",
        f"Send a session token (POST {SESSION_PATH}, data.publisher) or an API key as ?token=… or"
        " as Authorization: Bearer …",
    )


def _build_request(socket: WebSocket, tenant: str) -> tuple[StreamRequest, StreamParameters]:
    try:
        parameters = parse_stream_parameters(socket.query_params)
    except ParameterError as error:
        raise RefusedError(400, "invalid_parameter", "Bad Request", str(error)) from None
    request = StreamRequest(
        tenant=tenant,
        door="palabra",
        sample_rate_hz=parameters.sample_rate_hz,
        language=parameters.language,
        target_languages=parameters.target_languages,
        # Only what the client has said: each provider has a default of its own.
        has_filler_filter=(
            parameters.has_filler_filter if "enable_filler_filter" in socket.query_params else None
        ),
        audio_format=parse_format(parameters.format),
    )
    return request, parameters


async def _obey(data: bytes | None, text: str | None, stream: IngestStream, outbox: Outbox) -> bool:
    """Carry out one message; return True when it was a finalize."""
    if data is not None:
        await stream.take(data)
    elif text is not None and decode_client_message(text) is not None:
        chunk = stream.flush()
        # In the same queue as the events, so that its answer cannot overtake it.
        outbox.take_event(_FINALIZE, b"%d" % chunk)
        return True
    return False


async def _part(stream: IngestStream, reason: str) -> None:
    """End a stream that its client did not end; give its last finals time to come."""
    stream.end(reason)
    try:
        async with asyncio.timeout(FAREWELL_S):
            await stream.closed.wait()
    except TimeoutError:
        raise _ClosingError(_CLOSE_CODES[reason]) from None


async def _send_answers(
    socket: WebSocket, stream: IngestStream, outbox: Outbox, answers: Answers
) -> str:
    """Send what the events mean until the stream is closed; return why it was."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            async with asyncio.timeout_at(answers.next_deadline_s()):
                events = await outbox.next_events()
        except TimeoutError:
            if answers.is_flush_due(now_s=loop.time()) and stream.end_reason is None:
                stream.flush()
            await _send(socket, answers.handle_deadline(now_s=loop.time()))
            continue
        except OutboxFullError:
            stream.end("client_gone")
            raise _ClosingError(_POLICY) from None
        for kind, payload in events:
            if kind == _FINALIZE:
                answers.expect_flush(int(payload), now_s=loop.time())
                continue
            event = _decode(payload, stream)
            if event is not None:
                await _send(socket, answers.take_event(event, now_s=loop.time()))
            if isinstance(event, StreamClosed):
                return event.reason


def _decode(payload: bytes, stream: IngestStream) -> AnyEvent | None:
    try:
        return decode_event(payload)
    except ContractError:
        logger.warning("an event broke the contract", extra={"stream_id": stream.stream_id})
        return None


async def _send(socket: WebSocket, messages: Sequence[ServerMessage]) -> None:
    for message in messages:
        await send_text(socket, encode_message(message))
