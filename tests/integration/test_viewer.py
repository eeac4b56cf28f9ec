import asyncio
import http.client
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from speechbus_contracts import (
    Event,
    LiveSubject,
    SegmentPartial,
    StreamClaimed,
    StreamClosed,
    StreamOpened,
    WriteKind,
    WriteSubject,
    encode_event,
)
from speechbus_ingest.viewer.serving import FEEDS_PER_TENANT_MAX
from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.publisher import AckedPublisher
from tests.support.correlator import final_of
from tests.support.speaker import speaking
from tests.support.system import Service, System

pytestmark = pytest.mark.nats

OTHER_KEY = "key-of-the-other-tenant"
PATIENCE_S = 30.0
"""Only a hang reaches it; above the heartbeat, which ends every silence."""

Told = dict[str, Any]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    keys = f"{System.tenant}:{System.key},other:{OTHER_KEY}"
    folder = tmp_path_factory.mktemp("system")
    with System(folder, ingest_settings={"API_KEYS": keys}) as running:
        yield running


@contextmanager
def client_of(service: Service, key: str | None = System.key) -> Generator[httpx.Client]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(
        base_url=service.url, headers=headers, timeout=PATIENCE_S, trust_env=False
    ) as client:
        yield client


class Viewing:
    """A feed that is being read."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200
        self._lines = response.iter_lines()

    def __iter__(self) -> Iterator[Told]:
        name = ""
        for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                event = msgspec.json.decode(value)
                assert event["type"] == name  # listeners of EventSource are named by it
                yield event

    def until(self, kind: str) -> list[Told]:
        """Return the next events, up to one of this type."""
        events: list[Told] = []
        for event in self:
            events.append(event)
            if event["type"] == kind:
                return events
        raise AssertionError(f"ended without {kind}: {[event['type'] for event in events]}")


@contextmanager
def viewing(service: Service, path: str, key: str | None = System.key) -> Generator[Viewing]:
    with client_of(service, key) as client, client.stream("GET", path) as response:
        yield Viewing(response)


def view_all(service: Service, stream_id: str, key: str | None = System.key) -> list[Told]:
    with viewing(service, f"/v1/streams/{stream_id}/events", key) as feed:
        return list(feed)


def list_ids(service: Service, key: str | None = System.key) -> list[tuple[str, str]]:
    with client_of(service, key) as client:
        streams = client.get("/v1/streams").raise_for_status().json()["streams"]
    return [(stream["stream_id"], stream["state"]) for stream in streams]


def texts(events: Sequence[Told]) -> list[str]:
    return [event["text"] for event in events if event["type"] == "segment.final"]


def types(events: Sequence[Told]) -> list[str]:
    return [event["type"] for event in events]


class Writer:
    """Writes events as other services do, to make what audio alone would take long to make."""

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus
        self._publisher = AckedPublisher(bus)

    async def store(self, stream_id: str, kind: WriteKind, *events: Event) -> None:
        """Write events of one kind, and return when they are stored."""
        for event in events:
            subject = str(WriteSubject(System.tenant, stream_id, kind))
            await self._publisher.publish(subject, encode_event(event), headers=b"")

    async def show(self, partial: SegmentPartial) -> None:
        """Publish a partial, which nobody stores."""
        await self._bus.publish(
            str(LiveSubject(System.tenant, partial.stream_id, "partial")), encode_event(partial)
        )
        await self._bus.flush()


@contextmanager
def writing(system: System) -> Generator[tuple[asyncio.Runner, Writer]]:
    with asyncio.Runner() as runner:
        bus = runner.run(connect_bus(system.nats.url, name="test"))
        try:
            yield runner, Writer(bus)
        finally:
            runner.run(bus.shut_down())


def opened(stream_id: str, *, opened_at: int = 1) -> StreamOpened:
    return StreamOpened(
        stream_id=stream_id,
        tenant=System.tenant,
        opened_at=opened_at,
        sample_rate_hz=16_000,
        shard=0,
    )


def claimed(stream_id: str, epoch: int) -> StreamClaimed:
    return StreamClaimed(
        stream_id=stream_id,
        tenant=System.tenant,
        epoch=epoch,
        worker="w",
        provider="echo",
        from_ms=0,
        reason="opened",
        claimed_at=1,
    )


def closed(stream_id: str) -> StreamClosed:
    return StreamClosed(
        stream_id=stream_id,
        tenant=System.tenant,
        epoch=1,
        reason="end",
        audio_ms=0,
        finals=0,
        gap_ms=0,
    )


def partial_of(stream_id: str, text: str, epoch: int) -> SegmentPartial:
    fields = msgspec.to_builtins(final_of(0, stream_id=stream_id, text=text, epoch=epoch))
    return msgspec.convert({**fields, "type": "segment.partial"}, SegmentPartial)


def test_a_finished_stream_is_told_from_its_opening_to_its_end(system: System) -> None:
    """Who comes late reads the whole transcript, and the feed says that no more will come."""
    with speaking(system.ingest_port, system.key, language="en") as speaker:
        speaker.speak(200)
        speaker.end()

    told = view_all(system.ingest, speaker.stream_id)

    assert types(told)[:2] == ["stream.opened", "stream.claimed"]
    assert texts(told) == ["1-150", "151-200"]
    assert types(told)[-2:] == ["stream.closed", "snapshot.end"]


def test_what_follows_the_snapshot_comes_live(system: System) -> None:
    """Partials are the point of a live page; finals come as they are stored."""
    with speaking(system.ingest_port, system.key) as speaker:
        speaker.speak(150)
        speaker.wait_for("segment.final")
        with viewing(system.ingest, f"/v1/streams/{speaker.stream_id}/events") as feed:
            stored = feed.until("snapshot.end")
            speaker.speak(30)
            shown = feed.until("segment.partial")
            speaker.speak(120)
            speaker.end()
            live = list(feed)

    assert texts(stored) == ["1-150"]
    assert shown[-1]["text"].startswith("151-")
    assert texts(live) == ["151-300"]
    assert types(live)[-1] == "stream.closed"


def test_viewers_who_come_at_any_moment_read_each_final_once(system: System) -> None:
    """Between what is stored and what is live nothing may fall through, nor come from both."""
    told: list[list[str]] = []

    def view(stream_id: str) -> None:
        told.append(texts(view_all(system.ingest, stream_id)))

    viewers: list[threading.Thread] = []
    with speaking(system.ingest_port, system.key) as speaker:
        for _ in range(12):
            viewers.append(threading.Thread(target=view, args=(speaker.stream_id,)))
            viewers[-1].start()
            speaker.speak(300)
        speaker.end()
    for viewer in viewers:
        viewer.join()

    all_finals = [f"{first}-{first + 149}" for first in range(1, 3_600, 150)]
    assert told == [all_finals] * 12


def test_a_long_stream_is_read_to_its_end(system: System) -> None:
    """It is read in several steps, each of which has a limit."""
    with writing(system) as (runner, writer):
        runner.run(writer.store("long", "opened", opened("long")))
        finals = [final_of(index, stream_id="long") for index in range(777)]
        runner.run(writer.store("long", "final", *finals))
        runner.run(writer.store("long", "closed", closed("long")))

    assert texts(view_all(system.ingest, "long")) == [final.text for final in finals]


def test_a_worker_that_lost_the_stream_is_not_shown(system: System) -> None:
    """A frozen worker that thaws speaks for a moment; its words would flicker over the new ones."""
    with writing(system) as (runner, writer):
        runner.run(writer.store("moved", "opened", opened("moved")))
        runner.run(writer.store("moved", "claim", claimed("moved", 2)))
        with viewing(system.ingest, "/v1/streams/moved/events") as feed:
            feed.until("snapshot.end")
            runner.run(writer.show(partial_of("moved", "stale", 1)))
            runner.run(writer.show(partial_of("moved", "fresh", 2)))
            shown = feed.until("segment.partial")
            runner.run(writer.store("moved", "claim", claimed("moved", 3)))
            feed.until("stream.claimed")
            runner.run(writer.show(partial_of("moved", "stale", 2)))
            runner.run(writer.store("moved", "closed", closed("moved")))
            rest = list(feed)

    assert [event["text"] for event in shown] == ["fresh"]
    assert types(rest) == ["stream.closed"]


def test_the_list_has_streams_of_the_key_the_newest_first(system: System) -> None:
    """The page shows the newest live one by itself."""
    with (
        speaking(system.ingest_port, OTHER_KEY, language="de") as first,
        speaking(system.ingest_port, OTHER_KEY) as second,
    ):
        with client_of(system.ingest, OTHER_KEY) as client:
            streams = client.get("/v1/streams").raise_for_status().json()["streams"]
        first.end()
        second.end()

    assert [set(stream) for stream in streams] == [
        {"stream_id", "tenant", "language", "opened_at", "state"}
    ] * 2
    assert [(s["stream_id"], s["tenant"], s["language"], s["state"]) for s in streams] == [
        (second.stream_id, "other", None, "live"),
        (first.stream_id, "other", "de", "live"),
    ]
    assert list_ids(system.ingest, OTHER_KEY) == [
        (second.stream_id, "closed"),
        (first.stream_id, "closed"),
    ]


def test_the_list_of_a_busy_day_has_the_newest(system: System) -> None:
    """It must not grow with the number of streams, nor forget the one that was just opened."""
    with writing(system) as (runner, writer):
        for number in range(230):
            stream_id = f"busy-{number}"
            event = opened(stream_id, opened_at=4_000_000_000_000 + number)
            runner.run(writer.store(stream_id, "opened", event))

    assert [stream_id for stream_id, _ in list_ids(system.ingest)] == [
        f"busy-{number}" for number in reversed(range(30, 230))
    ]


def test_openings_and_ends_are_told_as_they_happen(system: System) -> None:
    """A page left open shows the next stream without a reload."""
    with viewing(system.ingest, "/v1/streams/events", OTHER_KEY) as feed:
        with speaking(system.ingest_port, system.key) as unseen:
            unseen.end()
        with speaking(system.ingest_port, OTHER_KEY) as speaker:
            speaker.end()
        told = feed.until("stream.closed")

    assert [(event["type"], event["stream_id"]) for event in told] == [
        ("stream.opened", speaker.stream_id),
        ("stream.closed", speaker.stream_id),
    ]


@pytest.mark.parametrize("path", ["/v1/streams", "/v1/streams/events", "/v1/streams/x/events"])
@pytest.mark.parametrize("key", [None, "nobody's"])
def test_without_a_key_nothing_is_told(system: System, path: str, key: str | None) -> None:
    """Transcripts are as private as the speech."""
    with client_of(system.ingest, key) as client:
        answer = client.get(path)

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_a_stream_of_another_tenant_does_not_exist(system: System) -> None:
    """Not even whether it exists is told; nor do ids with wildcards find anything."""
    with speaking(system.ingest_port, system.key) as speaker:
        speaker.end()

    with client_of(system.ingest, OTHER_KEY) as client:
        for stream_id in (speaker.stream_id, "*", ">", "a.b"):
            answer = client.get(f"/v1/streams/{stream_id}/events")
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown_stream")
    assert speaker.stream_id not in dict(list_ids(system.ingest, OTHER_KEY))


def test_an_open_viewer_shows_every_tenant_without_a_key(system: System) -> None:
    """On one's own machine a key would only be in the way."""
    with speaking(system.ingest_port, OTHER_KEY) as speaker:
        speaker.speak(10)
        speaker.end()
    opening = system.add_service("ingest", VIEWER="open")
    try:
        told = view_all(opening, speaker.stream_id, None)
        listed = dict(list_ids(opening, None))
    finally:
        opening.kill()

    assert texts(told) == ["1-10"]
    assert listed[speaker.stream_id] == "closed"


