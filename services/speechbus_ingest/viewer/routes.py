"""The viewer's routes: the page, the list of streams, and the feeds that keep both up to date.

→ GET /v1/streams
← {"streams": [{"stream_id", "tenant", "language", "opened_at", "state"}]}, the newest first
→ GET /v1/streams/events
← server-sent events: stream.opened and stream.closed as they happen
→ GET /v1/streams/{stream_id}/events
← server-sent events: everything stored, snapshot.end, everything that follows until stream.closed
→ POST /v1/streams/{stream_id}/viewer_token {"ttl_s"}
← {"token", "expires_at"}: reads this one stream's events as ?token=…, without a key
"""

from collections.abc import Callable
from typing import Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from speechbus_ingest.doors.credentials import find_credential
from speechbus_ingest.doors.refusals import refusal
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_ingest.viewer.feeds import ListFeed, StreamFeed
from speechbus_ingest.viewer.page import page_routes
from speechbus_ingest.viewer.serving import FeedResponse, OpenFeeds, bus_away
from speechbus_ingest.viewer.stored import (
    StreamPlace,
    UnknownStreamError,
    find_stream,
    list_streams,
)
from speechbus_ingest.viewer.tokens import (
    TTL_S_MAX,
    ViewerClaims,
    ViewerTokenRequest,
    sign_viewer_token,
    verify_viewer_token,
)
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError

__all__ = ["Viewer"]

BODY_BYTES_MAX: Final = 1_024
"""Of a request for a viewer token, which has some 20 bytes."""

_token_request_decoder: Final = msgspec.json.Decoder(ViewerTokenRequest)


class _UnauthorizedError(Exception):
    """No key, or nobody's."""


class _RefusedError(Exception):
    """Answered with this response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Viewer:
    """Shows transcripts over HTTP.

    Args:
        bus: control connection; viewers may slow it down, audio is on another.
        keys: who may read; a key shows its own tenant's streams.
        secrets: sign viewer tokens.
        mode: `open`: everyone may read everything, without a key.
        now_ns: wall clock, ns since 1970.
    """

    def __init__(
        self,
        bus: BusConnection,
        keys: KeyRing,
        secrets: TokenSecrets,
        *,
        mode: Literal["key", "open"],
        now_ns: Callable[[], int],
    ) -> None:
        self._bus = bus
        self._keys = keys
        self._secrets = secrets
        self._is_open = mode == "open"
        self._now_ns = now_ns
        self._feeds = OpenFeeds()
        # What is said while NATS is away would be missing for good: viewers come back for it.
        bus.on_disconnected(self._feeds.end_all)

    def routes(self) -> list[BaseRoute]:
        """Return the routes, the page at `/` included."""
        return [
            *page_routes(),
            Route("/v1/streams", self._list, methods=["GET"]),
            Route("/v1/streams/events", self._follow_list, methods=["GET"]),
            Route("/v1/streams/{stream_id}/events", self._follow_stream, methods=["GET"]),
            Route(
                "/v1/streams/{stream_id}/viewer_token", self._make_viewer_token, methods=["POST"]
            ),
        ]

    def close(self) -> None:
        """End all feeds and refuse new ones: the process is about to end."""
        self._feeds.close()

    async def _list(self, request: Request) -> Response:
        try:
            streams = await list_streams(
                self._bus, self._find_tenant(request), now_ns=self._now_ns()
            )
        except _UnauthorizedError:
            return _unauthorized()
        except JetStreamUnavailableError:
            return bus_away()
        return Response(
            msgspec.json.encode({"streams": streams}),
            headers={"cache-control": "no-store", "x-content-type-options": "nosniff"},
            media_type="application/json",
        )

    async def _follow_list(self, request: Request) -> Response:
        try:
            tenant = self._find_tenant(request)
        except _UnauthorizedError:
            return _unauthorized()
        return FeedResponse(ListFeed(self._bus, tenant), self._feeds, tenant)

    async def _follow_stream(self, request: Request) -> Response:
        try:
            tenant = self._find_reader(request)
            place = await self._find_stream(request, tenant)
        except _RefusedError as error:
            return error.response
        return FeedResponse(StreamFeed(self._bus, place), self._feeds, tenant)

    async def _make_viewer_token(self, request: Request) -> Response:
        try:
            tenant = self._find_owner(request)
            asked = await _read_token_request(request)
            place = await self._find_stream(request, tenant)
        except _RefusedError as error:
            return error.response
        claims = ViewerClaims(
            tenant=tenant,
            stream_id=place.stream_id,
            expires_at_s=self._now_ns() // 1_000_000_000 + asked.ttl_s,
        )
        token = sign_viewer_token(claims, self._secrets.current)
        return Response(
            msgspec.json.encode({"token": token, "expires_at": claims.expires_at_s}),
            201,
            headers={"cache-control": "no-store", "x-content-type-options": "nosniff"},
            media_type="application/json",
        )

    async def _find_stream(self, request: Request, tenant: str | None) -> StreamPlace:
        try:
            return await find_stream(self._bus, tenant, request.path_params["stream_id"])
        except JetStreamUnavailableError:
            raise _RefusedError(bus_away()) from None
        except UnknownStreamError:
            raise _RefusedError(
                refusal(
                    404,
                    "unknown_stream",
                    "No such stream: it may be older than what is kept, or belong to another key.",
                )
            ) from None

    def _find_reader(self, request: Request) -> str | None:
        """Return whose stream may be shown, by a key or by a token of this one stream."""
        claims = verify_viewer_token(
            find_credential(request) or "", self._secrets.taken, now_s=self._now_ns() / 1e9
        )
        if claims is not None:
            is_this = claims.stream_id == request.path_params["stream_id"]
            if is_this and self._keys.has_tenant(claims.tenant):
                return claims.tenant
            raise _RefusedError(_unauthorized())
        try:
            return self._find_tenant(request)
        except _UnauthorizedError:
            raise _RefusedError(_unauthorized()) from None

    def _find_owner(self, request: Request) -> str:
        """Return whose key it is: also where everyone may read, somebody owns what is shared."""
        tenant = self._keys.find_tenant(find_credential(request))
        if tenant is None:
            raise _RefusedError(_unauthorized())
        return tenant

    def _find_tenant(self, request: Request) -> str | None:
        """Return whose streams may be shown; None: everybody's."""
        if self._is_open:
            return None
        tenant = self._keys.find_tenant(find_credential(request))
        if tenant is None:
            raise _UnauthorizedError
        return tenant


async def _read_token_request(request: Request) -> ViewerTokenRequest:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise _RefusedError(
                refusal(413, "too_large", f"The body has at most {BODY_BYTES_MAX} bytes.")
            )
    try:
        return _token_request_decoder.decode(body.strip() or b"{}")
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise _RefusedError(
            refusal(
                400,
                "invalid_body",
                f'The body is empty, or {{"ttl_s": SECONDS}} with 10 to {TTL_S_MAX} s.',
            )
        ) from None


def _unauthorized() -> Response:
    return refusal(
        401,
        "unauthorized",
        "Send your API key as 'Authorization: Bearer KEY' or as ?token=KEY.",
    )
