"""A denied subject is loud: JetStream publishes that may not be made look like time-outs."""

import asyncio
from pathlib import Path

import pytest

from speechbus_runtime.bus import connect_bus
from tests.support.bus_log import wait_until
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats

CONFIG = """
authorization {
  users = [
    { user: narrow, password: secret, permissions: { publish: ["_INBOX.>"], subscribe: [">"] } }
  ]
}
"""


def test_a_denied_publish_is_counted_and_reported(tmp_path: Path) -> None:
    """Health listens to this: a service that may not do its work is not ready."""
    config = tmp_path / "narrow.conf"
    config.write_text(CONFIG)
    with NatsServer(tmp_path / "nats", config=config) as server:
        denied = asyncio.run(_publish_denied(server.url))

    assert denied == ['Publish to "speech.v1.job.open"']


async def _publish_denied(url: str) -> list[str]:
    denied: list[str] = []
    bus = await connect_bus(url.replace("nats://", "nats://narrow:secret@"), name="test")
    bus.on_denied(denied.append)
    assert bus.publish_nowait(b"speech.v1.job.open", b"{}")
    await wait_until(lambda: bus.permission_errors == 1)
    await bus.shut_down()
    return denied


def test_more_subscriptions_than_the_server_takes_are_denials(tmp_path: Path) -> None:
    """They look like denied ones: nothing comes. The connection and what it has stay."""
    config = tmp_path / "few.conf"
    config.write_text("max_subscriptions: 2\n")
    with NatsServer(tmp_path / "nats", config=config) as server:
        denied, heard = asyncio.run(_subscribe_too_often(server.url))

    assert (denied, heard) == (["maximum subscriptions exceeded"], [b"a"])


async def _subscribe_too_often(url: str) -> tuple[list[str], list[bytes]]:
    denied: list[str] = []
    heard: list[bytes] = []
    bus = await connect_bus(url, name="test")
    bus.on_denied(denied.append)
    for subject in ("a", "b", "c"):
        bus.subscribe_direct(subject, lambda heard_on, _r, _p, _h: heard.append(heard_on))
    bus.publish_nowait(b"a", b"")
    await bus.flush()
    await bus.shut_down()
    return denied, heard
