"""The connection to NATS: nats-py below, a leaner path for hot messages on top.

nats-py hands each received message to a queue and wakes a task for it, and builds a future for
each flush. That is fine for control messages. For audio, acks and partials, `subscribe_direct`
calls a plain function from the read loop, and `publish_nowait` appends to the send buffer, which
is written once per turn of the event loop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from speechbus_runtime.bus_login import (
    NO_LOGIN,
    BusClient,
    BusLogin,
    BusRefusedError,
    is_refusal,
)
from speechbus_runtime.bus_parser import DirectHandler, DirectParser
from speechbus_runtime.cancellation import keeps_cancellation

__all__ = ["BusConnection", "DirectHandler", "connect_bus", "encode_headers"]

logger = logging.getLogger(__name__)

RECONNECT_WAIT_S: Final = 0.1
"""nats-py's default of 2 s would alone break every hand-over target."""
REFUSED_WAIT_S: Final = 1.0
"""A password that is being changed is right within seconds; each try of a hashed one costs the
server a tenth of a second of a core."""
PING_INTERVAL_S: Final = 2
PINGS_OUTSTANDING_MAX: Final = 2
"""A dead link is noticed after about 6 s; the defaults need minutes."""
SEND_BACKLOG_BYTES_MAX: Final = 8 << 20
"""Bytes the kernel has not taken yet beyond which unacknowledged publishes are refused; the
server cuts a client that falls this far behind, too (`max_pending`)."""
BATCHES_MAX: Final = 16
"""Direct gets of a connection at a time. The server sends as fast as it can, and cuts a client
for which 8 MB wait; a worker that takes over 200 streams asks for some 50 MB."""
CLOSE_TIMEOUT_S: Final = 1.0
DENIALS_LOGGED_MAX: Final = 64
"""Denied subjects that are logged by name, each once for a connection; a stream's id is in most."""
_DENIED: Final = ("permissions violation", "maximum subscriptions exceeded", "invalid subject")
"""How the server begins what it says of one subject only."""
_HEADER_LINE: Final = b"NATS/1.0\r\n"


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return the header block of a message, ready for `publish_nowait`."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return _HEADER_LINE + lines.encode() + b"\r\n"


