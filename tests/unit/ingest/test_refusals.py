"""Refused requests are counted, whatever door says no."""

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest
from starlette.types import Message, Receive, Scope, Send

from speechbus_ingest.refusals import CountingRefusals

HTTP: Final = ({"type": "http.response.start", "status": 401}, {"type": "http.response.body"})
DENIED: Final = (
    {"type": "websocket.http.response.start", "status": 429},
    {"type": "websocket.http.response.body"},
)
SERVED: Final = ({"type": "http.response.start", "status": 200}, {"type": "http.response.body"})
ACCEPTED: Final = ({"type": "websocket.accept"}, {"type": "websocket.send", "text": "401"})


@pytest.mark.parametrize(
    ("answers", "counted"), [(HTTP, [401]), (DENIED, [429]), (SERVED, []), (ACCEPTED, [])]
)
def test_refusals_are_counted_and_answers_pass_unchanged(
    answers: Sequence[Message], counted: Sequence[int]
) -> None:
    """Of HTTP and of upgrades."""
    sent: list[Message] = []
    refusals: list[int] = []

    async def serve(_scope: Scope, _receive: Receive, send: Send) -> None:
        for answer in answers:
            await send(answer)

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(CountingRefusals(serve, refusals.append)({"type": "any"}, receive, send))

    assert refusals == counted
    assert sent == list(answers)
