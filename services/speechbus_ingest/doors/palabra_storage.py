"""Palabra's session storage over HTTP: make, list, read, prolong and delete sessions."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from speechbus_ingest.doors.palabra_refusals import RefusedError, build_unavailable
from speechbus_ingest.doors.palabra_store import (
    Session,
    SessionStore,
    StoredSession,
    TooManySessionsError,
)
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.publisher import StaleGuardError
from speechbus_wire.palabra import SESSION_PATH, PalabraError
from speechbus_wire.palabra_sessions import (
    SessionClaims,
    SessionRequest,
    SessionToken,
    decode_session_request,
    encode_session,
    sign_token,
)
from speechbus_wire.palabra_storage import (
    SESSIONS_PATH,
    TTL_S_MAX,
    SessionInfo,
    encode_session_info,
    encode_session_list,
    parse_page,
    parse_ttl,
)

__all__ = ["PalabraStorage"]

BODY_BYTES_MAX: Final = 64 << 10
"""Of a request for a session, which has some 100 bytes."""
FULL_RETRY_S: Final = 60
JSON: Final = "application/json"

_Handler = Callable[[Request], Awaitable[Response]]


class PalabraStorage:
    """Serves the session storage.

    Args:
        keys: tenants and their keys: `ClientId` and `ClientSecret`.
        store: keeps the sessions.
        token_secrets: sign session tokens; the same in all processes that shall take them.
        now_ms: ms since 1970.
    """

    def __init__(
        self,
        keys: KeyRing,
        store: SessionStore,
        *,
        token_secrets: TokenSecrets,
        now_ms: Callable[[], int],
    ) -> None:
        self._keys = keys
        self._store = store
        self._token_secrets = token_secrets
        self._now_ms = now_ms

    def routes(self) -> list[BaseRoute]:
        """What to serve."""
        one = f"{SESSIONS_PATH}/{{session_id}}"
        return [
            Route(SESSION_PATH, _refusing(self.create), methods=["POST"]),
            Route(SESSIONS_PATH, _refusing(self.list_all), methods=["GET"]),
            Route(one, _refusing(self.read), methods=["GET"]),
            Route(one, _refusing(self.prolong), methods=["POST"]),
            Route(one, _refusing(self.delete), methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        """Exchange ClientId and ClientSecret for session tokens."""
        tenant = self._authenticate(request)
        asked = await _read_session_request(request)
        try:
            session = await self._store.create(tenant)
        except TooManySessionsError:
            raise RefusedError(
                429,
                "too_many_sessions",
                "Too Many Requests",
                "Delete sessions that are not used any more, or wait until some expire.",
                retry_after_s=FULL_RETRY_S,
            ) from None
        claims = SessionClaims(
            tenant=tenant,
            session_id=session.session_id,
            # What the store says of the session decides; this is as far as it can be prolonged.
            expires_at_s=session.created_at // 1000 + TTL_S_MAX,
        )
        subscriber = msgspec.structs.replace(claims, role="subscriber")
        tokens = SessionToken(
            session_id=session.session_id,
            publisher=sign_token(claims, self._token_secrets.current),
            subscribers=(sign_token(subscriber, self._token_secrets.current),)
            * asked.subscriber_count,
        )
        return Response(encode_session(tokens), 201, media_type=JSON)

    async def list_all(self, request: Request) -> Response:
        """Answer with a page of the tenant's sessions."""
        tenant = self._authenticate(request)
        page = parse_page(request.query_params)
        sessions = await self._store.read_all(tenant)
        return Response(encode_session_list([*map(_describe, sessions)], page), media_type=JSON)

    async def read(self, request: Request) -> Response:
        """Answer with one session."""
        stored = await self._find(self._authenticate(request), request)
        return Response(encode_session_info(_describe(stored.session)), media_type=JSON)

    async def prolong(self, request: Request) -> Response:
        """Let a session expire some seconds from now."""
        tenant = self._authenticate(request)
        ttl_s = parse_ttl(request.query_params)
        while True:
            stored = await self._find(tenant, request)
            try:
                await self._store.update(
                    stored,
                    expires_at=self._now_ms() + ttl_s * 1000,
                    holder=stored.session.holder,
                )
            except StaleGuardError:
                continue
            return Response(status_code=204)

    async def delete(self, request: Request) -> Response:
        """End a session, and the stream of its client."""
        tenant = self._authenticate(request)
        while True:
            stored = await self._find(tenant, request)
            try:
                await self._store.delete(stored)
            except StaleGuardError:
                continue
            return Response(status_code=204)

    def _authenticate(self, request: Request) -> str:
        tenant = self._keys.find_tenant(request.headers.get("clientsecret"))
        if tenant is None or tenant != request.headers.get("clientid"):
            raise RefusedError(
                401,
                "unauthorized",
                "Unauthorized",
                "Send your tenant's name as ClientId and its API key as ClientSecret.",
            )
        return tenant

    async def _find(self, tenant: str, request: Request) -> StoredSession:
        stored = await self._store.read(tenant, str(request.path_params["session_id"]))
        if stored is None or not stored.session.lives(now_ms=self._now_ms()):
            raise RefusedError(404, "not_found", "Not Found", "You have no session of this id.")
        return stored


def _refusing(handler: _Handler) -> _Handler:
    """Return the handler with its errors as the vendor's answers."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except RefusedError as error:
            return error.build_response(request)
        except PalabraError as error:
            refused = RefusedError(400, "invalid_parameter", "Bad Request", str(error))
            return refused.build_response(request)
        except JetStreamUnavailableError:
            return build_unavailable().build_response(request)

    return answer


async def _read_session_request(request: Request) -> SessionRequest:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise RefusedError(
                413, "too_large", "Content Too Large", "The body has at most 65536 bytes."
            )
    try:
        return decode_session_request(body)
    except PalabraError as error:
        raise RefusedError(400, "invalid_body", "Bad Request", str(error)) from None


def _describe(session: Session) -> SessionInfo:
    return SessionInfo(
        session_id=session.session_id,
        created_at=session.created_at,
        updated_at=session.updated_at,
        expires_at=session.expires_at,
    )
