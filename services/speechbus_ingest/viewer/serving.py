"""Serves feeds to HTTP clients: a bounded number of them, each for as long as it keeps up."""

import asyncio
import logging
from collections import Counter
from contextlib import aclosing
from typing import Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from speechbus_ingest.doors.outbox import OutboxFullError
from speechbus_ingest.doors.refusals import refusal
from speechbus_ingest.viewer.feeds import Feed
from speechbus_runtime.jetstream import JetStreamUnavailableError

__all__ = ["FeedResponse", "OpenFeeds", "bus_away"]

logger = logging.getLogger(__name__)

FEEDS_MAX: Final = 400
"""A page has two, so 200 pages: a viewer costs as much as a client, and clients come first."""
FEEDS_PER_TENANT_MAX: Final = 300
"""Whoever has one token of one stream must not keep the viewers of all others out."""
SEND_TIMEOUT_S: Final = 30.0
"""A client that takes nothing for so long has gone without a goodbye, or never reads."""
GOODBYE_TIMEOUT_S: Final = 1.0

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events before it passes them on
]


def bus_away() -> Response:
    """Build the answer when NATS does not answer."""
    return refusal(
        503,
        "bus_unavailable",
        "The bus (NATS) does not answer; try again in some seconds. If it stays away, look at"
        " /readyz and at the NATS server.",
        retry_after_s=2,
    )


class OpenFeeds:
    """The feeds that are being read, so that all of them can be ended."""

    def __init__(self) -> None:
        self._sending: set[asyncio.Task[None]] = set()
        self._n_open = 0
        self._per_tenant: Counter[str] = Counter()
        self._is_closed = False

    def end_all(self) -> None:
        """End every feed; clients come back for what they miss."""
        for task in self._sending:
            task.cancel()

    def close(self) -> None:
        """End every feed and serve no more."""
        self._is_closed = True
        self.end_all()

    async def serve(
        self, feed: Feed, tenant: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Carry one client until its feed ends, it leaves, or it cannot keep up.

        Args:
            feed: what it is shown.
            tenant: who it counts for; None: everybody may read everything.
            scope: of its request.
            receive: from it.
            send: to it.
        """
        if self._is_closed:
            await refusal(
                503, "restarting", "This server goes away; connect again.", retry_after_s=1
            )(scope, receive, send)
            return
        if self._n_open >= FEEDS_MAX or (
            tenant is not None and self._per_tenant[tenant] >= FEEDS_PER_TENANT_MAX
        ):
            await refusal(
                503, "too_many_viewers", "Too many viewers; try again later.", retry_after_s=30
            )(scope, receive, send)
            return
        self._n_open += 1
        self._per_tenant[tenant or ""] += 1
        try:
            await feed.open()
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if scope["method"] != "HEAD":
                await self._converse(feed, receive, send)
            await _say_goodbye(send)
        except JetStreamUnavailableError:
            await bus_away()(scope, receive, send)
        finally:
            feed.close()
            self._n_open -= 1
            self._per_tenant[tenant or ""] -= 1

    async def _converse(self, feed: Feed, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(_send_pieces(feed, send))
            leaving = tasks.create_task(_wait_until_left(receive))
            self._sending.add(sending)
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._sending.discard(sending)
            sending.cancel()
            leaving.cancel()


class FeedResponse(Response):
    """An answer that is a feed.

    Args:
        feed: not opened yet.
        feeds: where it counts.
        tenant: who it counts for; None: everybody may read everything.
    """

    def __init__(self, feed: Feed, feeds: OpenFeeds, tenant: str | None) -> None:
        super().__init__()
        self._tenant = tenant
        self._feed = feed
        self._feeds = feeds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the feed; returns when it has ended."""
        await self._feeds.serve(self._feed, self._tenant, scope, receive, send)


async def _send_pieces(feed: Feed, send: Send) -> None:
    try:
        async with aclosing(feed.pieces()) as pieces:
            async for piece in pieces:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await send(_body(piece))
    except (OutboxFullError, TimeoutError) as error:
        logger.warning("viewer was too slow", extra={"why": type(error).__name__})
    except JetStreamUnavailableError:
        return  # the client comes back, and is told then


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _say_goodbye(send: Send) -> None:
    try:
        async with asyncio.timeout(GOODBYE_TIMEOUT_S):
            await send(_body(b"", is_last=True))
    except TimeoutError:
        return  # it does not read: the server closes the connection


def _body(piece: bytes, *, is_last: bool = False) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": not is_last}
