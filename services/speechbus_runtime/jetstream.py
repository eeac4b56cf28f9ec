"""JetStream's API, as raw requests: objects, single reads from the leader, batch direct get.

nats-py has no batch direct get and no priority groups, and its helpers overwrite what differs.
"""

import asyncio
import base64
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec
import nats.errors
from nats.aio.client import Client

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.tracing import read_traceparent

__all__ = [
    "ConsumerSpec",
    "JetStreamError",
    "JetStreamUnavailableError",
    "ObjectReport",
    "StoredMessage",
    "StreamSpec",
    "ensure",
    "fetch_last",
    "fetch_stored",
    "list_subjects",
    "parse_time_ms",
    "read_dedup_id",
    "read_last",
    "read_sequence",
    "read_specs",
    "request_api",
]

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 2.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_NOT_FOUND: Final = frozenset({10014, 10037, 10059})
"""Consumer, message and stream not found."""
_NAME_IN_USE: Final = frozenset({10058, 10013, 10148})
BATCH_MESSAGES_MAX: Final = 1_000
"""More than one stream's retained audio (90 s of 100 ms chunks)."""
BATCH_BYTES_MAX: Final = 4 << 20
LAST_SUBJECTS_MAX: Final = 1_024
"""The server's limit for the last messages of several subjects (ADR-31); beyond it answers 413."""


class JetStreamError(Exception):
    """JetStream refused a request; `err_code` says why."""

    def __init__(self, err_code: int, description: str) -> None:
        super().__init__(f"JetStream error {err_code}: {description}")
        self.err_code = err_code


class JetStreamUnavailableError(Exception):
    """No answer in time: NATS is away, elects a leader, or the subject is denied. Try again."""


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A JetStream stream as it should be."""

    name: str
    config: Mapping[str, Any]
    """Fields of the server's StreamConfig beside the name; others are left to its defaults."""


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer as it should be."""

    jetstream_name: str
    name: str
    config: Mapping[str, Any]
    """Fields of the server's ConsumerConfig beside the names."""


class ObjectReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `ensure` found."""

    name: str
    state: Literal["created", "raised", "unchanged", "drifted", "missing"]
    """`raised`: it has more replicas now."""
    drift: tuple[str, ...] = ()
    """One line per differing field: `field: is X, should be Y`. Nothing is overwritten."""


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as JetStream keeps it."""

    subject: str
    sequence: int
    payload: bytes
    time: str = ""
    """When it was stored: RFC 3339, on the server's clock."""
    dedup_id: str = ""
    """Of a read from the leader."""
    traceparent: str = ""
    """Header of that name: what its writer did when it wrote it."""

    @property
    def stored_at_ms(self) -> int:
        """When it was stored, ms since 1970, rounded down."""
        return parse_time_ms(self.time)


def parse_time_ms(text: str) -> int:
    """Return what the server writes as RFC 3339, in ms since 1970, rounded down."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MS


async def request_api(bus: Client, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send one request to `$JS.API.<call>` and return the answer.

    Raises:
        JetStreamError: the server refused it.
        JetStreamUnavailableError: no answer.
    """
    try:
        message = await bus.request(
            f"$JS.API.{call}", msgspec.json.encode(body), timeout=REQUEST_TIMEOUT_S
        )
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise JetStreamUnavailableError(type(error).__name__) from None
    answer: dict[str, Any] = msgspec.json.decode(message.data)
    problem = answer.get("error")
    if problem is not None:
        raise JetStreamError(int(problem.get("err_code", 0)), str(problem.get("description", "")))
    return answer


