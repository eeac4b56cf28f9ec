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
