"""A scripted server that speaks to the page as ingest does, so that tests decide what it hears."""

import asyncio
import socket
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import speechbus_ingest

__all__ = ["LIST_FEED", "Event", "StandIn", "encode_event", "running_stand_in"]

Event = Mapping[str, object]

LIST_FEED = ""
"""Name of the feed of all streams; every other feed has the id of its stream."""

VIEWER_FOLDER = Path(speechbus_ingest.__file__).parent / "viewer"

FEED_EVENTS_MAX = 5_000
"""Pieces one connection may be behind; more than any script here sends at once."""

WAIT_TIMEOUT_S = 10.0
"""For a browser on a busy machine; a healthy one needs milliseconds."""

LIVE_ONLY = ("segment.partial", "turn.started", "turn.ended", "stream.lag")
"""Types that the bus does not store, so a snapshot has none of them."""

HEADERS = {"content-security-policy": "default-src 'self'", "cache-control": "no-cache"}


def encode_event(event: Event, *, line_end: str = "\n") -> bytes:
    """Write one server-sent event; its name is the event's type."""
    name, data = str(event["type"]), msgspec.json.encode(event).decode()
    return f"event: {name}{line_end}data: {data}{line_end}{line_end}".encode()


class StandIn:
    """The server's streams and who listens; every public method may be called by any thread."""

    def __init__(self, url: str, portal: BlockingPortal) -> None:
        """Prepare a server without streams, which asks for no key."""
        self.url = url
        self.key: str | None = None
        self.requests: list[tuple[str, str | None]] = []
        """Path and token of each request to the API, in order."""
        self._portal = portal
        self._streams: dict[str, dict[str, object]] = {}
        self._stored: defaultdict[str, list[Event]] = defaultdict(list)
        self._feeds: defaultdict[str, set[asyncio.Queue[bytes | None]]] = defaultdict(set)
        self._changed = threading.Condition()

    def open_stream(self, stream_id: str, *, opened_at: int, language: str | None = "en") -> None:
        """Open a stream and tell those who follow the list."""
        stream = {
            "stream_id": stream_id,
            "tenant": "acme",
            "language": language,
            "opened_at": opened_at,
        }
        self._streams[stream_id] = {**stream, "state": "live"}
        opened = {"type": "stream.opened", **stream}
        self.emit(stream_id, opened, {"type": "stream.claimed", "epoch": 1, "provider": "echo"})
        self.send_raw(LIST_FEED, encode_event(opened))

    def close_stream(self, stream_id: str, **facts: object) -> None:
        """End a stream and tell everyone."""
        self._streams[stream_id]["state"] = "closed"
        closed = {"type": "stream.closed", **self._streams[stream_id], **facts}
        self.emit(stream_id, closed)
        self.send_raw(LIST_FEED, encode_event(closed))

    def emit(self, stream_id: str, *events: Event) -> None:
        """Send events of a stream, and store those that the bus would store."""
        for event in events:
            if event["type"] not in LIVE_ONLY:
                self._stored[stream_id].append(event)
        self.send_raw(stream_id, b"".join(encode_event(event) for event in events))

    def send_raw(self, feed: str, *pieces: bytes) -> None:
        """Send bytes as they are, each piece as a chunk of its own."""
        self._portal.call(self._put, feed, pieces)

    def drop(self, feed: str) -> None:
        """End all connections of a feed, as a restart of the server does."""
        self._portal.call(self._put, feed, (None,))

    def drop_all(self) -> None:
        """End all connections."""
        for feed in list(self._feeds):
            self.drop(feed)

    def wait_for_listeners(self, feed: str, count: int) -> None:
        """Block until exactly this many connections follow a feed.

        Raises:
            AssertionError: after 10 s.
        """
        with self._changed:
            is_reached = self._changed.wait_for(
                lambda: len(self._feeds[feed]) == count, WAIT_TIMEOUT_S
            )
        assert is_reached, f"{len(self._feeds[feed])} listeners, expected {count}"

    def application(self) -> Starlette:
        """Build the application: the page's files and the three endpoints it uses."""
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/v1/streams", self._list),
                Route("/v1/streams/events", self._list_events),
                Route("/v1/streams/{stream_id}/events", self._stream_events),
                Mount("/static", StaticFiles(directory=VIEWER_FOLDER)),
            ]
        )

    def _put(self, feed: str, pieces: tuple[bytes | None, ...]) -> None:
        for queue in self._feeds[feed]:
            for piece in pieces:
                queue.put_nowait(piece)

    async def _page(self, _: Request) -> Response:
        return FileResponse(VIEWER_FOLDER / "index.html", headers=HEADERS)

    async def _list(self, request: Request) -> Response:
        if not self._is_allowed(request):
            return Response(status_code=401)
        streams = msgspec.json.encode({"streams": list(self._streams.values())})
        return Response(streams, media_type="application/json")

    async def _list_events(self, request: Request) -> Response:
        if not self._is_allowed(request):
            return Response(status_code=401)
        return self._follow(LIST_FEED, b": welcome\n\n")

    async def _stream_events(self, request: Request) -> Response:
        stream_id = request.path_params["stream_id"]
        if not self._is_allowed(request):
            return Response(status_code=401)
        if stream_id not in self._streams:
            return Response(status_code=404)
        snapshot = [*self._stored[stream_id], {"type": "snapshot.end"}]
        return self._follow(stream_id, b"".join(encode_event(event) for event in snapshot))

    def _is_allowed(self, request: Request) -> bool:
        token = request.query_params.get("token")
        self.requests.append((request.url.path, token))
        return self.key is None or token == self.key

    def _follow(self, feed: str, first: bytes) -> Response:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(FEED_EVENTS_MAX)
        queue.put_nowait(first)
        return StreamingResponse(self._pieces(feed, queue), media_type="text/event-stream")

    async def _pieces(self, feed: str, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        self._note(feed, self._feeds[feed] | {queue})
        try:
            while (piece := await queue.get()) is not None:
                yield piece
        finally:
            self._note(feed, self._feeds[feed] - {queue})

    def _note(self, feed: str, queues: set[asyncio.Queue[bytes | None]]) -> None:
        with self._changed:
            self._feeds[feed] = queues
            self._changed.notify_all()


@contextmanager
def running_stand_in() -> Generator[StandIn]:
    """Serve a stand-in on loopback until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener, start_blocking_portal() as portal:
        stand_in = StandIn(f"http://127.0.0.1:{listener.getsockname()[1]}", portal)
        config = uvicorn.Config(
            stand_in.application(),
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,  # a connection that the browser still holds
        )
        server = uvicorn.Server(config)
        served = portal.start_task_soon(server.serve, [listener])
        try:
            yield stand_in
        finally:
            stand_in.drop_all()
            server.should_exit = True
            served.result()
