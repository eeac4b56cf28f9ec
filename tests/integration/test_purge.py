"""`speechbus purge` with other rights than it needs, under the production configuration."""

import asyncio
import json
from pathlib import Path

import pytest

from speechbus_runtime.jetstream import request_api
from tests.support.command_line import run_speechbus
from tests.support.nats_server import NatsServer
from tests.support.secured_nats import build_secured_nats, connect_as, login_settings

pytestmark = pytest.mark.nats


def run_as(user: str, folder: Path, *arguments: str, prefix: str) -> tuple[int, str]:
    login = login_settings(folder, user)
    done = run_speechbus(
        *arguments, input_bytes=b"", **{f"{prefix}{name}": value for name, value in login.items()}
    )
    return done.returncode, (done.stdout + done.stderr).decode()


async def store_a_final(server: NatsServer) -> None:
    """Some other stream's worker; what it is does not matter here."""
    bus = await connect_as(server, "transcriber")
    subject = "speech.v1.write.acme.s1.final"
    ack = json.loads((await bus.request(subject, b"{}", timeout=10)).data)
    assert ack["stream"] == "TRANSCRIPT"
    await bus.shut_down()


async def count_stored(server: NatsServer, store: str) -> int:
    bus = await connect_as(server, "bootstrap")
    answer = await request_api(bus, f"STREAM.INFO.{store}", {})
    await bus.shut_down()
    return int(answer["state"]["messages"])


@pytest.mark.parametrize(
    ("user", "denied"), [("bootstrap", "CAPTION"), ("bootstrap", "TRANSCRIPT"), ("operator", "")]
)
def test_who_may_not_remove_all_of_it_removes_nothing(
    tmp_path: Path, user: str, denied: str
) -> None:
    """Half a purge would look as if it had been done: the rights are tried first."""
    server = build_secured_nats(tmp_path)
    users = tmp_path / "conf" / "users.conf"
    allowed = 'publish: [ "$JS.API.>" ]'
    assert allowed in users.read_text()
    if denied:
        less = f'{{ allow: [ "$JS.API.>" ], deny: [ "$JS.API.STREAM.PURGE.{denied}" ] }}'
        users.write_text(users.read_text().replace(allowed, f"publish: {less}"))
    server.start()
    try:
        code, told = run_as(
            "bootstrap",
            tmp_path,
            "bootstrap",
            "--nats-url",
            server.url,
            prefix="SPEECHBUS_BOOTSTRAP_",
        )
        assert code == 0, told
        asyncio.run(store_a_final(server))
        purge = ("purge", "s1", "--yes", "--force", "--nats-url", server.url)
        code, told = run_as(user, tmp_path, *purge, prefix="SPEECHBUS_")

        assert (code, "Nothing was removed." in told, "as 'bootstrap' may" in told) == (
            3,
            True,
            True,
        ), told
        assert asyncio.run(count_stored(server, "TRANSCRIPT")) == 1
    finally:
        server.kill()
