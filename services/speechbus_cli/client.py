"""The client's side of the native door, `WS /v1/streams` (version 1)."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidHeaderValue,
    InvalidStatus,
    InvalidURI,
)

from speechbus_cli.errors import (
    CannotConnectError,
    CommandError,
    FailedError,
    SettingsMistakeError,
    UnauthorizedError,
)
from speechbus_cli.network_errors import describe_network_error
from speechbus_contracts import AnyEvent, ContractError, StreamClosed, decode_event
from speechbus_runtime.task_groups import plain_errors

__all__ = [
    "DoorQueued",
    "DoorReady",
    "Received",
    "StreamRequest",
    "build_door_url",
    "is_loopback",
    "stream_audio",
]

DOOR_PATH: Final = "/v1/streams"
OPEN_TIMEOUT_S: Final = 10.0
"""Connecting takes milliseconds; a server that needs longer is not well."""
SILENCE_TIMEOUT_S: Final = 120.0
"""After the end of the audio, this long without any event means that nobody works on it: a stream
that waits for a worker is closed by the bus after 90 s."""
STOP_TIMEOUT_S: Final = 5.0
"""How long somebody who pressed Ctrl-C waits for the last finals."""
CLOSE_TIMEOUT_S: Final = 2.0
MESSAGE_BYTES_MAX: Final = 1 << 20
"""The longest event, a final with the times of some thousand words, has a fifth of it."""
RECEIVED_MESSAGES_MAX: Final = 64
"""Messages read ahead of a slow terminal; beyond them the socket, and then the server, waits."""

_URL_WANTED: Final = "--url wants ws://HOST:PORT or wss://HOST:PORT."
_RESTARTING: Final = 1012
_OVERLOADED: Final = 1013


class StreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What one stream is asked to be."""

    sample_rate_hz: int
    """Of PCM s16le mono, 8,000 to 48,000."""
    language: str | None = None
    """BCP 47 tag of the speech; None: the provider decides."""
    target_languages: tuple[str, ...] = ()
    """BCP 47 tags to translate into."""
    providers: tuple[str, ...] = ()
    """Route, in the order to try; empty: the server's own."""


class DoorReady(msgspec.Struct, frozen=True, kw_only=True):
    """The stream is open and audio may follow."""

    stream_id: str
    accepted_samples: int = 0


class DoorQueued(msgspec.Struct, frozen=True, kw_only=True):
    """No worker has room yet; audio is kept until one has."""

    message: str = ""


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the server."""

    raw: bytes
    """As it came."""
    event: AnyEvent | DoorReady | DoorQueued | None
    """None: a type this version does not know."""
    at_s: float
    """When it came, on the event loop's clock."""


class _Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    format: Literal["pcm_s16le"] = "pcm_s16le"
    sample_rate_hz: int
    language: str | None
    target_languages: tuple[str, ...]
    providers: tuple[str, ...]


class _Head(msgspec.Struct, frozen=True):
    type: str


class _DoorError(msgspec.Struct, frozen=True):
    code: str = "unknown"
    message: str = ""


_END: Final = '{"type":"end"}'
_head_decoder: Final = msgspec.json.Decoder(_Head)
_ready_decoder: Final = msgspec.json.Decoder(DoorReady)
_queued_decoder: Final = msgspec.json.Decoder(DoorQueued)
_error_decoder: Final = msgspec.json.Decoder(_DoorError)


def build_door_url(url: str) -> str:
    """Return the door's address at a server; `http` becomes `ws`.

    Raises:
        SettingsMistakeError: not an address, or it carries a password or a path other than the
            door's.
    """
    try:
        parts = urlsplit(url if "//" in url else f"ws://{url}")
        _ = parts.port  # parsed, and complained about, only when it is read
    except ValueError:
        raise SettingsMistakeError(_URL_WANTED) from None
    scheme = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}.get(parts.scheme)
    is_elsewhere = parts.path.rstrip("/") not in ("", DOOR_PATH)
    if scheme is None or not parts.hostname or "@" in parts.netloc or is_elsewhere:
        raise SettingsMistakeError(_URL_WANTED)
    return urlunsplit((scheme, parts.netloc, DOOR_PATH, "", ""))


