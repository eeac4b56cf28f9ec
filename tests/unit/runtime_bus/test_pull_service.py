"""What a consumer delivers, as its reply subject says."""

import asyncio
import logging
from typing import Any, cast

import pytest
from faststream.nats import NatsMessage
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from speechbus_runtime.bus_login import NO_LOGIN
from speechbus_runtime.pull_service import Delivery, PullService, read_delivery, settle


@given(
    sequence=st.integers(1, 2**40),
    at_ns=st.integers(1_700_000_000 * 10**9, 2_000_000_000 * 10**9),
    n_delivered=st.integers(1, 1_000),
    has_account=st.booleans(),
)
def test_a_deliverys_time_is_that_of_a_read_of_the_store(
    *, sequence: int, at_ns: int, n_delivered: int, has_account: bool
) -> None:
    """A float is off by a millisecond now and then: then a deadline would fall twice, or never."""
    head, tail = ("$JS.ACK.hub.ACC", ".r4nd0m") if has_account else ("$JS.ACK", "")
    reply = f"{head}.TRANSCRIPT.correlator.{n_delivered}.{sequence}.7.{at_ns}.3{tail}"
    message = Msg(cast("Client", None), "a.b", reply, b"payload", None)

    delivery = read_delivery(message)

    assert (delivery.sequence, delivery.n_delivered) == (sequence, n_delivered)
    assert delivery.stored_at_ms == at_ns // 1_000_000
    assert (delivery.subject, delivery.payload) == ("a.b", b"payload")


class Message:
    """A delivery that notes how it is settled."""

    def __init__(self, n_delivered: int) -> None:
        reply = f"$JS.ACK.TRANSCRIPT.correlator.{n_delivered}.41.7.1700000000000000000.3"
        self.raw_message = Msg(cast("Client", None), "a.b", reply, b"swordfish", None)
        self.settled: list[tuple[str, float | None]] = []

    async def ack(self) -> None:
        """Done."""
        self.settled.append(("ack", None))

    async def reject(self) -> None:
        """Never again."""
        self.settled.append(("reject", None))

    async def nack(self, *, delay: float) -> None:
        """Again."""
        self.settled.append(("nack", delay))


class DropError(Exception):
    """Never."""


class LaterError(Exception):
    """Not now."""


SPEC = PullService(
    service="test",
    nats_url="",
    nats_login=NO_LOGIN,
    health_host="",
    health_port=0,
    jetstream_name="TRANSCRIPT",
    consumer="correlator",
    subject="a.>",
    stores=(),
    in_hand_max=1,
    handle_within_s=1.0,
    drops_on=(DropError,),
    repeats_on=(LaterError,),
)


@pytest.mark.parametrize(
    ("told", "n_delivered", "settled"),
    [
        (None, 1, ("ack", None)),
        (2.5, 1, ("nack", 2.5)),
        (DropError("never"), 1, ("reject", None)),
        (LaterError("not now"), 9, ("nack", 0.25)),
        (ExceptionGroup("tasks", [LaterError("not now")]), 1, ("nack", 0.25)),
        (KeyError("swordfish"), 1, ("nack", 2.0)),
        (ExceptionGroup("tasks", [LaterError(""), KeyError("swordfish")]), 3, ("nack", 8.0)),
        (KeyError("swordfish"), 1_000, ("nack", 60.0)),
    ],
)
def test_each_message_is_settled_once_whatever_its_handler_does(
    caplog: pytest.LogCaptureFixture,
    told: Exception | float | None,
    n_delivered: int,
    settled: tuple[str, float | None],
) -> None:
    """A message that meets a bug stops no others, is named in the log, and is no storm."""
    message = Message(n_delivered)

    async def handle(_delivery: Delivery) -> float | None:
        if isinstance(told, Exception):
            raise told
        return told

    asyncio.run(settle(SPEC, handle, cast("NatsMessage", message)))

    assert message.settled == [settled]
    fields: list[dict[str, Any]] = [vars(record) for record in caplog.records]
    assert [each["sequence"] for each in fields] == [41] * isinstance(told, Exception)
    is_bug = [record.levelno == logging.ERROR for record in caplog.records]
    assert is_bug == ["swordfish" in repr(told)] * len(is_bug)
    assert "swordfish" not in repr(fields)