async def ensure(
    bus: BusConnection,
    streams: Sequence[StreamSpec],
    consumers: Sequence[ConsumerSpec] = (),
    *,
    create: bool = True,
) -> list[ObjectReport]:
    """Create what is missing and report what differs; run it as often as you like.

    Args:
        bus: connection with the right to create.
        streams: JetStream streams, created first.
        consumers: durable consumers of them.
        create: False only looks.

    Raises:
        JetStreamError: the server refuses to create one (no store, no room, wrong version).
        JetStreamUnavailableError: no answer.
    """
    reports: list[ObjectReport] = []
    for stream in streams:
        reports.append(
            await _ensure_one(
                bus,
                name=stream.name,
                info=f"STREAM.INFO.{stream.name}",
                create_call=f"STREAM.CREATE.{stream.name}" if create else None,
                body={**stream.config, "name": stream.name},
                wanted=stream.config,
            )
        )
    for consumer in consumers:
        where = f"{consumer.jetstream_name}.{consumer.name}"
        config = {"name": consumer.name, "durable_name": consumer.name, **consumer.config}
        reports.append(
            await _ensure_one(
                bus,
                name=f"{consumer.jetstream_name}/{consumer.name}",
                info=f"CONSUMER.INFO.{where}",
                create_call=f"CONSUMER.CREATE.{where}" if create else None,
                body={
                    "stream_name": consumer.jetstream_name,
                    "action": "create",
                    "config": config,
                },
                wanted=consumer.config,
            )
        )
    return reports


async def read_specs(bus: BusConnection, names: Sequence[str]) -> list[StreamSpec]:
    """Read how JetStream streams are configured, to be able to make them again.

    Raises:
        JetStreamError: one does not exist.
        JetStreamUnavailableError: no answer.
    """
    specs: list[StreamSpec] = []
    for name in names:
        found = await request_api(bus, f"STREAM.INFO.{name}", {})
        specs.append(StreamSpec(name=name, config=found["config"]))
    return specs