async def stream_audio(
    url: str,
    *,
    key: str | None,
    request: StreamRequest,
    audio: AsyncIterator[bytes],
    receive: Callable[[Received], None],
    stop: asyncio.Event | None = None,
) -> StreamClosed | None:
    """Stream audio and hand on what comes back, until the stream is closed.

    `receive` is a callback, not a generator's value, because sending goes on in a task of its own
    meanwhile, which a generator that nobody finishes would leave behind.

    Args:
        url: the server, as `build_door_url` takes it.
        key: credential; None: none.
        request: options of the stream.
        audio: PCM s16le mono; read from once the server is ready, sent as fast as it yields and
            the server accepts.
        receive: called for each message in order; must be quick.
        stop: once set, the audio ends where it is, and finals are awaited for `STOP_TIMEOUT_S`.

    Returns:
        The stream's last event; None when it had not come in time after `stop`.

    Raises:
        UnauthorizedError: the key is missing, wrong or has too many streams.
        CannotConnectError: nobody answers, or the connection broke.
        FailedError: the server refused the stream or its audio; the text says why.
        SettingsMistakeError: `url` is no address, or `key` cannot be one.
    """
    address = build_door_url(url)
    connection = await _connect(address, key)
    try:
        with suppress(ConnectionClosed):  # why stands among the received messages
            await connection.send(_encode_hello(request))
        conversation = _Conversation(connection, receive)
        await conversation.receive_ready()
        await _converse(conversation, audio, stop)
    except ConnectionClosed as closed:
        raise _explain_close(closed, url) from None
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await connection.close()
    return conversation.closed


class _Conversation:
    """Both directions of one open connection."""

    def __init__(self, connection: ClientConnection, receive: Callable[[Received], None]) -> None:
        self._connection = connection
        self._receive = receive
        self._clock = asyncio.get_running_loop().time
        self.silence = asyncio.timeout(None)
        """Entered around `receive_all`; armed once the audio has ended."""
        self.closed: StreamClosed | None = None
        """The stream's last event, once it came."""
        self._patience_s: float | None = None

    async def receive_ready(self) -> None:
        """Wait until audio may be sent."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                while not isinstance(await self._receive_one(), DoorReady):
                    pass
        except TimeoutError:
            raise CannotConnectError(
                "The server accepted the connection and did not open a stream: look at its log."
            ) from None

    async def send_all(self, audio: AsyncIterator[bytes]) -> None:
        """Send the audio and its end.

        A closed connection only ends it: why it was closed stands among the received messages.
        """
        with suppress(ConnectionClosed):
            async for chunk in audio:
                await self._connection.send(chunk)
            await self.send_end(patience_s=SILENCE_TIMEOUT_S)

    async def send_end(self, *, patience_s: float) -> None:
        """Say that no more audio follows; from now on, wait only so long for each event."""
        self._patience_s = patience_s
        self.extend_patience()
        with suppress(ConnectionClosed):
            await self._connection.send(_END)

    def extend_patience(self) -> None:
        """Start waiting anew, if the audio has ended."""
        if self._patience_s is not None and not self.silence.expired():
            self.silence.reschedule(self._clock() + self._patience_s)

    async def receive_all(self) -> None:
        """Hand on every event up to the stream's last."""
        while self.closed is None:
            event = await self._receive_one()
            if isinstance(event, StreamClosed):
                self.closed = event
            self.extend_patience()

    async def _receive_one(self) -> AnyEvent | DoorReady | DoorQueued | None:
        raw = await self._connection.recv(decode=False)
        event = _decode_message(raw)
        self._receive(Received(raw=raw, event=event, at_s=self._clock()))
        return event


async def _converse(
    conversation: _Conversation, audio: AsyncIterator[bytes], stop: asyncio.Event | None
) -> None:
    try:
        # OSError: whoever read our output, or gave us audio, is gone.
        with plain_errors(TimeoutError, CommandError, ConnectionClosed, OSError):
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(conversation.send_all(audio), name="send audio")
                stopper = (
                    group.create_task(_end_early(conversation, sender, stop), name="end early")
                    if stop is not None
                    else None
                )
                async with conversation.silence:
                    await conversation.receive_all()
                sender.cancel()
                if stopper is not None:
                    stopper.cancel()
    except TimeoutError:
        if stop is None or not stop.is_set():
            raise FailedError(
                f"Nothing came for {SILENCE_TIMEOUT_S:.0f} s after the end of the audio: see"
                " whether a transcriber runs (`speechbus doctor`)."
            ) from None


