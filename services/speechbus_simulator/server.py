"""A simulator's server: a provider's HTTP addresses and its streams, on one port."""

import asyncio
import hmac
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol

from speechbus_simulator.actions import Close, HalfOpen, Reset, SimulatedStream
from speechbus_simulator.http_head import Asked, RefusedError, parse_head, respond
from speechbus_simulator.peer import Peer, PeerGoneError
from speechbus_simulator.script import Script

__all__ = ["SimulatedProvider", "SimulatorServer", "is_same"]

HEAD_BYTES_MAX: Final = 16 << 10
HEAD_TIMEOUT_S: Final = 10.0
CONNECTIONS_MAX: Final = 1_000


class SimulatedProvider(Protocol):
    """What of a simulator is one provider's."""

    @property
    def stream_path(self) -> str:
        """Where streams are opened."""
        ...

    @property
    def busy_status(self) -> int:
        """Says that there are too many sessions."""
        ...

    def answer(self, asked: Asked, body: bytes) -> bytes:
        """Answer a request that is no upgrade.

        Raises:
            RefusedError: with the status.
        """
        ...

    def admit(self, asked: Asked) -> None:
        """Check who asks for a stream.

        Raises:
            RefusedError: not this one.
        """
        ...

    def open_stream(self, asked: Asked, *, session: int, now_s: float) -> SimulatedStream:
        """Begin a stream.

        Raises:
            RefusedError: its parameters are wrong.
        """
        ...

    def spell_refusal(self, error: RefusedError, path: str) -> Any:  # noqa: ANN401 (any JSON)
        """Return the vendor's error body."""
        ...


class SimulatorServer:
    """Serves clients until it is left; a session's number counts upgrades, refused ones included.

    Args:
        script: what goes wrong.
        provider: what is the vendor's own.
    """

    def __init__(self, script: Script, provider: SimulatedProvider) -> None:
        self._script = script
        self._provider = provider
        self._n_sessions = 0
        self._n_live = 0
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncGenerator[int, None]:
        """Listen during the block; yields the port.

        Raises:
            OSError: the address cannot be listened on.
        """
        server = await asyncio.start_server(self._handle, host, port, limit=HEAD_BYTES_MAX)
        async with server:
            yield server.sockets[0].getsockname()[1]
            server.close()
            for writer in list(self._open):
                writer.transport.abort()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(HEAD_TIMEOUT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head, reader, writer)
        except (asyncio.LimitOverrunError, ValueError):
            writer.write(respond(400))
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = parse_head(head)
        try:
            if asked.headers.get("upgrade", "").lower() == "websocket":
                await self._serve_stream(asked, head, reader, writer)
                return
            body = await reader.readexactly(asked.body_length)
            response = self._provider.answer(asked, body)
        except RefusedError as error:
            response = respond(
                error.status,
                self._provider.spell_refusal(error, asked.path),
                retry_after_s=error.retry_after_s,
            )
        writer.write(response)
        await writer.drain()

    async def _serve_stream(
        self,
        asked: Asked,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._n_sessions += 1
        number = self._n_sessions
        self._check_script(number)
        if asked.path != self._provider.stream_path:
            raise RefusedError(404, "There is no such thing here.")
        self._provider.admit(asked)
        if self._script.sessions_max and self._n_live >= self._script.sessions_max:
            raise RefusedError(
                self._provider.busy_status, "Too many sessions.", code="rate_limit_error"
            )
        loop = asyncio.get_running_loop()
        stream = self._provider.open_stream(asked, session=number, now_s=loop.time())
        peer = Peer(head, reader, writer)
        if not peer.is_open:
            return
        self._n_live += 1
        try:
            await _converse(stream, peer)
        except PeerGoneError:
            return
        finally:
            self._n_live -= 1

    def _check_script(self, number: int) -> None:
        for fault in self._script.faults:
            if fault.kind == "refuse" and fault.session in {0, number}:
                raise RefusedError(
                    fault.status, "The script says so.", retry_after_s=fault.retry_after_s
                )


async def _converse(stream: SimulatedStream, peer: Peer) -> None:
    """Carry a stream to its end.

    Raises:
        PeerGoneError: the client has ended it.
    """
    loop = asyncio.get_running_loop()
    while True:
        for action in stream.take_due(now_s=loop.time()):
            match action:
                case str():
                    peer.send(action)
                case Close():
                    await peer.close(action.code)
                    return
                case Reset():
                    peer.reset()
                    return
                case HalfOpen():
                    await peer.fall_silent()
                    return
        try:
            async with asyncio.timeout_at(stream.next_due_s()):
                messages = await peer.receive()
        except TimeoutError:
            continue
        for message in messages:
            stream.receive(message, now_s=loop.time())


def is_same(text: str, wanted: str) -> bool:
    """Compare a secret in constant time."""
    return hmac.compare_digest(text.encode(errors="replace"), wanted.encode(errors="replace"))
