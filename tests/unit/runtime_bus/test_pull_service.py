"""What a consumer delivers, as its reply subject says."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from speechbus_runtime.pull_service import read_delivery


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
