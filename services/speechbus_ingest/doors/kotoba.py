"""The Kotoba-compatible door: client secrets over HTTP, realtime recognition over WebSocket.

What it keeps of the vendor's protocol, and of OpenAI's that it is taken from, and where it goes its
own way is in docs/kotoba-door.md.
"""

import secrets
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from speechbus_ingest.connections import TenantConnections
from speechbus_ingest.doors.client_secrets import ClientSecrets, SpentSecretError
from speechbus_ingest.doors.credentials import RealtimeCredential, find_realtime_credential
from speechbus_ingest.doors.kotoba_conversation import Caller, Conversation
from speechbus_ingest.doors.kotoba_peer import Peer, over_limit
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.registry import OverLimitError, StreamRegistry
from speechbus_wire.kotoba import REALTIME_PATH, RequestError, encode_error_body
from speechbus_wire.kotoba_secrets import (
    SecretClaims,
    SecretRequest,
    decode_client_secret_request,
    decode_transcription_session_request,
    encode_client_secret,
    encode_transcription_session,
)
from speechbus_wire.kotoba_sessions import Dialect

__all__ = ["KotobaDoor"]

BODY_BYTES_MAX: Final = 128 << 10
"""Of a request for a secret: a thousand keywords, which only the socket takes, fit in."""

SESSIONS_PATH: Final = f"{REALTIME_PATH}/transcription_sessions"
SECRETS_PATH: Final = f"{REALTIME_PATH}/client_secrets"
FAL_PATH: Final = "/{owner}/kotoba-streaming-stt" + REALTIME_PATH
"""Where fal.ai serves the same protocol (providers.md 1.2)."""
_METHODS: Final = ["DELETE", "GET", "PATCH", "POST", "PUT"]
_SUBPROTOCOL: Final = "realtime"
_BETA_SUBPROTOCOL: Final = "openai-beta.realtime-v1"
_GENERAL_PARAMETERS: Final = ("intent", "model")


class _RefusedError(Exception):
    """Answered with an HTTP status and the vendor's error body."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(code)
        self.retry_after_s = retry_after_s
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def build_response(self) -> Response:
        """Return the whole answer."""
        body = encode_error_body(self.code, self.message, param=self.param)
        headers = {"cache-control": "no-store"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        return Response(
            msgspec.json.encode(body), self.status, headers=headers, media_type="application/json"
        )


class KotobaDoor:
    """Serves Kotoba's address.

    Args:
        keys: tenants and their keys.
        registry: holds the streams.
        client_secrets: makes and takes them.
        connections: counts those of each tenant.
        idle_s: a client that sends nothing this long is sent away.
        duration_s: longest stream.
    """

    def __init__(
        self,
        keys: KeyRing,
        registry: StreamRegistry,
        client_secrets: ClientSecrets,
        *,
        connections: TenantConnections,
        idle_s: float,
        duration_s: float,
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._client_secrets = client_secrets
        self._connections = connections
        self._idle_s = idle_s
        self._duration_s = duration_s

    def routes(self) -> list[BaseRoute]:
        """What to serve."""
        return [
            Route(SESSIONS_PATH, self.create_transcription_session, methods=["POST"]),
            Route(SECRETS_PATH, self.create_client_secret, methods=["POST"]),
            WebSocketRoute(REALTIME_PATH, self.serve),
            WebSocketRoute(FAL_PATH, self.serve),
            Route(REALTIME_PATH, _say_not_found, methods=_METHODS),
            Route(f"{REALTIME_PATH}/{{rest:path}}", _say_not_found, methods=_METHODS),
            WebSocketRoute(f"{REALTIME_PATH}/{{rest:path}}", _deny_not_found),
        ]

    # --- client secrets ------------------------------------------------------------------------

    async def create_transcription_session(self, request: Request) -> Response:
        """Make a secret as Kotoba and OpenAI's beta do."""
        is_beta = "openai-beta" in request.headers
        return await self._mint(
            request,
            lambda body: decode_transcription_session_request(
                body, "beta" if is_beta else "kotoba"
            ),
            encode_transcription_session,
        )

    async def create_client_secret(self, request: Request) -> Response:
        """Make a secret as OpenAI does."""
        return await self._mint(request, decode_client_secret_request, encode_client_secret)

    async def _mint(
        self,
        request: Request,
        decode: Callable[[bytes], SecretRequest],
        encode: Callable[..., bytes],
    ) -> Response:
        try:
            credential = find_realtime_credential(request)
            tenant = self._keys.find_tenant(None if credential is None else credential.value)
            if tenant is None:
                raise _unknown_key()
            asked = decode(await _read_body(request))
        except _RefusedError as error:
            return error.build_response()
        except RequestError as error:
            return _RefusedError(400, error.code, str(error), param=error.param).build_response()
        secret, expires_at_s = self._client_secrets.mint(tenant, asked)
        body = encode(
            asked.asked,
            session_id=_new_session_id(),
            secret=secret,
            expires_at_s=expires_at_s,
        )
        return Response(body, headers={"cache-control": "no-store"}, media_type="application/json")

    # --- realtime recognition ------------------------------------------------------------------

    async def serve(self, socket: WebSocket) -> None:
        """Carry one client from its upgrade to its close."""
        credential = find_realtime_credential(socket)
        with ExitStack() as stack:
            try:
                caller = await self._authenticate(socket, credential)
                wait_s = self._enter(caller.tenant, stack)
                if wait_s is None:
                    self._spend(caller)
                elif credential is None or not credential.is_browser:
                    raise _no_room(wait_s)
            except _RefusedError as error:
                await socket.send_denial_response(error.build_response())
                return
            peer = await _accept(socket, caller)
            if wait_s is not None:
                await peer.close(over_limit())
                return
            conversation = Conversation(
                peer,
                self._registry,
                caller,
                idle_s=self._idle_s,
                duration_s=self._duration_s,
            )
            await conversation.run()

    async def _authenticate(
        self, socket: WebSocket, credential: RealtimeCredential | None
    ) -> Caller:
        value = "" if credential is None else credential.value
        try:
            claims = await self._client_secrets.verify(value)
        except SpentSecretError:
            raise _spent() from None
        tenant = self._keys.find_tenant(value) if claims is None else claims.tenant
        if tenant is None:
            raise _unknown_key()
        return Caller(tenant=tenant, dialect=_find_dialect(socket, claims), claims=claims)

    def _enter(self, tenant: str, stack: ExitStack) -> int | None:
        """Return when it is worth while to try again; None: there is room."""
        try:
            stack.enter_context(self._connections.hold(tenant))
            self._registry.check_room(tenant)
        except OverLimitError as error:
            return error.retry_after_s
        return None

    def _spend(self, caller: Caller) -> None:
        if caller.claims is not None:
            try:
                self._client_secrets.spend(caller.claims)
            except SpentSecretError:
                raise _spent() from None