def test_the_page_is_served_with_its_files_and_nothing_else(system: System) -> None:
    """The browser runs what this server sent, as what it is, and asks again after an update."""
    with client_of(system.ingest, None) as client:
        page = client.get("/")
        script = client.get("/static/page.js")
        again = client.get("/static/page.js", headers={"if-none-match": script.headers["etag"]})
        missing = [client.get(f"/static/{name}").status_code for name in ("routes.py", "gone.js")]
        kinds = {
            name: client.get(f"/static/{name}").headers["content-type"]
            for name in ("page.css", "icon.svg")
        }

    assert "<title>Speechbus</title>" in page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert kinds == {"page.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
    assert (again.status_code, missing) == (304, [404, 404])
    for answer in (page, script, again):
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["content-security-policy"] == "default-src 'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"


def test_viewers_beyond_the_limit_are_told_to_come_back(system: System) -> None:
    """Clients with audio come first; who closes the page makes room."""

    def follow() -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", system.ingest_port, timeout=PATIENCE_S)
        connection.request("GET", f"/v1/streams/events?token={system.key}")
        return connection

    with ExitStack() as stack:
        connections = [follow() for _ in range(FEEDS_PER_TENANT_MAX)]
        for connection in connections:
            stack.callback(connection.close)
            # Reading to its end is what would close it; the first line is the status.
            assert stack.enter_context(connection.getresponse()).status == 200
        with client_of(system.ingest) as client:
            refused = client.get("/v1/streams/events")
            listed = client.get("/v1/streams")

    assert (refused.status_code, refused.json()["code"]) == (503, "too_many_viewers")
    assert listed.status_code == 200
    with viewing(system.ingest, "/v1/streams/events"):
        pass


def test_sigterm_ends_the_feeds(system: System) -> None:
    """An update must not wait for pages that are left open for days."""
    leaving = system.add_service("ingest")
    with viewing(leaving, "/v1/streams/events") as feed:
        leaving.request_stop()
        told = list(feed)  # an unfinished answer would raise

    assert (leaving.wait_for_exit(), told) == (0, [])
    assert "graceful shutdown exceeded" not in leaving.log_path.read_text()


def test_viewers_come_back_for_what_was_said_while_nats_was_away(tmp_path: Path) -> None:
    """A feed that went on as if nothing were would miss it for good."""
    with System(tmp_path) as system, client_of(system.ingest) as client:
        with speaking(system.ingest_port, system.key) as speaker:
            speaker.speak(150)
            speaker.wait_for("segment.final")
            with viewing(system.ingest, f"/v1/streams/{speaker.stream_id}/events") as feed:
                feed.until("snapshot.end")
                system.nats.kill()
                assert types(list(feed)) == []
            for path in ("", "/events", f"/{speaker.stream_id}/events"):
                answer = client.get(f"/v1/streams{path}")
                assert (answer.status_code, answer.json()["code"]) == (503, "bus_unavailable")
            system.nats.start()
            system.ingest.wait_until_ready()
            speaker.speak(150)
            speaker.end()

        assert texts(view_all(system.ingest, speaker.stream_id)) == ["1-150", "151-300"]
