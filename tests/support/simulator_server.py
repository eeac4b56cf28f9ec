"""A simulator on a real port, in the test's own process."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from speechbus_simulator.kotoba_provider import KotobaProvider
from speechbus_simulator.palabra_provider import PalabraProvider
from speechbus_simulator.script import Provider, parse_script
from speechbus_simulator.server import SimulatorServer

__all__ = ["Address", "run_with_simulator"]

HOST = "127.0.0.1"
PATIENCE_S = 30.0
"""Only a hang reaches it."""


class Address:
    """Where it listens, and its time of day."""

    def __init__(self) -> None:
        self.port = 0
        self.now_s = 1_000.0
        self.end = asyncio.Event()
        """Ends the server."""
        self.ended = asyncio.Event()
        """Set when it has."""

    @property
    def http(self) -> str:
        """URL without a path."""
        return f"http://{HOST}:{self.port}"

    @property
    def ws(self) -> str:
        """URL without a path."""
        return f"ws://{HOST}:{self.port}"


def run_with_simulator(
    provider: Provider,
    script: str,
    client: Callable[[Address], Coroutine[Any, Any, None]],
) -> None:
    """Run a client against a simulator; both end, or the test fails."""

    async def main() -> None:
        address, ready = Address(), asyncio.Event()
        parsed = parse_script(script.encode(), provider=provider)
        kind = PalabraProvider if provider == "palabra" else KotobaProvider
        server = SimulatorServer(parsed, kind(parsed, now_s=lambda: address.now_s))

        def announce(port: int) -> None:
            address.port = port
            ready.set()

        async def serve() -> None:
            await server.serve(HOST, 0, announce=announce, until=address.end)
            address.ended.set()

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve())
            await ready.wait()
            await client(address)
            address.end.set()

    asyncio.run(main())
