"""The little HTTP that the simulators need."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_simulator.http_head import Asked, RefusedError, parse_head, respond


def test_a_head_is_read() -> None:
    """Names of headers in lower case, the query by name."""
    head = b"POST /a/b?x=1&y= HTTP/1.1\r\nClientId: me\r\nContent-Length: 7\r\n\r\n"
    asked = parse_head(head)

    assert asked == Asked(
        method="POST",
        path="/a/b",
        query={"x": "1", "y": ""},
        headers={"clientid": "me", "content-length": "7"},
    )
    assert asked.body_length == 7


@given(head=st.binary(max_size=200), line=st.sampled_from([b"", b"GET /?a HTTP/1.1\r\n"]))
def test_garbage_is_refused_and_nothing_else(head: bytes, line: bytes) -> None:
    """Whatever connects."""
    with suppress(RefusedError):
        asked = parse_head(line + head + b"\r\n\r\n")
        assert asked.body_length >= 0


@pytest.mark.parametrize(("status", "name"), [(409, b"Conflict"), (529, b"Refused")])
def test_every_status_can_be_answered(status: int, name: bytes) -> None:
    """Also one that has no name."""
    answer = respond(status, {"a": 1}, retry_after_s=3)

    assert answer.startswith(b"HTTP/1.1 %d %s\r\n" % (status, name))
    assert answer.endswith(b'Content-Length: 7\r\nRetry-After: 3\r\n\r\n{"a":1}')
