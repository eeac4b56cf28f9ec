"""The native door and a client that connects and says nothing."""

import asyncio
from typing import Any, cast

import msgspec
from starlette.types import Message
from starlette.websockets import WebSocket

from speechbus_ingest.connections import TenantConnections
from speechbus_ingest.doors.native import HELLO_TIMEOUT_S, NativeDoor
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.registry import StreamRegistry
from speechbus_ingest.resume import Resumer
from tests.support.virtual_time import run_virtual


class _RoomyRegistry:
    """Has room for everybody and is asked for nothing else."""

    resume_s = 8.0

    def check_room(self, _tenant: str) -> None: ...


def test_who_says_no_hello_is_sent_away_after_ten_seconds() -> None:
    """Connections that say nothing would otherwise add up until no client gets in."""

    async def run() -> tuple[list[Message], float]:
        sent: list[Message] = []
        waiting: list[Message] = [{"type": "websocket.connect"}]

        async def receive() -> Message:
            if not waiting:
                await asyncio.Event().wait()
            return waiting.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/v1/streams",
            "headers": [(b"authorization", b"Bearer k")],
            "query_string": b"",
        }
        registry = _RoomyRegistry()
        door = NativeDoor(
            KeyRing([("acme", "k")]),
            cast(StreamRegistry, registry),
            Resumer(cast(StreamRegistry, registry)),
            connections=TenantConnections(1),
            idle_s=600.0,
            duration_s=600.0,
        )
        await door.serve(WebSocket(scope, receive, send))
        return sent, asyncio.get_running_loop().time()

    sent, now_s = run_virtual(run())

    assert now_s == HELLO_TIMEOUT_S
    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert msgspec.json.decode(sent[1]["text"]) == {
        "type": "error",
        "code": "hello.timeout",
        "message": "Send the hello within 10 s of connecting.",
    }
    assert sent[2]["code"] == 1008
