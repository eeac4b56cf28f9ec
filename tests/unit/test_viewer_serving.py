import asyncio
from collections.abc import AsyncGenerator
from functools import partial

import pytest
from starlette.types import Message

from speechbus_ingest.doors.outbox import OutboxFullError
from speechbus_ingest.viewer import serving
from speechbus_ingest.viewer.serving import FeedResponse, OpenFeeds
from speechbus_runtime.jetstream import JetStreamUnavailableError
from tests.support.bus_log import wait_until

SCOPE = {"type": "http", "method": "GET"}


class ScriptedFeed:
    """Tells one piece, then fails with the given error, or has no more to tell."""

    def __init__(self, error: Exception | None = None) -> None:
        self.is_open = False
        self._error = error

    async def open(self) -> None:
        """Begin."""
        self.is_open = True

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Tell what there is."""
        yield b"data: {}\n\n"
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End."""
        self.is_open = False


class Viewer:
    """The other end of the connection: notes what it is sent, and stays."""

    def __init__(self, *, is_reading: bool = True) -> None:
        self.sent: list[Message] = []
        self._is_reading = is_reading

    async def receive(self) -> Message:
        """Stay."""
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        """Take a message, or block as a full socket does."""
        if message["type"] == "http.response.body" and not self._is_reading:
            await asyncio.Event().wait()
        self.sent.append(message)


def serve(
    feed: ScriptedFeed, viewer: Viewer, feeds: OpenFeeds | None = None, tenant: str | None = None
) -> list[object]:
    response = FeedResponse(feed, feeds or OpenFeeds(), tenant)
    asyncio.run(response(SCOPE, viewer.receive, viewer.send))
    assert not feed.is_open
    return [message.get("status", message.get("body")) for message in viewer.sent]


@pytest.mark.parametrize("error", [None, OutboxFullError(), JetStreamUnavailableError("timeout")])
def test_an_answer_is_complete_however_its_feed_ends(error: Exception | None) -> None:
    """The page then comes back for a snapshot; a torn answer would look like a broken server."""
    assert serve(ScriptedFeed(error), Viewer()) == [200, b"data: {}\n\n", b""]


def test_a_viewer_that_never_reads_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold its place, and what waits for it, for as long as its machine runs."""
    monkeypatch.setattr(serving, "SEND_TIMEOUT_S", 0.0)
    monkeypatch.setattr(serving, "GOODBYE_TIMEOUT_S", 0.0)

    assert serve(ScriptedFeed(), Viewer(is_reading=False)) == [200]


def test_nobody_is_let_in_while_the_server_goes_away() -> None:
    """A feed that opens behind the last look at the open ones would delay the end."""
    feeds = OpenFeeds()
    feeds.close()
    status, body = serve(ScriptedFeed(), Viewer(), feeds)

    assert status == 503
    assert isinstance(body, bytes)
    assert b"connect again" in body


def test_one_tenants_viewers_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one token of one stream is read again and again; without keys, all are one."""
    monkeypatch.setattr(serving, "FEEDS_MAX", 3)
    monkeypatch.setattr(serving, "FEEDS_PER_TENANT_MAX", 2)

    class EndlessFeed(ScriptedFeed):
        async def pieces(self) -> AsyncGenerator[bytes, None]:
            yield b"data: {}\n\n"
            await asyncio.Event().wait()

    async def run() -> list[int]:
        feeds, answers = OpenFeeds(), list[int]()
        async with asyncio.TaskGroup() as tasks:
            for tenant in ("acme", "acme", "acme", "other", None):
                viewer = Viewer()
                response = FeedResponse(EndlessFeed(), feeds, tenant)
                tasks.create_task(response(SCOPE, viewer.receive, viewer.send))
                await wait_until(partial(bool, viewer.sent))
                answers.append(viewer.sent[0]["status"])
            feeds.end_all()
        viewer = Viewer()
        await FeedResponse(ScriptedFeed(), feeds, "acme")(SCOPE, viewer.receive, viewer.send)
        return [*answers, viewer.sent[0]["status"]]

    assert asyncio.run(run()) == [200, 200, 503, 200, 503, 200]
