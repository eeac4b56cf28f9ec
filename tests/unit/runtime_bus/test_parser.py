"""What the server sends, in whatever pieces TCP delivers it."""

import asyncio
from itertools import pairwise
from typing import Final, Literal

import msgspec
import nats.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_runtime.bus import BusConnection, encode_headers

DIRECT_SIDS: Final = (1, 22)
QUEUED_SIDS: Final = (3, 444)

Call = tuple[str, bytes, bytes, bytes, bytes]
"""Kind, then subject, reply, payload and headers; the line alone for other operations."""


class ParsedBus(BusConnection):
    """A connection that records what its parser makes of the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        for sid in DIRECT_SIDS:
            self.direct_handlers[sid] = self._note_direct

    async def process_queued(
        self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes
    ) -> None:
        """Record a message for nats-py."""
        self.calls.append((f"queued {sid}", subject, reply, payload, headers))

    async def process_operation(self, line: bytes) -> None:
        """Record an operation; a `-ERR` loses the connection, as nats-py would on this one."""
        self.calls.append(("operation", line, b"", b"", b""))
        if line == b"-ERR 'Stale Connection'":
            self._ps.reset()

    async def feed(self, *pieces: bytes) -> None:
        """Parse pieces as they come off the socket."""
        for piece in pieces:
            await self._ps.parse(piece)

    def reset(self) -> None:
        """Begin a new connection."""
        self._ps.reset()

    def _note_direct(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self.calls.append(("direct", subject, reply, payload, headers))


class Operation(msgspec.Struct, frozen=True):
    """Bytes of one operation, and the call they stand for."""

    data: bytes
    call: Call


def message_of(
    sid: int, subject: str, reply: str, payload: bytes, headers: bytes, line_end: bytes = b"\r\n"
) -> Operation:
    """Return a MSG, or an HMSG if there are headers."""
    names = f"{subject} {sid} {reply}".encode().strip()
    size = len(headers) + len(payload)
    line = (
        b"HMSG %b %d %d" % (names, len(headers), size) if headers else b"MSG %b %d" % (names, size)
    )
    kind = "direct" if sid in DIRECT_SIDS else f"queued {sid}"
    return Operation(
        line + line_end + headers + payload + b"\r\n",
        (kind, subject.encode(), reply.encode(), payload, headers),
    )


def operation_of(line: bytes) -> Operation:
    return Operation(line + b"\r\n", ("operation", line, b"", b"", b""))


TOKENS = st.text("abcXYZ019_-$", min_size=1, max_size=8)
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)
PAYLOADS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"\r\n", b"PING\r\n", b"MSG a 1 5\r\nhello\r\n", b"\r", b"-ERR 'no'\r\n"]),
)
HEADERS = st.one_of(
    st.just(b""),
    st.dictionaries(TOKENS, st.text("abc :/%", max_size=8), min_size=1, max_size=3).map(
        encode_headers
    ),
    st.just(b"NATS/1.0 503\r\n\r\n"),
)
MESSAGES = st.builds(
    message_of,
    st.sampled_from([*DIRECT_SIDS, *QUEUED_SIDS]),
    SUBJECTS,
    st.one_of(st.just(""), SUBJECTS),
    PAYLOADS,
    HEADERS,
)
OPERATIONS = st.sampled_from(
    [
        operation_of(line)
        for line in (
            b"PING",
            b"PONG",
            b"+OK",
            b"-ERR 'Permissions Violation for Publish to \"a.b\"'",
            b'INFO {"server_id":"X","max_payload":1048576,"connect_urls":["a:1"]}',
        )
    ]
)


@given(operations=st.lists(st.one_of(MESSAGES, OPERATIONS), max_size=8), data=st.data())
def test_any_cut_of_the_bytes_gives_the_same_calls(
    operations: list[Operation], data: st.DataObject
) -> None:
    """A message that is cut, joined or taken for an operation would be lost audio."""
    sent = b"".join(operation.data for operation in operations)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=12).map(sorted))
    borders = [0, *cuts, len(sent)]
    pieces = [sent[low:high] for low, high in pairwise(borders)]
    bus = ParsedBus()
    asyncio.run(bus.feed(*pieces))

    assert bus.calls == [operation.call for operation in operations]


@given(operations=st.lists(st.one_of(MESSAGES, OPERATIONS), min_size=1, max_size=3))
def test_the_bytes_may_come_one_by_one(operations: list[Operation]) -> None:
    """The worst cut of all."""
    sent = b"".join(operation.data for operation in operations)
    bus = ParsedBus()
    asyncio.run(bus.feed(*(sent[at : at + 1] for at in range(len(sent)))))

    assert bus.calls == [operation.call for operation in operations]


@given(message=MESSAGES, share=st.floats(0, 1, exclude_max=True))
def test_half_a_message_dies_with_its_connection(message: Operation, share: float) -> None:
    """Its beginning must not be joined with what the next server says."""
    bus = ParsedBus()

    async def main() -> None:
        await bus.feed(message.data[: int(share * len(message.data))])
        bus.reset()
        await bus.feed(b"PING\r\n")

    asyncio.run(main())
    assert bus.calls == [operation_of(b"PING").call]


def test_what_follows_an_error_that_ends_the_connection_is_forgotten() -> None:
    """nats-py resets the parser while it is still at work on the bytes before."""
    bus = ParsedBus()
    asyncio.run(bus.feed(b"-ERR 'Stale Connection'\r\nMSG a 1 5\r\nhe", b"PING\r\n"))

    assert [call[1] for call in bus.calls] == [b"-ERR 'Stale Connection'", b"PING"]


@pytest.mark.parametrize(
    "data",
    [b"MSG a 1 x\r\n", b"MSG a\r\n", b"MSG a b 1\r\n", b"HMSG a 1 x 4\r\n", b"HMSG a 1\r\n"],
)
def test_a_malformed_message_is_a_protocol_error(data: bytes) -> None:
    """nats-py reconnects on it; any other error would end the read loop for good."""
    with pytest.raises(nats.errors.ProtocolError):
        asyncio.run(ParsedBus().feed(data))


@pytest.mark.parametrize("line", [b"HTTP/1.1 400 Bad Request", b"", b"MSGS 1", b"GO"])
def test_another_protocol_is_a_protocol_error(line: bytes) -> None:
    """Something else listens on that port."""
    with pytest.raises(nats.errors.ProtocolError):
        asyncio.run(BusConnection().process_operation(line))


def test_a_failing_handler_does_not_stop_the_parser(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in one stream must not silence all others; the log names no message."""
    bus = ParsedBus()

    def fail(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        del subject, reply, payload, headers
        raise RuntimeError

    bus.direct_handlers[1] = fail
    asyncio.run(bus.feed(b"MSG a 1 6\r\nsecret\r\nMSG b 22 2\r\nhi\r\n"))

    assert bus.calls == [("direct", b"b", b"", b"hi", b"")]
    assert [record.message for record in caplog.records] == ["message handler failed"]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("kind", ["none", "one", "two"])
def test_a_header_block_is_what_nats_expects(kind: Literal["none", "one", "two"]) -> None:
    """A block that is off by a byte makes the server cut the connection."""
    headers = {
        "none": {},
        "one": {"Nats-Msg-Id": "s1-0:0"},
        "two": {"content-type": "application/json", "x": "ä"},
    }[kind]
    expected = {
        "none": b"NATS/1.0\r\n\r\n",
        "one": b"NATS/1.0\r\nNats-Msg-Id: s1-0:0\r\n\r\n",
        "two": "NATS/1.0\r\ncontent-type: application/json\r\nx: ä\r\n\r\n".encode(),
    }[kind]

    assert encode_headers(headers) == expected