class BusConnection(BusClient):
    """A nats-py client with direct subscriptions and publishes.

    Attributes:
        direct_handlers: handler by subscription id; for the parser.
        inbox_prefix: of all inboxes; rights name it. Known after `open`.
        permission_errors: denials the server reported; a denied publish is otherwise just silent.
    """

    def __init__(self, login: BusLogin = NO_LOGIN) -> None:
        """Prepare a connection.

        Args:
            login: what it shows, and wants to see.
        """
        super().__init__(wants_tls=login.wants_tls)
        self.login = login
        self.inbox_prefix = ""
        self.direct_handlers: dict[int, DirectHandler] = {}
        self.permission_errors = 0
        self._flush_scheduled = False
        self._is_closing = False
        self._has_waited = False
        self._has_connected = False
        self._is_refused = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.batches = asyncio.Semaphore(BATCHES_MAX)
        """Held during a batch of stored messages."""
        self._reconnect_hooks: list[Callable[[], Awaitable[None]]] = []
        self._disconnect_hooks: list[Callable[[], None]] = []
        self._denied_hooks: list[Callable[[str], None]] = []
        self._refused_hooks: list[Callable[[str], None]] = []
        self._denials_logged: set[str] = set()
        self._refusal = ""
        """What a person must do so that the server lets us in; empty before `open`."""
        # Given to nats-py in place of its own parser; same two methods.
        self._ps: Any = DirectParser(self)

    # --- received messages -------------------------------------------------------------------

    def subscribe_direct(self, subject: str, handler: DirectHandler) -> int:
        """Call `handler` in the read loop for each message of `subject`.

        The handler must be quick and must not block. An exception in it is logged and the
        connection lives on. The subscription survives reconnects.

        Returns:
            The id for `unsubscribe_direct`.
        """
        self._sid += 1
        sid = self._sid
        self.direct_handlers[sid] = handler
        # nats-py replays what is in `_subs` after a reconnect; the object is never started, so it
        # has neither queue consumer nor task.
        self._subs[sid] = Subscription(self, sid, subject)
        self._append(b"SUB %b  %d\r\n" % (subject.encode(), sid))
        return sid

    def unsubscribe_direct(self, sid: int) -> None:
        """End a direct subscription; unknown ids are ignored."""
        if self.direct_handlers.pop(sid, None) is not None:
            self._subs.pop(sid, None)
            self._append(b"UNSUB %d\r\n" % sid)

    def call_direct(
        self, handler: DirectHandler, subject: bytes, reply: bytes, payload: bytes, headers: bytes
    ) -> None:
        """Run a handler; for the parser."""
        try:
            handler(subject, reply, payload, headers)
        except Exception:  # a bug in one stream's handler must not end the read loop of all
            logger.exception("message handler failed")

    async def process_queued(
        self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes
    ) -> None:
        """Take nats-py's way; for the parser."""
        # None, not b"", is how its own parser says "no headers"; the annotation is too narrow.
        await self._process_msg(sid, subject, reply, payload, headers or None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def process_operation(self, line: bytes) -> None:
        """Handle an operation without payload; for the parser."""
        operation = line[:4].upper()
        if operation == b"PING":
            await self._process_ping()
        elif operation == b"PONG":
            await self._process_pong()
        elif operation == b"INFO":
            await self._process_info(msgspec.json.decode(line[5:]))
        elif operation == b"-ERR":
            await self._process_server_error(line[5:].strip(b"' ").decode(errors="replace"))
        elif operation != b"+OK":
            raise nats.errors.ProtocolError("nats: unknown operation")

    async def _process_server_error(self, text: str) -> None:
        if text.lower().startswith(_DENIED):
            self._note_denial(text.partition(" for ")[2] or text)
        else:
            # The server ends the connection after all others. nats-py would never come back.
            await self._process_op_err(nats.errors.Error(f"nats: {text}"))

    # --- sent messages -----------------------------------------------------------------------

    def publish_nowait(
        self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> bool:
        """Send without waiting; nothing is kept while the connection is away.

        Args:
            subject: the subject's bytes (build once per stream).
            payload: message without headers.
            reply: subject for an acknowledgement; empty: none wanted.
            headers: block made by `encode_headers`; empty: none.

        Returns:
            False when it was not sent: not connected, or too far behind. The caller decides
            whether to repeat it.
        """
        if not self.is_connected or self._is_backlogged():
            return False
        if headers:
            size = len(headers)
            line = b"HPUB %b %b %d %d\r\n" % (subject, reply, size, size + len(payload))
            self._pending.append(line + headers)
        else:
            self._pending.append(b"PUB %b %b %d\r\n" % (subject, reply, len(payload)))
        self._pending.append(payload)
        self._append(b"\r\n")
        return True

    def publish_parts_nowait(
        self, subject: bytes, first: bytes, second: bytes, *, reply: bytes
    ) -> bool:
        """`publish_nowait` of `first + second`, without joining them."""
        if not self.is_connected or self._is_backlogged():
            return False
        self._pending.append(
            b"PUB %b %b %d\r\n%b" % (subject, reply, len(first) + len(second), first)
        )
        self._pending.append(second)
        self._append(b"\r\n")
        return True

    def _append(self, data: bytes) -> None:
        self._pending.append(data)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            assert self._loop is not None
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_scheduled = False
        if not self.is_connected or self._transport is None or not self._pending:
            return  # what nats-py queued itself is sent by its reconnect
        if self._is_cut:
            return
        pending, self._pending = self._pending, []
        self._pending_data_size = 0
        self._transport.write(b"".join(pending))

    @property
    def _is_cut(self) -> bool:
        """Whether the connection ended a moment ago; nats-py notices next."""
        writer = getattr(self._transport, "_io_writer", None)
        return writer is None or writer.transport.is_closing()

    async def _flush_pending(
        self,
        force_flush: bool = False,  # noqa: FBT001, FBT002 (nats-py's)
    ) -> Any:  # noqa: ANN401 (nats-py's)
        # nats-py writes by itself when its flusher has ended with the connection, and uvloop
        # answers a write to what is closed with RuntimeError.
        if self.is_connected and self._is_cut:
            return None
        return await super()._flush_pending(force_flush)

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py writes a ping past what is queued; its pong would tell `flush` that the server
        # has subscriptions and publishes which have not left yet.
        self._flush_now()
        await super()._send_ping(future)  # pyright: ignore[reportUnknownMemberType]

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109 (nats-py's name)
        old_style: bool = False,  # noqa: FBT001, FBT002 (nats-py's)
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """nats-py's request, in which no cancellation is lost."""
        with keeps_cancellation():
            return await super().request(subject, payload, timeout, old_style, headers)

    async def flush(self, timeout: int = 10) -> None:  # noqa: ASYNC109 (nats-py's name)
        """nats-py's flush, in which no cancellation is lost."""
        with keeps_cancellation():
            await super().flush(timeout)

    def _is_backlogged(self) -> bool:
        writer = getattr(self._transport, "_io_writer", None)
        return (
            writer is not None and writer.transport.get_write_buffer_size() > SEND_BACKLOG_BYTES_MAX
        )

    # --- life of the connection --------------------------------------------------------------

    @property
    def n_servers(self) -> int:
        """Servers of the cluster that this connection's server knows and tells, with itself."""
        return len(self._server_info.get("connect_urls") or ()) or 1

    @property
    def other_servers(self) -> list[str]:
        """URLs of the pool's servers beside the one this is connected to; may hold passwords."""
        current = self._current_server
        return [one.uri.geturl() for one in self._server_pool if one is not current]

    async def leave_server(self) -> None:
        """Go on at the next server of the pool; the same as if this one had gone away."""
        self._abort_connection()
        await self.force_reconnect()

    def on_reconnected(self, hook: Callable[[], Awaitable[None]]) -> None:
        """Await `hook` after each reconnect; subscriptions already stand again by then."""
        self._reconnect_hooks.append(hook)

    def on_disconnected(self, hook: Callable[[], None]) -> None:
        """Call `hook` when the connection is lost."""
        self._disconnect_hooks.append(hook)

    def on_denied(self, hook: Callable[[str], None]) -> None:
        """Call `hook` with what the server denies, each time: to a caller it looks like a time-out.

        The text is `Publish to "SUBJECT"`, or `Subscription to "SUBJECT"`.
        """
        self._denied_hooks.append(hook)

    def on_refused(self, hook: Callable[[str], None]) -> None:
        """Call `hook` with what a person must do, whenever a server does not let us in again."""
        self._refused_hooks.append(hook)

    async def open(self, url: str, *, name: str) -> None:
        """Connect, and keep reconnecting for ever; waits for the first server, saying so once.

        Args:
            url: one or several comma-separated `nats://[user:password@]host:port`; the login's user
                goes before one in there.
            name: shown by the server's monitoring; no secret.

        Raises:
            BusRefusedError: the server refuses this user, or is not of the expected authority.
        """
        self._loop = asyncio.get_running_loop()
        self._refusal = self.login.explain_refusal(url)
        with keeps_cancellation():
            await self._connect(url, name=name)
        self._has_connected = True

    async def _connect(self, url: str, *, name: str) -> None:
        options = self.login.build_options(url, service=name.partition("-")[0])
        self.inbox_prefix = options["inbox_prefix"]
        await self.connect(
            **options,
            name=name,
            allow_reconnect=True,
            connect_timeout=2,
            reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            max_reconnect_attempts=-1,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=PINGS_OUTSTANDING_MAX,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            # A server that drains (lame duck) serves until it has sent everybody away.
            lame_duck_mode_cb=self.leave_server,
            # Refuse rather than hold what is published through nats-py while it is away.
            pending_size=SEND_BACKLOG_BYTES_MAX,
        )
        # Shuffled once, so that clients spread over the servers. From now on in turn: a lost
        # server is tried last, since one that is frozen takes 2 s to try.
        self.options["dont_randomize"] = True

    async def _process_op_err(self, e: Exception) -> None:
        self._abort_connection()
        await super()._process_op_err(e)

    def _abort_connection(self) -> None:
        # nats-py waits until what is queued has been written, and a peer that neither reads nor
        # resets (frozen, or cut off) would hold it for minutes.
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and self.is_connected:
            writer.transport.abort()

    async def shut_down(self) -> None:
        """Send what is pending and close; waits at most `CLOSE_TIMEOUT_S`, also without NATS."""
        self._is_closing = True
        self._flush_now()
        # RuntimeError: uvloop's word for a write to a connection that was cut a moment ago.
        with suppress(TimeoutError, nats.errors.Error, OSError, RuntimeError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if self.is_connected:
                    await self.flush()
                # Away, nats-py would write what it keeps for a reconnect to the old connection.
                self._pending = []
                self._pending_data_size = 0
                await self.close()

    async def _on_error(self, error: Exception) -> None:
        if is_refusal(error):
            self._note_refusal(error)
            await asyncio.sleep(REFUSED_WAIT_S)  # nats-py tries again when this returns
        elif self.is_connected:
            logger.warning("NATS error", extra={"error": type(error).__name__})
        elif not self._has_waited:
            self._has_waited = True
            # Not the URL: it may hold a password.
            servers = [f"{one.uri.hostname}:{one.uri.port}" for one in self._server_pool]
            logger.warning(
                "waiting for NATS: start it, or correct NATS_URL",
                extra={"servers": servers, "error": type(error).__name__},
            )

    def _note_refusal(self, error: Exception) -> None:
        if not self._has_connected:
            # nats-py tries for ever; what is raised here goes through to who called `open`.
            raise BusRefusedError(self._refusal) from None
        if not self._is_refused:
            self._is_refused = True
            logger.error(
                "NATS lets us in no more", extra={"advice": self._refusal, "error": str(error)}
            )
        for hook in self._refused_hooks:
            hook(self._refusal)

    def _note_denial(self, what: str) -> None:
        self.permission_errors += 1
        if what not in self._denials_logged and len(self._denials_logged) < DENIALS_LOGGED_MAX:
            self._denials_logged.add(what)
            logger.error("NATS denied a subject: give this user the right", extra={"denied": what})
        for hook in self._denied_hooks:
            hook(what)

    async def _on_disconnected(self) -> None:
        # Partials and heartbeats from before the cut would be stale after it.
        self._pending = []
        self._pending_data_size = 0
        if self._is_closing:
            return
        logger.warning("NATS connection lost")
        for hook in self._disconnect_hooks:
            hook()

    async def _on_reconnected(self) -> None:
        self._has_waited = self._is_refused = False
        self._denials_logged.clear()
        logger.info("NATS connection is back")
        for hook in self._reconnect_hooks:
            await hook()


async def connect_bus(url: str, *, name: str, login: BusLogin = NO_LOGIN) -> BusConnection:
    """Open a connection; see `BusConnection.open`."""
    bus = BusConnection(login)
    try:
        await bus.open(url, name=name)
    except BusRefusedError:
        await bus.shut_down()
        raise
    return bus
