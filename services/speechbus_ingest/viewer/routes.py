"""The viewer's routes: the page, the list of streams, and the feeds that keep both up to date.

→ GET /v1/streams
← {"streams": [{"stream_id", "tenant", "language", "opened_at", "state"}]}, the newest first
→ GET /v1/streams/events
← server-sent events: stream.opened and stream.closed as they happen
→ GET /v1/streams/{stream_id}/events
← server-sent events: everything stored, snapshot.end, everything that follows until stream.closed
"""

from collections.abc import Callable
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from speechbus_ingest.doors.credentials import find_credential
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.viewer.feeds import ListFeed, StreamFeed
from speechbus_ingest.viewer.page import page_routes
from speechbus_ingest.viewer.serving import FeedResponse, OpenFeeds, bus_away, refusal
from speechbus_ingest.viewer.stored import UnknownStreamError, find_stream, list_streams
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError

__all__ = ["Viewer"]


class _UnauthorizedError(Exception):
    """No key, or nobody's."""


class Viewer:
    """Shows transcripts over HTTP.

    Args:
        bus: control connection; viewers may slow it down, audio is on another.
        keys: who may read; a key shows its own tenant's streams.
        mode: `open`: everyone may read everything, without a key.
        now_ns: wall clock, ns since 1970.
    """

    def __init__(
        self,
        bus: BusConnection,
        keys: KeyRing,
        *,
        mode: Literal["key", "open"],
        now_ns: Callable[[], int],
    ) -> None:
        self._bus = bus
        self._keys = keys
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
            feed = ListFeed(self._bus, self._find_tenant(request))
        except _UnauthorizedError:
            return _unauthorized()
        return FeedResponse(feed, self._feeds)

    async def _follow_stream(self, request: Request) -> Response:
        try:
            place = await find_stream(
                self._bus, self._find_tenant(request), request.path_params["stream_id"]
            )
        except _UnauthorizedError:
            return _unauthorized()
        except JetStreamUnavailableError:
            return bus_away()
        except UnknownStreamError:
            return refusal(
                404,
                "unknown_stream",
                "No such stream: it may be older than what is kept, or belong to another key.",
            )
        return FeedResponse(StreamFeed(self._bus, place), self._feeds)

    def _find_tenant(self, request: Request) -> str | None:
        """Return whose streams may be shown; None: everybody's."""
        if self._is_open:
            return None
        tenant = self._keys.find_tenant(find_credential(request))
        if tenant is None:
            raise _UnauthorizedError
        return tenant


def _unauthorized() -> Response:
    return refusal(
        401,
        "unauthorized",
        "Send your API key as 'Authorization: Bearer KEY' or as ?token=KEY.",
    )
