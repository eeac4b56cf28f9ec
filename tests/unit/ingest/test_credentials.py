"""Where a client of Kotoba's address may put its key."""

import base64

import pytest
from starlette.requests import HTTPConnection

from speechbus_ingest.doors.credentials import RealtimeCredential, find_realtime_credential


def find(authorization: str = "", *subprotocols: str) -> RealtimeCredential | None:
    """What is found in an upgrade."""
    return find_realtime_credential(
        HTTPConnection(
            {
                "type": "websocket",
                "headers": [(b"authorization", authorization.encode("latin-1"))],
                "subprotocols": list(subprotocols),
            }
        )
    )


def basic(text: str) -> str:
    """The header of a user and a password."""
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "authorization",
    ["Bearer KEY", "bearer  KEY ", "Key KEY", basic("KEY:"), basic("KEY"), basic("KEY:ignored")],
)
def test_a_header_has_the_key(authorization: str) -> None:
    """Kotoba's two ways, and fal.ai's."""
    assert find(authorization) == RealtimeCredential("KEY", is_browser=False)


@pytest.mark.parametrize("vendor", ["kotoba", "openai"])
def test_a_browser_has_it_in_a_subprotocol(vendor: str) -> None:
    """Wherever it stands among the others."""
    found = find("", "realtime", f"{vendor}-insecure-api-key.ek_1.2.3", "openai-beta.realtime-v1")

    assert found == RealtimeCredential("ek_1.2.3", is_browser=True)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Digest KEY", "KEY", "Basic", "Basic *", "Basic /w==", basic(":KEY")],
)
def test_there_may_be_none(authorization: str) -> None:
    """And nothing breaks over what is no header at all."""
    assert find(authorization, "realtime", "kotoba-api-key.KEY") is None


def test_the_header_comes_first() -> None:
    """Who can set it is no browser, and is told by status."""
    assert find("Bearer KEY", "kotoba-insecure-api-key.other") == RealtimeCredential(
        "KEY", is_browser=False
    )
