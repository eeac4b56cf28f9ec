"""Publishing that waits for its answer, against scripted answers."""

import asyncio
from unittest import mock

import pytest

from speechbus_contracts import build_guard_headers
from speechbus_runtime import publisher as publisher_module
from speechbus_runtime.bus import encode_headers
from speechbus_runtime.publisher import (
    ACK_TIMEOUT_S,
    Ack,
    AckedPublisher,
    PublishRefusedError,
    StaleGuardError,
)
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import run_virtual

STORED = b'{"stream":"TRANSCRIPT","seq":7}'
NO_RESPONDERS = (b"", b"NATS/1.0 503\r\n\r\n")


def refusal(code: int, err_code: int) -> bytes:
    return b'{"error":{"code":%d,"err_code":%d,"description":"x"},"stream":"T","seq":0}' % (
        code,
        err_code,
    )


class AnsweringBus(FakeBus):
    """Answers each publish with the next of the planned answers; None: never."""

    def __init__(self, *answers: bytes | tuple[bytes, bytes] | None) -> None:
        super().__init__()
        self.answers = list(answers)

    def publish_nowait(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> bool:
        """Record one message and answer it."""
        is_sent = super().publish_nowait(subject, payload, reply=reply, headers=headers)
        answer = self.answers.pop(0) if is_sent and self.answers else None
        if answer is not None:
            body, block = (answer, b"") if isinstance(answer, bytes) else answer
            asyncio.get_running_loop().call_soon(lambda: self.deliver(reply, body, headers=block))
        return is_sent


async def publish(bus: FakeBus, headers: bytes = b"block") -> Ack:
    return await AckedPublisher(bus).publish("a.b", b"event", headers=headers)


def test_the_answer_is_handed_back() -> None:
    """Its sequence is a claim's fencing token."""
    bus = AnsweringBus(STORED)

    assert run_virtual(publish(bus)) == Ack(seq=7)
    ((subject, payload, headers),) = [(s.subject, s.payload, s.headers) for s in bus.sent]
    assert (subject, payload, headers) == (b"a.b", b"event", b"block")


def test_a_message_that_was_stored_before_counts_as_stored() -> None:
    """The answer to the first try was lost, not the message."""
    bus = AnsweringBus(None, b'{"stream":"T","seq":7,"duplicate":true}')

    assert run_virtual(publish(bus)) == Ack(seq=7, duplicate=True)
    assert len(bus.sent) == 2


@pytest.mark.parametrize(
    "answer",
    [
        None,
        NO_RESPONDERS,
        refusal(503, 10_077),
        refusal(500, 10_158),
        refusal(400, 10_164),
        b"not json",
    ],
    ids=["silence", "no stream", "full", "being stored", "guarded write in flight", "garbage"],
)
def test_what_passes_is_repeated(answer: bytes | tuple[bytes, bytes] | None) -> None:
    """Elections, restarts and full stores: the event waits, and is stored when they are over."""
    bus = AnsweringBus(answer, answer, STORED)

    assert run_virtual(publish(bus)) == Ack(seq=7)
    assert len(bus.sent) == 3
    assert len({sent.reply for sent in bus.sent}) == 3


@pytest.mark.parametrize("err_code", [10_070, 10_071])
def test_a_guard_that_no_longer_holds_ends_the_matter(err_code: int) -> None:
    """Somebody else owns the stream: repeating would be two owners."""
    bus = AnsweringBus(refusal(400, err_code))
    guard = build_guard_headers("final:1", token=3, claim_subject="a.claim")

    with pytest.raises(StaleGuardError):
        run_virtual(publish(bus, encode_headers(guard)))
    assert len(bus.sent) == 1


def test_a_message_that_will_never_be_stored_is_not_repeated() -> None:
    """Repeating it for ever would hide the bug."""
    bus = AnsweringBus(refusal(400, 10_054))

    with pytest.raises(PublishRefusedError) as caught:
        run_virtual(publish(bus))
    assert type(caught.value) is PublishRefusedError
    assert caught.value.err_code == 10_054
    assert len(bus.sent) == 1


def test_a_lost_connection_ends_the_wait_at_once() -> None:
    """Its answer will never come; after the reconnect it is sent again."""

    async def main() -> None:
        bus = AnsweringBus(None, STORED)
        loop = asyncio.get_running_loop()

        def lose() -> None:
            bus.is_away = True
            for hook in bus.disconnected:
                hook()

        def return_() -> None:
            bus.is_away = False

        loop.call_later(0.2, lose)
        loop.call_later(0.5, return_)
        assert await publish(bus) == Ack(seq=7)
        assert loop.time() < ACK_TIMEOUT_S

    run_virtual(main())


def test_a_late_answer_to_an_earlier_try_is_no_answer_to_this_one() -> None:
    """Each try has an inbox of its own: a refusal of the past must not end the present."""

    async def main() -> None:
        bus = AnsweringBus(None, STORED)
        ack = await publish(bus)
        bus.deliver(bus.sent[0].reply, refusal(400, 10_071))
        assert ack == Ack(seq=7)

    run_virtual(main())


def test_the_window_is_bounded() -> None:
    """A stalled server meets a bounded queue, and every answer makes room."""

    async def main() -> None:
        bus = FakeBus()
        with mock.patch.object(publisher_module, "WINDOW_MAX", 3):
            publisher = AckedPublisher(bus)
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(publisher.publish("a.b", b"%d" % number, headers=b""))
            await asyncio.sleep(0.1)
            assert [sent.payload for sent in bus.sent] == [b"0", b"1", b"2"]
            bus.deliver(bus.sent[1].reply, STORED)
            await asyncio.sleep(0.1)
            assert [sent.payload for sent in bus.sent] == [b"0", b"1", b"2", b"3"]
            for sent in [bus.sent[0], *bus.sent[2:]]:
                bus.deliver(sent.reply, STORED)
            await asyncio.sleep(0.1)
            bus.deliver(bus.sent[4].reply, STORED)

    run_virtual(main())


def test_a_cancelled_publish_makes_room() -> None:
    """A stream that is superseded stops waiting; its place is somebody else's."""

    async def main() -> None:
        bus = FakeBus()
        with mock.patch.object(publisher_module, "WINDOW_MAX", 1):
            publisher = AckedPublisher(bus)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(publisher.publish("a.b", b"0", headers=b""))
            second = group.create_task(publisher.publish("a.b", b"1", headers=b""))
            await asyncio.sleep(0.1)
            first.cancel()
            await asyncio.sleep(0.1)
            bus.deliver(bus.sent[0].reply, STORED)
            bus.deliver(bus.sent[1].reply, STORED)
        assert second.result() == Ack(seq=7)

    run_virtual(main())
