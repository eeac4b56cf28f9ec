"""A simulator's server: a provider's HTTP addresses and its streams, on one port."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from speechbus_simulator.actions import Close, HalfOpen, Reset, SimulatedStream
from speechbus_simulator.faults import find_fault
from speechbus_simulator.http_head import Asked, RefusedError, parse_head, respond
from speechbus_simulator.peer import CLOSE_TIMEOUT_S, READ_BYTES, Peer, PeerGoneError
from speechbus_simulator.places import Places
from speechbus_simulator.provider import SimulatedProvider
from speechbus_simulator.script import Script

__all__ = ["SimulatorServer"]

HEAD_BYTES_MAX: Final = 16 << 10
REQUEST_TIMEOUT_S: Final = 10.0
"""For a request's head, and for its body."""
CONNECTIONS_MAX: Final = 1_000
AWAY: Final = 1001


class SimulatorServer:
    """Serves clients until it is told to end.

    A session's number counts upgrades, refused ones included.

    Args:
        script: what goes wrong.
        provider: what is the vendor's own.
    """

    def __init__(self, script: Script, provider: SimulatedProvider) -> None:
        per_identity_max = script.sessions_per_identity_max
        self._script = script
        self._provider = provider
        self._n_sessions = 0
        self._refused_until_s: dict[int, float] = {}
        self._places = Places(
            total_max=script.sessions_max,
            per_identity_max=(
                provider.sessions_per_identity_max if per_identity_max is None else per_identity_max
            ),
            linger_s=script.linger_s,
        )

    async def serve(
        self, host: str, port: int, *, announce: Callable[[int], None], until: asyncio.Event
    ) -> None:
        """Listen until the event is set, then close what is open with 1001.

        Args:
            host: address to bind.
            port: 0 chooses a free one.
            announce: called with the port once it listens.
            until: ends it.

        Raises:
            OSError: the address cannot be listened on.
        """
        connections: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(connections) >= CONNECTIONS_MAX or until.is_set():
                writer.transport.abort()
                return
            task = tasks.create_task(self._handle(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(
            accept, host, port, limit=HEAD_BYTES_MAX, start_serving=False
        )
        async with server, asyncio.TaskGroup() as tasks:
            await server.start_serving()
            announce(server.sockets[0].getsockname()[1])
            await until.wait()
            server.close()
            for task in connections:
                task.cancel()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head, reader, writer)
        except asyncio.LimitOverrunError:
            await _part(respond(431), reader, writer)
        except asyncio.CancelledError:
            # Whatever its client does not read would keep the server from ending.
            writer.transport.abort()
            raise
        finally:
            writer.close()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        path = ""
        try:
            asked = parse_head(head)
            path = asked.path
            if asked.headers.get("upgrade", "").lower() == "websocket":
                await self._serve_stream(asked, head, reader, writer)
                return
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                body = await reader.readexactly(asked.body_length)
            response = self._provider.answer(asked, body)
        except RefusedError as error:
            response = respond(
                error.status,
                self._provider.spell_refusal(error, path),
                retry_after_s=error.retry_after_s,
            )
        await _part(response, reader, writer)

    async def _serve_stream(
        self,
        asked: Asked,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._n_sessions += 1
        number = self._n_sessions
        if find_fault(self._script.faults, "unanswered", number):
            while await reader.read(READ_BYTES):
                pass
            return
        self._check_script(number, now_s=loop.time())
        if asked.path != self._provider.stream_path:
            raise RefusedError(404, "There is no such thing here.")
        admission = self._provider.admit(asked, session=number, now_s=loop.time())
        stream = self._provider.open_stream(asked, session=number, now_s=loop.time())
        has_place = self._places.take(number, admission.identity, now_s=loop.time())
        if not has_place:
            if admission.open_refusal is None:
                raise RefusedError(
                    self._provider.busy_status, "Too many sessions.", code="rate_limit_error"
                )
            stream = admission.open_refusal()
        is_clean = False
        self._provider.note_live(admission.identity, 1)
        try:
            try:
                peer = Peer(head, reader, writer, subprotocol=admission.subprotocol)
            except ValueError:
                raise RefusedError(400, "The request is no upgrade.") from None
            is_clean = not peer.is_open or await _carry(stream, peer)
        finally:
            self._provider.note_live(admission.identity, -1)
            if has_place:
                self._places.leave(number, is_clean=is_clean, now_s=loop.time())

    def _check_script(self, number: int, *, now_s: float) -> None:
        for n, fault in enumerate(self._script.faults):
            if fault.kind == "refuse":
                if fault.session in {0, number} and n not in self._refused_until_s:
                    self._refused_until_s[n] = now_s + fault.for_s
                if fault.session in {0, number} or now_s < self._refused_until_s.get(n, 0.0):
                    raise RefusedError(
                        fault.status, "The script says so.", retry_after_s=fault.retry_after_s
                    )
        if find_fault(self._script.faults, "refuse_token", number):
            raise RefusedError(401, "The token has expired.", code="session_expired")


async def _part(
    response: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send the last words on a connection, and wait a moment for the client to leave.

    One that is closed with unread bytes in it is reset, and takes the answer with it.
    """
    with suppress(OSError):
        writer.write(response)
        writer.write_eof()
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            while await reader.read(READ_BYTES):
                pass


async def _carry(stream: SimulatedStream, peer: Peer) -> bool:
    """Carry a stream to its end; return whether the client said goodbye."""
    try:
        with suppress(PeerGoneError):
            await _converse(stream, peer)
    except asyncio.CancelledError:
        await peer.close(AWAY)
        raise
    return peer.has_said_goodbye


async def _converse(stream: SimulatedStream, peer: Peer) -> None:
    """Carry a stream until this side ends it.

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