async def _ensure_one(
    bus: BusConnection,
    *,
    name: str,
    info: str,
    create_call: str | None,
    body: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> ObjectReport:
    try:
        found = await request_api(bus, info, {})
    except JetStreamError as error:
        if error.err_code not in _NOT_FOUND:
            raise
        if create_call is None:
            return ObjectReport(name=name, state="missing")
        try:
            await request_api(bus, create_call, body)
        except JetStreamError as created:
            if created.err_code not in _NAME_IN_USE:
                raise
            found = await request_api(bus, info, {})  # somebody else was quicker
        else:
            return ObjectReport(name=name, state="created")
    drift = tuple(_drift(wanted, found["config"]))
    return ObjectReport(name=name, state="drifted" if drift else "unchanged", drift=drift)


def _drift(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for field, value in sorted(wanted.items()):
        is_now = found.get(field)
        # The server leaves out what is false, zero or empty.
        if is_now != value and not (is_now is None and not value):
            lines.append(f"{field}: is {is_now!r}, should be {value!r}")
    return lines


class _Stored(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    data: str = ""
    time: str = ""
    hdrs: str = ""


async def read_last(bus: BusConnection, jetstream_name: str, subject: str) -> StoredMessage | None:
    """Read the last message of a subject from the leader (a direct get may be stale on R3).

    Raises:
        JetStreamUnavailableError: no answer; try again.
    """
    try:
        answer = await request_api(
            bus, f"STREAM.MSG.GET.{jetstream_name}", {"last_by_subj": subject}
        )
    except JetStreamError as error:
        if error.err_code == 10037:  # no message found
            return None
        raise JetStreamUnavailableError(str(error.err_code)) from None
    stored = msgspec.convert(answer["message"], _Stored)
    headers = base64.b64decode(stored.hdrs)
    return StoredMessage(
        subject=stored.subject,
        sequence=stored.seq,
        payload=base64.b64decode(stored.data),
        time=stored.time,
        dedup_id=read_dedup_id(headers),
        traceparent=read_traceparent(headers),
    )


async def fetch_stored(
    bus: BusConnection,
    jetstream_name: str,
    subject: str,
    *,
    start_time: str | None = None,
    start_sequence: int = 1,
    messages_max: int = BATCH_MESSAGES_MAX,
    bytes_max: int = BATCH_BYTES_MAX,
) -> list[StoredMessage]:
    """Read stored messages of one subject in order, by one batch direct get.

    Args:
        bus: the connection.
        jetstream_name: JetStream stream with `allow_direct`.
        subject: subject, wildcards allowed.
        start_time: RFC 3339; first message stored at or after it.
        start_sequence: used without `start_time`.
        messages_max: how many at most.
        bytes_max: likewise; the last one may exceed it.

    Returns:
        At most `messages_max` messages and about `bytes_max` bytes: call again from behind
        the last sequence when it may be more.

    Raises:
        JetStreamUnavailableError: no answer; try again.
    """
    body: dict[str, Any] = {
        "batch": messages_max,
        "max_bytes": bytes_max,
        "next_by_subj": subject,
    }
    if start_time is None:
        body["seq"] = start_sequence
    else:
        body["start_time"] = start_time
    return await _get_batch(bus, jetstream_name, body)


async def list_subjects(bus: BusConnection, jetstream_name: str, subject: str) -> set[str]:
    """Return the subjects, of those that match, of which something is stored.

    Raises:
        JetStreamUnavailableError: no answer; try again.
    """
    found: set[str] = set()
    while True:
        try:
            answer = await request_api(
                bus,
                f"STREAM.INFO.{jetstream_name}",
                {"subjects_filter": subject, "offset": len(found)},
            )
        except JetStreamError as error:
            raise JetStreamUnavailableError(str(error.err_code)) from None
        page: dict[str, int] = answer["state"].get("subjects") or {}
        found.update(page)
        if not page or len(found) >= answer.get("total", 0):
            return found


async def fetch_last(
    bus: BusConnection, jetstream_name: str, subjects: Sequence[str]
) -> list[StoredMessage]:
    """Read the last stored message of each of several subjects, by one batch direct get.

    Args:
        bus: the connection.
        jetstream_name: JetStream stream with `allow_direct`.
        subjects: wildcards allowed; at most `LAST_SUBJECTS_MAX` may match.

    Returns:
        The messages in the order of their sequences; nothing for subjects that have none.

    Raises:
        JetStreamUnavailableError: no answer, or too many subjects match.
    """
    if not subjects:
        return []
    return await _get_batch(
        bus, jetstream_name, {"multi_last": list(subjects), "max_bytes": BATCH_BYTES_MAX}
    )


def read_dedup_id(headers: bytes) -> str:
    """Return the dedup id in a header block, empty when there is none."""
    return _parse_direct_headers(headers).get(b"Nats-Msg-Id", b"").decode()


def read_sequence(headers: bytes) -> int:
    """Return the sequence that JetStream names in the header block of a republished message.

    Returns:
        0 when there is none: JetStream did not send it.
    """
    return _read_sequence(_parse_direct_headers(headers))


async def _get_batch(
    bus: BusConnection, jetstream_name: str, body: Mapping[str, Any]
) -> list[StoredMessage]:
    async with bus.batches:
        return await _get_one_batch(bus, jetstream_name, body)


async def _get_one_batch(
    bus: BusConnection, jetstream_name: str, body: Mapping[str, Any]
) -> list[StoredMessage]:
    if not bus.is_connected:
        raise JetStreamUnavailableError("not connected")  # before anything is queued for later
    inbox = bus.new_inbox()
    done: asyncio.Future[list[StoredMessage]] = asyncio.get_running_loop().create_future()
    messages: list[StoredMessage] = []

    def receive(_subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
        if done.done():
            return
        status = headers[9:12]
        if status == b"204" or status == b"404":  # end of batch, nothing stored
            done.set_result(messages)
        elif status.isdigit():
            done.set_exception(JetStreamUnavailableError(status.decode()))
        else:
            fields = _parse_direct_headers(headers)
            messages.append(
                StoredMessage(
                    subject=fields.get(b"Nats-Subject", b"").decode(),
                    sequence=_read_sequence(fields),
                    payload=payload,
                    time=fields.get(b"Nats-Time-Stamp", b"").decode(),
                    traceparent=read_traceparent(headers),
                )
            )

    sid = bus.subscribe_direct(inbox, receive)
    try:
        sent = bus.publish_nowait(
            f"$JS.API.DIRECT.GET.{jetstream_name}".encode(),
            msgspec.json.encode(body),
            reply=inbox.encode(),
        )
        if not sent:
            raise JetStreamUnavailableError("not connected")
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            return await done
    except TimeoutError:
        raise JetStreamUnavailableError("timeout") from None
    finally:
        bus.unsubscribe_direct(sid)


def _read_sequence(fields: Mapping[bytes, bytes]) -> int:
    text = fields.get(b"Nats-Sequence", b"0")
    return int(text) if text.isdigit() else 0


def _parse_direct_headers(headers: bytes) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in headers.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name] = value.strip()
    return fields
