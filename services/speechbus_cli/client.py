"""The client's side of the native door, `WS /v1/streams` (version 1): it resumes by itself."""

import asyncio
import ipaddress
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Final
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

from speechbus_cli.door_messages import (
    END,
    DoorAccepted,
    DoorQueued,
    DoorReady,
    Hello,
    NoRoomError,
    Resume,
    decode_message,
)
from speechbus_cli.errors import (
    CannotConnectError,
    CommandError,
    FailedError,
    SettingsMistakeError,
    UnauthorizedError,
)
from speechbus_cli.kept_audio import KeptAudio
from speechbus_cli.network_errors import describe_network_error
from speechbus_contracts import AnyEvent, StreamClosed, TranslationFinal, TranslationMissing
from speechbus_runtime.task_groups import plain_errors

__all__ = [
    "Received",
    "StreamRequest",
    "build_door_urls",
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
SERVER_SILENT_S: Final = 5.0
"""A server that can resume streams says something every second; one that does not is frozen."""
RETRY_S: Final = 0.2
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


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the server."""

    raw: bytes
    """As it came."""
    event: AnyEvent | DoorReady | DoorQueued | None
    """None: a type this version does not know."""
    at_s: float
    """When it came, on the event loop's clock."""


def build_door_urls(urls: str) -> tuple[str, ...]:
    """Return the door's address at each of several servers, which commas separate.

    Raises:
        SettingsMistakeError: one is no address, or it carries a password or a path other than the
            door's.
    """
    return tuple(_build_door_url(url) for url in urls.split(","))


def _build_door_url(url: str) -> str:
    """Return the door's address at a server; `http` becomes `ws`.

    Raises:
        SettingsMistakeError: not an address, or it carries a password or a path other than the
            door's.
    """
    try:
        url = url.strip()
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

    A server that is lost is looked for again, and the stream goes on there, or at another server,
    with whatever had not been accepted.

    Args:
        url: the server, or several that commas separate.
        key: credential; None: none.
        request: options of the stream.
        audio: PCM s16le mono; sent as fast as it yields and the server accepts.
        receive: called for each message in order; must be quick.
        stop: once set, the audio ends where it is, and finals are awaited for `STOP_TIMEOUT_S`.

    Returns:
        The stream's last event; None when it had not come in time after `stop`.

    Raises:
        UnauthorizedError: the key is missing, wrong or has too many streams.
        CannotConnectError: nobody answers, or the connection broke and nobody resumed the stream.
        FailedError: the server refused the stream or its audio; the text says why.
        SettingsMistakeError: `url` is no address, or `key` cannot be one.
    """
    addresses = build_door_urls(url)
    progress = _Progress(request, KeptAudio(audio, sample_rate_hz=request.sample_rate_hz))
    # OSError: whoever read our output, or gave us audio, is gone.
    with plain_errors(CommandError, OSError):
        async with asyncio.TaskGroup() as group:
            filler = group.create_task(progress.kept.fill(), name="read audio")
            closed = await _stream_somewhere(addresses, key, progress, receive, stop)
            filler.cancel()
    return closed


class _Progress:
    """How far a stream has come, over all its connections."""

    def __init__(self, request: StreamRequest, kept: KeptAudio) -> None:
        self.request = request
        self.kept = kept
        self.stream_id: str | None = None
        self.sequence = 0
        """Of the last event that has come and is no translation."""
        self.translations: dict[str, int] = {}
        """By language, of the last translation that has come."""
        self.resume_within_s: float | None = None
        self.lost_at_s: float | None = None
        """When the connection broke, on the event loop's clock; None: it stands."""

    def encode_hello(self) -> str:
        """Return the first message of a connection."""
        resume: Resume | msgspec.UnsetType = msgspec.UNSET
        if self.stream_id is not None:
            resume = Resume(
                stream_id=self.stream_id,
                samples=self.kept.kept_from,
                sequence=self.sequence,
                translations=self.translations,
            )
        hello = Hello(
            sample_rate_hz=self.request.sample_rate_hz,
            language=self.request.language,
            target_languages=self.request.target_languages,
            providers=self.request.providers,
            resume=resume,
        )
        return msgspec.json.encode(hello).decode()

    def note_ready(self, ready: DoorReady) -> None:
        """A connection stands."""
        self.stream_id = ready.stream_id
        self.resume_within_s = ready.resume_within_s
        self.lost_at_s = None
        self.kept.forget(ready.accepted_samples)

    def note_event(self, event: object, sequence: int) -> None:
        """A stored event has come; translations come at their own time, each language by itself."""
        if isinstance(event, TranslationFinal | TranslationMissing):
            self.translations[event.language] = sequence
        else:
            self.sequence = sequence

    def may_resume(self, *, now_s: float) -> bool:
        """Whether it makes sense to look for a server that goes on."""
        if self.stream_id is None or self.resume_within_s is None:
            return False
        if self.lost_at_s is None:
            self.lost_at_s = now_s
        return now_s - self.lost_at_s <= self.resume_within_s


async def _stream_somewhere(
    addresses: Sequence[str],
    key: str | None,
    progress: _Progress,
    receive: Callable[[Received], None],
    stop: asyncio.Event | None,
) -> StreamClosed | None:
    for attempt in itertools.count():
        address = addresses[attempt % len(addresses)]
        try:
            return await _stream_at(address, key, progress, receive, stop)
        except (CannotConnectError, NoRoomError):
            is_stopped = stop is not None and stop.is_set()
            if is_stopped or not (
                progress.may_resume(now_s=asyncio.get_running_loop().time())
                or (progress.stream_id is None and attempt + 1 < len(addresses))
            ):
                raise
            await asyncio.sleep(RETRY_S)
    return None


async def _stream_at(
    address: str,
    key: str | None,
    progress: _Progress,
    receive: Callable[[Received], None],
    stop: asyncio.Event | None,
) -> StreamClosed | None:
    """Open or resume the stream at one server, and stay there until it is closed."""
    connection = await _connect(address, key)
    try:
        with suppress(ConnectionClosed):  # why stands among the received messages
            await connection.send(progress.encode_hello())
        conversation = _Conversation(connection, progress, receive)
        accepted_samples = await conversation.receive_ready()
        await _converse(conversation, progress.kept.read_from(accepted_samples), stop)
    except ConnectionClosed as closed:
        raise _explain_close(closed, address) from None
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await connection.close()
    return conversation.closed


class _Conversation:
    """Both directions of one open connection."""

    def __init__(
        self,
        connection: ClientConnection,
        progress: _Progress,
        receive: Callable[[Received], None],
    ) -> None:
        self._connection = connection
        self._progress = progress
        self._receive = receive
        self._clock = asyncio.get_running_loop().time
        self.silence = asyncio.timeout(None)
        """Entered around `receive_all`; armed once the audio has ended."""
        self.closed: StreamClosed | None = None
        """The stream's last event, once it came."""
        self._patience_s: float | None = None

    async def receive_ready(self) -> int:
        """Wait until audio may be sent; return from which sample on."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                while not isinstance(ready := await self._receive_one(), DoorReady):
                    pass
        except TimeoutError:
            raise CannotConnectError(
                "The server accepted the connection and did not open a stream: look at its log."
            ) from None
        self._progress.note_ready(ready)
        return ready.accepted_samples

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
            await self._connection.send(END)

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
        is_resumable = self._progress.resume_within_s is not None
        while True:
            try:
                async with asyncio.timeout(SERVER_SILENT_S if is_resumable else None):
                    raw = await self._connection.recv(decode=False)
            except TimeoutError:
                self._connection.transport.abort()  # it would not answer a goodbye
                raise CannotConnectError(
                    "The server says nothing any more: check it, then run the command again."
                ) from None
            event, sequence = decode_message(raw)
            if sequence:
                self._progress.note_event(event, sequence)
            if not isinstance(event, DoorAccepted):
                break
            self._progress.kept.forget(event.samples)
        self._receive(Received(raw=raw, event=event, at_s=self._clock()))
        return event


async def _converse(
    conversation: _Conversation, audio: AsyncIterator[bytes], stop: asyncio.Event | None
) -> None:
    try:
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
        return NoRoomError(
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


def is_loopback(address: str) -> bool:
    """Tell whether a URL names this machine."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