def _new_session_id() -> str:
    """Return a name for a connection."""
    return f"sess_{secrets.token_hex(12)}"


def _find_dialect(socket: WebSocket, claims: SecretClaims | None) -> Dialect:
    """Tell by how a client connects what it speaks (providers.md 2)."""
    offered: list[str] = socket.scope["subprotocols"]
    if "openai-beta" in socket.headers or _BETA_SUBPROTOCOL in offered:
        return "beta"
    is_openai = any(name.startswith("openai-") for name in offered)
    if is_openai or any(name in socket.query_params for name in _GENERAL_PARAMETERS):
        return "general"
    return "kotoba" if claims is None else claims.dialect


async def _accept(socket: WebSocket, caller: Caller) -> Peer:
    # Without an answer a browser drops the connection; the secret is never sent back.
    is_offered = _SUBPROTOCOL in socket.scope["subprotocols"]
    await socket.accept(subprotocol=_SUBPROTOCOL if is_offered else None)
    return Peer(
        socket,
        dialect=caller.dialect,
        session_id=_new_session_id(),
        is_fal="owner" in socket.path_params,  # of FAL_PATH
    )


async def _read_body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise _RefusedError(
                400, "invalid_parameters", f"The body has at most {BODY_BYTES_MAX} bytes."
            )
    return body


def _unknown_key() -> _RefusedError:
    return _RefusedError(
        401,
        "invalid_api_key",
        "Send your API key as 'Authorization: Bearer KEY', or a client secret"
        f" (POST {SESSIONS_PATH}) as subprotocol 'kotoba-insecure-api-key.SECRET'.",
    )


def _spent() -> _RefusedError:
    return _RefusedError(
        401, "session_expired", "The client secret has expired or was used: get another."
    )


def _no_room(wait_s: int) -> _RefusedError:
    error = over_limit()
    return _RefusedError(429, error.code, error.message, retry_after_s=wait_s)


def _not_found() -> Response:
    error = _RefusedError(
        404, "invalid_url", f"Here are WebSocket {REALTIME_PATH} and POST {SESSIONS_PATH}."
    )
    return error.build_response()


async def _say_not_found(_request: Request) -> Response:
    return _not_found()


async def _deny_not_found(socket: WebSocket) -> None:
    await socket.send_denial_response(_not_found())
