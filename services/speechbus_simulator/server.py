"""A simulator's server: session storage over HTTP, streams over WebSocket, on one port."""

import asyncio
import hmac
import http.client
import io
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from speechbus_simulator.palabra import Close, HalfOpen, PalabraStream, Reset
from speechbus_simulator.peer import Peer, PeerGoneError
from speechbus_simulator.script import Fault, Script
from speechbus_wire import palabra as wire
from speechbus_wire.palabra_sessions import (
    Problem,
    SessionToken,
    decode_session_request,
    encode_problem,
    encode_session,
)

__all__ = ["PalabraServer"]

HEAD_BYTES_MAX: Final = 16 << 10
HEAD_TIMEOUT_S: Final = 10.0
BODY_BYTES_MAX: Final = 64 << 10
SESSIONS_KEPT_MAX: Final = 1_000
"""Sessions minted and not deleted; the oldest goes when one more is asked for."""
CONNECTIONS_MAX: Final = 1_000
SESSIONS_PATH: Final = "/session-storage/sessions/"


class _Asked(msgspec.Struct, frozen=True):
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s


class PalabraServer:
    """Serves clients until it is left; a session's number counts upgrades, refused ones included.

    Args:
        script: what is said, and what goes wrong.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tokens: dict[str, str] = {}
        self._n_sessions = 0
        self._n_live = 0
        self._n_connections = 0
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
        if self._n_connections >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._n_connections += 1
        self._open.add(writer)
        try:
            with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(HEAD_TIMEOUT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head, reader, writer)
        except (asyncio.LimitOverrunError, ValueError):
            writer.write(_respond(400, b""))
        finally:
            self._n_connections -= 1
            self._open.discard(writer)
            writer.close()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = _parse_head(head)
        try:
            if asked.headers.get("upgrade", "").lower() == "websocket":
                await self._serve_stream(asked, head, reader, writer)
                return
            body = await reader.readexactly(_body_length(asked))
            response = self._answer_rest(asked, body)
        except _RefusedError as error:
            response = _refuse(error, asked.path)
        writer.write(response)
        await writer.drain()

    # --- session storage -----------------------------------------------------------------------

    def _answer_rest(self, asked: _Asked, body: bytes) -> bytes:
        script = self._script
        for name, wanted in (
            ("clientid", script.client_id),
            ("clientsecret", script.client_secret),
        ):
            if wanted and not _is_same(asked.headers.get(name, ""), wanted):
                raise _RefusedError(401, "ClientId or ClientSecret is not accepted.")
        if asked.method == "POST" and asked.path == wire.SESSION_PATH:
            return self._mint(body)
        session_id = asked.path.removeprefix(SESSIONS_PATH)
        if asked.method == "DELETE" and session_id in self._tokens:
            del self._tokens[session_id]
            return _respond(204, b"")
        raise _RefusedError(404, "There is no such thing here.")

    def _mint(self, body: bytes) -> bytes:
        try:
            wanted = decode_session_request(body)
        except wire.PalabraError as error:
            raise _RefusedError(400, str(error)) from None
        session_id, token = secrets.token_hex(16), secrets.token_urlsafe(32)
        self._tokens[session_id] = token
        if len(self._tokens) > SESSIONS_KEPT_MAX:
            del self._tokens[next(iter(self._tokens))]
        session = SessionToken(
            session_id=session_id, publisher=token, subscribers=(token,) * wanted.subscriber_count
        )
        return _respond(201, encode_session(session))

    # --- streams -------------------------------------------------------------------------------

    async def _serve_stream(
        self,
        asked: _Asked,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._n_sessions += 1
        number = self._n_sessions
        parameters = self._admit(asked, number)
        peer = Peer(head, reader, writer)
        if not peer.is_open:
            return
        loop = asyncio.get_running_loop()
        stream = PalabraStream(
            self._script, session=number, parameters=parameters, now_s=loop.time()
        )
        self._n_live += 1
        try:
            await _converse(stream, peer)
        except PeerGoneError:
            return
        finally:
            self._n_live -= 1

    def _admit(self, asked: _Asked, number: int) -> wire.StreamParameters:
        script = self._script
        fault = _find_refusal(script, number)
        if fault is not None:
            raise _RefusedError(
                fault.status, "The script says so.", retry_after_s=fault.retry_after_s
            )
        if asked.path != wire.STREAM_PATH:
            raise _RefusedError(404, "There is no such thing here.")
        token = asked.query.get("token") or asked.headers.get("authorization", "").removeprefix(
            "Bearer "
        )
        is_minted = any(_is_same(token, known) for known in self._tokens.values())
        is_key = any(_is_same(token, key) for key in script.keys) or bool(token and not script.keys)
        if not is_minted and not is_key:
            raise _RefusedError(401, "The token is not accepted.")
        if script.sessions_max and self._n_live >= script.sessions_max:
            raise _RefusedError(409, "A session is already active for this identity.")
        try:
            parameters = wire.parse_stream_parameters(asked.query)
        except wire.ParameterError as error:
            raise _RefusedError(400, str(error)) from None
        if parameters.format != wire.PCM_S16LE:
            raise _RefusedError(400, f"The simulator hears {wire.PCM_S16LE} only.")
        return parameters


async def _converse(stream: PalabraStream, peer: Peer) -> None:
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


def _body_length(asked: _Asked) -> int:
    length = int(asked.headers.get("content-length", "0"))
    if not 0 <= length <= BODY_BYTES_MAX:
        raise _RefusedError(413, f"The body has more than {BODY_BYTES_MAX} bytes.")
    return length


def _find_refusal(script: Script, number: int) -> Fault | None:
    for fault in script.faults:
        if fault.kind == "refuse" and fault.session in {0, number}:
            return fault
    return None


def _is_same(text: str, wanted: str) -> bool:
    return hmac.compare_digest(text.encode(errors="replace"), wanted.encode(errors="replace"))


def _parse_head(head: bytes) -> _Asked:
    """Read a request's head.

    Raises:
        ValueError: it is none.
    """
    line, _, rest = head.partition(b"\r\n")
    method, target, _ = line.decode("latin-1").split(" ")
    parts = urlsplit(target)
    headers = http.client.parse_headers(io.BytesIO(rest))
    return _Asked(
        method=method,
        path=parts.path,
        query=dict(parse_qsl(parts.query, keep_blank_values=True)),
        headers={name.lower(): value for name, value in headers.items()},
    )


def _refuse(error: _RefusedError, path: str) -> bytes:
    problem = Problem(
        status=error.status,
        title=HTTPStatus(error.status).phrase,
        detail=error.detail,
        error_code="simulated",
        instance=path,
    )
    return _respond(error.status, encode_problem(problem), retry_after_s=error.retry_after_s)


def _respond(status: int, body: bytes, *, retry_after_s: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close"]
    if status != HTTPStatus.NO_CONTENT:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if retry_after_s is not None:
        lines.append(f"Retry-After: {retry_after_s}")
    return "\r\n".join([*lines, "", ""]).encode() + body
