"""The Palabra-compatible door: session storage over HTTP, speech-to-text over WebSocket.

What it keeps of the vendor's protocol and where it goes its own way is in docs/palabra-door.md.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from speechbus_contracts import ContractError, StreamClosed, decode_event
from speechbus_ingest.doors.credentials import find_credential
from speechbus_ingest.doors.outbox import Outbox, OutboxFullError
from speechbus_ingest.doors.palabra_answers import Answers
from speechbus_ingest.formats.names import parse_format
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.registry import OverLimitError, StreamRegistry
from speechbus_ingest.stream import IngestStream, StreamRequest
from speechbus_runtime.task_groups import plain_errors
from speechbus_wire.palabra import (
    SESSION_PATH,
    STREAM_PATH,
    PalabraError,
    ParameterError,
    StreamParameters,
    decode_client_message,
    encode_message,
    parse_stream_parameters,
)
from speechbus_wire.palabra_sessions import (
    Problem,
    SessionClaims,
    SessionRequest,
    SessionToken,
    decode_session_request,
    encode_problem,
    encode_session,
    sign_token,
    verify_token,
)

__all__ = ["PalabraDoor"]

logger = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 64 << 10
"""Of a request for a session, which has some 100 bytes."""
TOKEN_TTL_S: Final = 86_400
"""Longer than the longest stream, so that a client can reconnect with the token it has. (Palabra
pushes the expiry forward while a client is connected; a signed token cannot change.)"""
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


class _RefusedError(Exception):
    """Answered with an HTTP status and the vendor's error body."""

    def __init__(self, status: int, code: str, title: str, detail: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail

    def build_response(self, connection: HTTPConnection) -> Response:
        """Return the whole answer."""
        problem = Problem(
            status=self.status,
            title=self.title,
            detail=self.detail,
            error_code=self.code,
            instance=connection.url.path,
        )
        return Response(encode_problem(problem), self.status, media_type="application/json")


class _Identity(msgspec.Struct, frozen=True):
    """Who is connected, as far as the number of live sessions is concerned."""

    tenant: str
    session_id: str | None
    """None: came with the API key itself."""


class PalabraDoor:
    """Serves both of Palabra's addresses.

    Args:
        keys: tenants and their keys: `ClientId` and `ClientSecret`.
        registry: holds the streams.
        token_secret: signs session tokens; the same in all processes that shall take them.
        sessions_per_key_max: live sessions of one tenant that came with its key; those that came
            with a session token are one per token.
        idle_s: a client that sends nothing this long is sent away.
        duration_s: longest stream.
        now_s: seconds since 1970.
    """

    def __init__(
        self,
        keys: KeyRing,
        registry: StreamRegistry,
        *,
        token_secret: bytes,
        sessions_per_key_max: int,
        idle_s: float,
        duration_s: float,
        now_s: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._token_secret = token_secret
        self._sessions_per_key_max = sessions_per_key_max
        self._idle_s = idle_s
        self._duration_s = duration_s
        self._now_s = now_s
        self._live: Counter[_Identity] = Counter()

    def routes(self) -> list[BaseRoute]:
        """What to serve."""
        return [
            Route(SESSION_PATH, self.create_session, methods=["POST"]),
            WebSocketRoute(STREAM_PATH, self.serve),
        ]

    # --- session storage -----------------------------------------------------------------------

    async def create_session(self, request: Request) -> Response:
        """Exchange ClientId and ClientSecret for session tokens."""
        try:
            tenant = self._authenticate_client(request)
            asked = await _read_session_request(request)
        except _RefusedError as error:
            return error.build_response(request)
        session_id = secrets.token_hex(16)
        claims = SessionClaims(
            tenant=tenant,
            session_id=session_id,
            expires_at_s=int(self._now_s()) + TOKEN_TTL_S,
        )
        subscriber = msgspec.structs.replace(claims, role="subscriber")
        session = SessionToken(
            session_id=session_id,
            publisher=sign_token(claims, self._token_secret),
            subscribers=(sign_token(subscriber, self._token_secret),) * asked.subscriber_count,
        )
        return Response(encode_session(session), 201, media_type="application/json")

    def _authenticate_client(self, request: Request) -> str:
        tenant = self._keys.find_tenant(request.headers.get("clientsecret"))
        if tenant is None or tenant != request.headers.get("clientid"):
            raise _RefusedError(
                401,
                "unauthorized",
                "Unauthorized",
                "Send your tenant's name as ClientId and its API key as ClientSecret.",
            )
        return tenant

    # --- speech to text ------------------------------------------------------------------------

    async def serve(self, socket: WebSocket) -> None:
        """Carry one client from its upgrade to its close."""
        try:
            identity = self._authenticate(socket)
            request, parameters = _build_request(socket, identity.tenant)
            self._check_room(identity)
        except _RefusedError as error:
            await socket.send_denial_response(error.build_response(socket))
            return
        with self._hold(identity), suppress(_GoneError, WebSocketDisconnect):
            await socket.accept()
            try:
                code = await self._serve_accepted(socket, request, parameters)
            except _ClosingError as error:
                code = error.code
            with suppress(OSError, RuntimeError):  # it may have gone already
                await socket.close(code)

    def _authenticate(self, socket: WebSocket) -> _Identity:
        token = find_credential(socket) or ""
        claims = verify_token(token, self._token_secret, now_s=self._now_s())
        if claims is not None and claims.role == "publisher":
            return _Identity(claims.tenant, claims.session_id)
        tenant = self._keys.find_tenant(token)
        if tenant is None:
            raise _RefusedError(
                401,
                "unauthorized",
                "Unauthorized",
                f"Send a session token (POST {SESSION_PATH}, data.publisher) or an API key as"
                " ?token=… or as Authorization: Bearer …",
            )
        return _Identity(tenant, None)

    def _check_room(self, identity: _Identity) -> None:
        live_max = 1 if identity.session_id else self._sessions_per_key_max
        if self._live[identity] >= live_max:
            raise _RefusedError(
                409,
                "session_active",
                "Conflict",
                "A session is already active for this identity: end it first.",
            )
        try:
            self._registry.check_room(identity.tenant)
        except OverLimitError:
            raise _RefusedError(
                503,
                "no_room",
                "Service Unavailable",
                "No room for another stream: try again later.",
            ) from None

    @contextmanager
    def _hold(self, identity: _Identity) -> Generator[None, None, None]:
        self._live[identity] += 1
        try:
            yield
        finally:
            self._live[identity] -= 1
            if not self._live[identity]:
                del self._live[identity]

    async def _serve_accepted(
        self, socket: WebSocket, request: StreamRequest, parameters: StreamParameters
    ) -> int:
        outbox = Outbox()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S) as opening:
                async with self._registry.open_stream(request, outbox) as stream:
                    opening.reschedule(None)
                    answers = Answers(
                        stream.stream_id,
                        language=parameters.language,
                        has_filler_filter=parameters.has_filler_filter,
                    )
                    return await self._converse(socket, stream, outbox, answers)
        except OverLimitError:
            raise _ClosingError(_INTERNAL) from None  # others took the room during the upgrade
        except TimeoutError:
            logger.warning("a stream could not be opened", extra={"door": "palabra"})
            raise _ClosingError(_INTERNAL) from None

    async def _converse(
        self, socket: WebSocket, stream: IngestStream, outbox: Outbox, answers: Answers
    ) -> int:
        with plain_errors(_ClosingError, _GoneError, WebSocketDisconnect):
            async with asyncio.TaskGroup() as tasks:
                receiver = tasks.create_task(self._receive(socket, stream, outbox))
                reason = await _send_answers(socket, stream, outbox, answers)
                receiver.cancel()
        return _CLOSE_CODES.get(reason, _INTERNAL)

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
            if message.get("text") is not None:
                await stream.settle()
            if _obey(message.get("bytes"), message.get("text"), stream, outbox):
                await asyncio.sleep(FLUSH_INTERVAL_S)
            await stream.wait_for_room()
            if message["type"] == "websocket.disconnect":
                is_farewell = message.get("code") in {_NORMAL, _GOING_AWAY}
                stream.end("end" if is_farewell else "client_gone")
                raise _GoneError
            if loop.time() > ends_at_s:
                await _part(stream, "limit")
                return


async def _read_session_request(request: Request) -> SessionRequest:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise _RefusedError(
                413, "too_large", "Content Too Large", "The body has at most 65536 bytes."
            )
    try:
        return decode_session_request(body)
    except PalabraError as error:
        raise _RefusedError(400, "invalid_body", "Bad Request", str(error)) from None


def _build_request(socket: WebSocket, tenant: str) -> tuple[StreamRequest, StreamParameters]:
    try:
        parameters = parse_stream_parameters(socket.query_params)
    except ParameterError as error:
        raise _RefusedError(400, "invalid_parameter", "Bad Request", str(error)) from None
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


def _obey(data: bytes | None, text: str | None, stream: IngestStream, outbox: Outbox) -> bool:
    """Carry out one message; return True when it was a finalize."""
    if data is not None:
        stream.write(data)
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
        raise _ClosingError(_GOING_AWAY) from None


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
            for answer in answers.handle_deadline(now_s=loop.time()):
                await _send(socket, encode_message(answer))
            continue
        except OutboxFullError:
            stream.end("client_gone")
            raise _ClosingError(_POLICY) from None
        for kind, payload in events:
            if kind == _FINALIZE:
                answers.expect_flush(int(payload), now_s=loop.time())
                continue
            try:
                event = decode_event(payload)
            except ContractError:
                logger.warning("an event broke the contract", extra={"stream_id": stream.stream_id})
                continue
            for answer in answers.take_event(event, now_s=loop.time()):
                await _send(socket, encode_message(answer))
            if isinstance(event, StreamClosed):
                return event.reason


async def _send(socket: WebSocket, text: str) -> None:
    await socket.send({"type": "websocket.send", "text": text})
