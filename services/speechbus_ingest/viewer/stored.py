"""What the bus has stored about streams: which there are, and everything of one of them."""

from collections import deque
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Final

import msgspec

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    ContractError,
    StreamOpened,
    WriteSubject,
    decode_event,
    parse_token,
)
from speechbus_contracts.subjects import WRITE_ROOT
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import StoredMessage, fetch_last, fetch_stored

__all__ = [
    "LISTED_MAX",
    "ListedStream",
    "StreamPlace",
    "UnknownStreamError",
    "find_stream",
    "list_streams",
    "read_stream",
]

LISTED_MAX: Final = 200
"""More than a person reads; also what one direct get may ask for, five times over."""
WINDOWS_S: Final = (600, 6_000, 86_400)
"""How far back streams are looked for: further only while there are too few, so that a busy day
costs no more than a quiet one. The last is the default retention."""


SNAPSHOT_BATCH_MAX: Final = 250
"""Events of a stream read at once: some 300 kB, held while a slow viewer takes them."""


class UnknownStreamError(Exception):
    """No such stream is stored, or not for this tenant."""


class ListedStream(msgspec.Struct, frozen=True, kw_only=True):
    """One stream as the list shows it."""

    stream_id: str
    tenant: str
    language: str | None
    opened_at: int
    """ms since 1970."""
    state: str
    """`live` or `closed`."""


class StreamPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stream's events are."""

    tenant: str
    stream_id: str
    first_sequence: int
    """Of its first event in TRANSCRIPT."""


async def list_streams(
    bus: BusConnection, tenant: str | None, *, now_ns: int
) -> list[ListedStream]:
    """Return the streams of the last 24 h, the newest first, at most `LISTED_MAX`.

    Args:
        bus: the connection.
        tenant: whose; None: everybody's.
        now_ns: wall clock, ns since 1970.

    Raises:
        JetStreamUnavailableError: no answer; try again.
    """
    opened: list[StreamOpened] = []
    for window_s in WINDOWS_S:
        since = datetime.fromtimestamp(now_ns / 1e9 - window_s, UTC).isoformat()
        opened = await _read_opened(bus, tenant, since=since)
        if len(opened) == LISTED_MAX:
            break
    closed = await fetch_last(
        bus,
        TRANSCRIPT_STORE,
        [str(WriteSubject(stream.tenant, stream.stream_id, "closed")) for stream in opened],
    )
    ended = {message.subject.split(".")[4] for message in closed}
    listed = [
        ListedStream(
            stream_id=stream.stream_id,
            tenant=stream.tenant,
            language=stream.language,
            opened_at=stream.opened_at,
            state="closed" if stream.stream_id in ended else "live",
        )
        for stream in opened
    ]
    return sorted(listed, key=lambda stream: stream.opened_at, reverse=True)


async def find_stream(bus: BusConnection, tenant: str | None, stream_id: str) -> StreamPlace:
    """Find a stream by its id.

    Args:
        bus: the connection.
        tenant: whose it must be; None: anybody's.
        stream_id: as a client gave it.

    Raises:
        UnknownStreamError: there is none.
        JetStreamUnavailableError: no answer; try again.
    """
    try:
        subject = f"{WRITE_ROOT}.{tenant or '*'}.{parse_token(stream_id)}.opened"
    except ContractError:
        raise UnknownStreamError from None
    found = await fetch_last(bus, TRANSCRIPT_STORE, [subject])
    if not found:
        raise UnknownStreamError
    return StreamPlace(
        tenant=found[0].subject.split(".")[3],
        stream_id=stream_id,
        first_sequence=found[0].sequence,
    )


async def read_stream(
    bus: BusConnection, place: StreamPlace
) -> AsyncGenerator[list[StoredMessage], None]:
    """Yield everything stored of a stream, in order, a batch at a time.

    Raises:
        JetStreamUnavailableError: no answer; try again.
    """
    subject = f"{WRITE_ROOT}.{place.tenant}.{place.stream_id}.>"
    sequence = place.first_sequence
    while batch := await fetch_stored(
        bus,
        TRANSCRIPT_STORE,
        subject,
        start_sequence=sequence,
        messages_max=SNAPSHOT_BATCH_MAX,
    ):
        yield batch
        sequence = batch[-1].sequence + 1


async def _read_opened(bus: BusConnection, tenant: str | None, *, since: str) -> list[StreamOpened]:
    subject = f"{WRITE_ROOT}.{tenant or '*'}.*.opened"
    newest: deque[StreamOpened] = deque(maxlen=LISTED_MAX)
    batch = await fetch_stored(bus, TRANSCRIPT_STORE, subject, start_time=since)
    while batch:
        for message in batch:
            try:
                event = decode_event(message.payload)
            except ContractError:
                continue  # a stream that cannot be read must not hide the others
            if isinstance(event, StreamOpened):
                newest.append(event)
        batch = await fetch_stored(
            bus, TRANSCRIPT_STORE, subject, start_sequence=batch[-1].sequence + 1
        )
    return list(newest)