async def _end_early(
    conversation: _Conversation, sender: "asyncio.Task[None]", stop: asyncio.Event
) -> None:
    await stop.wait()
    sender.cancel()
    await asyncio.wait([sender])
    await conversation.send_end(patience_s=STOP_TIMEOUT_S)


async def _connect(address: str, key: str | None) -> ClientConnection:
    try:
        return await connect(
            address,
            additional_headers={"Authorization": f"Bearer {key}"} if key else None,
            # PCM does not shrink, and events are short.
            compression=None,
            max_size=MESSAGE_BYTES_MAX,
            max_queue=RECEIVED_MESSAGES_MAX,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            # Proxies of the environment are for other machines.
            proxy=None if is_loopback(address) else True,
        )
    except (InvalidURI, UnicodeError):  # UnicodeError: a label of the host name is too long
        raise SettingsMistakeError(_URL_WANTED) from None
    except InvalidHeaderValue:  # its text holds the key
        raise SettingsMistakeError(
            "The key has a character that no key has: copy it again into --key or SPEECHBUS_KEY."
        ) from None
    except InvalidStatus as refused:
        raise _explain_status(refused.response.status_code, address) from None
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise CannotConnectError(
            f"Nothing takes streams at {address}"
            f" ({describe_network_error(error, patience_s=OPEN_TIMEOUT_S)}): start it with"
            " `speechbus dev`, or name another server by --url."
        ) from None


def _explain_status(status: int, address: str) -> CommandError:
    if status in (401, 403):
        return UnauthorizedError(
            "The server does not accept this key: give the right one by --key or SPEECHBUS_KEY"
            " (`speechbus dev` prints its own)."
        )
    if status == 429:
        return FailedError(
            "This key has as many streams as it may: end one, or raise the key's limit."
        )
    return CannotConnectError(
        f"{address} answers HTTP {status}: check --url, and whether its /readyz is well."
    )


def _explain_close(closed: ConnectionClosed, url: str) -> CommandError:
    code = closed.rcvd.code if closed.rcvd is not None else None
    if code == _RESTARTING:
        return CannotConnectError("The server is going away: run the command again in a moment.")
    if code == _OVERLOADED:
        return CannotConnectError("The server has no room for this stream: try again later.")
    if code is None:
        return CannotConnectError(
            f"The connection to {url} broke before the stream was closed: check the server, then"
            " run the command again."
        )
    return FailedError(
        f"The server closed the connection with code {code} before the stream was closed: look at"
        " its log."
    )


def _decode_message(raw: bytes) -> AnyEvent | DoorReady | DoorQueued | None:
    try:
        match _head_decoder.decode(raw).type:
            case "ready":
                return _ready_decoder.decode(raw)
            case "queued":
                return _queued_decoder.decode(raw)
            case "error":
                problem = _error_decoder.decode(raw)
                raise _explain_error(problem)
            case _:
                return decode_event(raw)
    except ContractError:
        return None  # a newer server's event, or one we cannot use: others follow
    except msgspec.DecodeError:
        raise FailedError(
            "The server sent something else than events: check that --url names a Speechbus ingest."
        ) from None


def _explain_error(problem: _DoorError) -> CommandError:
    message = "".join(c for c in problem.message if c.isprintable()) or "look at its log."
    text = f"The server refused ({problem.code}): {message}"
    if problem.code == "unauthorized":
        return UnauthorizedError(text)
    if problem.code == "overloaded":
        return CannotConnectError(text)
    return FailedError(text)


def _encode_hello(request: StreamRequest) -> str:
    hello = _Hello(
        sample_rate_hz=request.sample_rate_hz,
        language=request.language,
        target_languages=request.target_languages,
        providers=request.providers,
    )
    return msgspec.json.encode(hello).decode()


def is_loopback(address: str) -> bool:
    """Tell whether a URL names this machine."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
