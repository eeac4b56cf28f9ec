"""One connection at Kotoba's address, from its first message to its close."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from speechbus_contracts import ContractError, StreamClosed, decode_event
from speechbus_ingest.doors.kotoba_answers import KotobaAnswers, name_events
from speechbus_ingest.doors.openai_answers import OpenAIAnswers
from speechbus_ingest.doors.outbox import Outbox, OutboxFullError
from speechbus_ingest.formats.names import AudioFormat, RawFormat
from speechbus_ingest.registry import OverLimitError, StreamRegistry
from speechbus_ingest.stream import IngestStream, StreamExistsError, StreamRequest
from speechbus_runtime.task_groups import plain_errors
from speechbus_wire.kotoba import (
    Append,
    Commit,
    RequestError,
    decode_audio,
    encode_error,
    encode_error_body,
)
from speechbus_wire.kotoba_door import (
    Clear,
    DoorMessage,
    Update,
    build_default_session,
    decode_door_message,
)
from speechbus_wire.kotoba_openai import Cleared, encode_event, encode_session_event
from speechbus_wire.kotoba_secrets import SecretClaims, read_remembered_session
from speechbus_wire.kotoba_sessions import Asked, Dialect

__all__ = ["Caller", "Conversation", "build_answers", "refuse_browser"]

logger = logging.getLogger(__name__)

SETUP_S: Final = 10.0
"""The settings must come within this of connecting (providers.md 1.4)."""
AFTER_COMMITTED_S: Final = 5.0
"""The client closes; the server does when it has not (providers.md 1.6)."""
OPEN_TIMEOUT_S: Final = 10.0
"""The bus answers within a millisecond; a restart of NATS takes seconds."""
FAREWELL_S: Final = 10.0
"""A stream ended by this side may take this long to get its last finals to its client."""
GOODBYE_S: Final = 2.0
"""A client that does not read gets neither its error nor a close."""
FLUSH_INTERVAL_S: Final = 0.1
"""A client's messages behind a commit of OpenAI's are read this much later: ten a second are
enough for anybody."""
SLICE_BYTES: Final = 64 << 10
"""Of audio taken at once: an append of 1 MiB is two minutes of the tightest format, and the bus
takes so much only as it is read."""

_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_POLICY: Final = 1008
_INTERNAL: Final = 1011
_TRY_LATER: Final = 1013
_COMMIT: Final = "commit"
"""Kind of this door's own entries in its outbox; no event of the bus has it."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who has connected."""

    tenant: str
    dialect: Dialect
    claims: SecretClaims | None
    """None: came with a key."""


class _FatalError(Exception):
    """The client gets an error event, then the connection is closed."""

    def __init__(
        self, code: str, message: str, close_code: int = _POLICY, *, param: str | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.close_code = close_code
        self.param = param


class _GoneError(Exception):
    """The client's side of the connection has ended.

    Attributes:
        reason: that its stream ends for.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_ENDINGS: Final = {
    "idle": ("timeout_error", "Nothing came for too long.", _GOING_AWAY),
    "limit": ("timeout_error", "The longest duration is reached: connect again.", _GOING_AWAY),
    "shutdown": ("internal_error", "The server goes away: connect again.", _GOING_AWAY),
}
"""By reason of `stream.closed`; all others but `end` are this side's failure."""


async def refuse_browser(socket: WebSocket) -> None:
    """Tell a client that cannot read HTTP statuses that there is no room, and close."""
    with suppress(OSError, RuntimeError, WebSocketDisconnect):
        await socket.send_text(_encode_error(_over_limit(), event_id=""))
        await socket.close(_TRY_LATER)


_Answers = KotobaAnswers | OpenAIAnswers


class Conversation:
    """Carries one accepted connection.

    Args:
        socket: accepted.
        registry: holds the streams.
        caller: who it is.
        session_id: names the connection's events.
        idle_s: a client that sends nothing this long is sent away.
        duration_s: longest stream.
    """

    def __init__(
        self,
        socket: WebSocket,
        registry: StreamRegistry,
        caller: Caller,
        *,
        session_id: str,
        idle_s: float,
        duration_s: float,
    ) -> None:
        self._socket = socket
        self._registry = registry
        self._caller = caller
        self._dialect: Dialect = caller.dialect
        self._session_id = session_id
        self._idle_s = idle_s
        self._duration_s = duration_s
        self._name_event = name_events(session_id)
        self._parting: _FatalError | None = None
        self._waiting_bytes = 0  # since the last commit
        self._has_gone = False

    async def run(self) -> None:
        """Serve the client until either side closes."""
        try:
            await self._serve()
        except _GoneError:
            return
        except _FatalError as error:
            await self._close(error)
        else:
            await self._close(None)

    async def _serve(self) -> None:
        try:
            asked, first = await self._settle()
        except RequestError as error:
            raise _fatal(error) from None
        claims = self._caller.claims
        request = StreamRequest(
            tenant=self._caller.tenant,
            door="kotoba" if asked.dialect == "kotoba" else "openai",
            sample_rate_hz=asked.audio.sample_rate_hz,
            language=asked.language,
            keywords=asked.keywords,
            audio_format=AudioFormat(encoding=cast(RawFormat, asked.audio.encoding)),
            stream_id=None if claims is None else claims.stream_id,
        )
        outbox = Outbox()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S) as opening:
                async with self._registry.open_stream(request, outbox) as stream:
                    opening.reschedule(None)
                    if first is None:
                        await self._send(self._session_event("updated", asked))
                    await self._converse(stream, outbox, asked, first)
        except OverLimitError:
            raise _over_limit() from None  # others took the room during the upgrade
        except StreamExistsError:
            raise _FatalError("session_expired", "The client secret was used.") from None
        except TimeoutError:
            logger.warning("a stream could not be opened", extra={"door": request.door})
            raise _FatalError(
                "internal_error", "The bus does not answer: try again.", _INTERNAL
            ) from None
        # The stream is closed and let go; its client may read for a while.
        with suppress(TimeoutError):
            async with asyncio.timeout(AFTER_COMMITTED_S):
                await self._read(is_over=True)

    # --- before the stream ---------------------------------------------------------------------

    async def _settle(self) -> tuple[Asked, Append | None]:
        """Read until the settings stand: Kotoba's by an update, OpenAI's by the first audio.

        Returns:
            The settings, and the append that has settled them.

        Raises:
            RequestError: a message is wrong, in Kotoba's dialect.
        """
        asked = self._begin()
        await self._send(self._session_event("created", asked))
        try:
            async with asyncio.timeout(SETUP_S if self._dialect == "kotoba" else self._idle_s):
                while True:
                    try:
                        message = await self._read()
                    except RequestError as error:
                        await self._forgive(error)
                        continue
                    match message:
                        case Update():
                            asked = message.asked
                            self._dialect = asked.dialect
                            if self._dialect == "kotoba":
                                return asked, None
                            await self._send(self._session_event("updated", asked))
                        case Append() if self._dialect != "kotoba":
                            return asked, message
                        case _:
                            await self._answer_early(message)
        except TimeoutError:
            raise _FatalError("timeout_error", "The session's settings did not come.") from None

    def _begin(self) -> Asked:
        """Return the settings without any update: the secret's, if it speaks the same dialect."""
        claims = self._caller.claims
        if claims is None or (claims.dialect == "general") != (self._dialect == "general"):
            return build_default_session(self._dialect)
        asked = read_remembered_session(claims.remembered, self._dialect)
        self._dialect = asked.dialect
        return asked

    async def _answer_early(self, message: DoorMessage) -> None:
        if self._dialect == "kotoba":
            raise RequestError("invalid_event", "The update comes before everything else.")
        if isinstance(message, Clear):
            await self._send(encode_event(Cleared(event_id=self._name_event("event"))))
        else:
            await self._forgive(_empty_commit())

    # --- while there is a stream ---------------------------------------------------------------

    async def _converse(
        self, stream: IngestStream, outbox: Outbox, asked: Asked, first: Append | None
    ) -> None:
        answers = build_answers(asked, self._name_event)
        with plain_errors(_FatalError, _GoneError):
            async with asyncio.TaskGroup() as tasks:
                receiver = tasks.create_task(self._receive(stream, outbox, asked, answers, first))
                reason = await self._send_answers(stream, outbox, answers)
                receiver.cancel()
        if self._parting is not None:
            raise self._parting
        if reason != "end":
            failure = ("internal_error", "Nobody could transcribe the stream.", _INTERNAL)
            raise _FatalError(*_ENDINGS.get(reason, failure))

    async def _receive(
        self,
        stream: IngestStream,
        outbox: Outbox,
        asked: Asked,
        answers: _Answers,
        first: Append | None,
    ) -> None:
        """Read until the client goes, or this side has had enough."""
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + self._duration_s
        message: DoorMessage | None = first
        try:
            while True:
                try:
                    if message is not None:
                        await self._obey(message, stream, outbox, asked, answers)
                    if loop.time() > ends_at_s:
                        await self._part(stream, "limit")
                    async with asyncio.timeout(self._idle_s):
                        message = await self._read(is_over=stream.end_reason is not None)
                except RequestError as error:
                    message = None
                    if self._dialect != "kotoba":
                        await self._forgive(error)
                        continue
                    self._parting = _fatal(error)
                    await self._part(stream, "client_gone")
        except TimeoutError:
            await self._part(stream, "idle")
        except _GoneError as gone:
            stream.end(gone.reason)
            raise

    async def _obey(
        self,
        message: DoorMessage,
        stream: IngestStream,
        outbox: Outbox,
        asked: Asked,
        answers: _Answers,
    ) -> None:
        if stream.end_reason is not None:
            return  # by this side, which the client learns with its last finals
        match message:
            case Append():
                await self._take_audio(message, stream, answers)
            case Commit() if self._dialect == "kotoba":
                stream.end("end")
            case Commit():
                if not self._waiting_bytes:
                    raise _empty_commit()
                self._waiting_bytes = 0
                # In the same queue as the events, so that its answer cannot overtake it.
                outbox.take_event(_COMMIT, b"%d" % stream.flush())
                await asyncio.sleep(FLUSH_INTERVAL_S)
                await stream.wait_for_room()
            case Update() if self._dialect != "kotoba" and message.asked == asked:
                await self._send(self._session_event("updated", asked))
            case Update():
                raise RequestError(
                    "invalid_event" if self._dialect == "kotoba" else "invalid_parameters",
                    "The settings stand: open another session for others.",
                    param="session",
                )
            case Clear():
                await self._send(encode_event(Cleared(event_id=self._name_event("event"))))

    async def _part(self, stream: IngestStream, reason: str) -> None:
        """End a stream that its client did not end, and wait until its last text is sent.

        Raises:
            _FatalError: this takes too long; usually the wait is cancelled before.
        """
        stream.end(reason)
        await asyncio.sleep(FAREWELL_S)
        raise self._parting or _FatalError(*_ENDINGS[reason])

    async def _take_audio(self, append: Append, stream: IngestStream, answers: _Answers) -> None:
        audio = decode_audio(append.audio)
        self._waiting_bytes += len(audio)
        for message in answers.note_append(append.event_id):
            await self._send(encode_event(message))
        for start in range(0, len(audio), SLICE_BYTES):
            stream.write(audio[start : start + SLICE_BYTES])
            if not stream.has_room:
                await stream.wait_for_room()

    async def _send_answers(self, stream: IngestStream, outbox: Outbox, answers: _Answers) -> str:
        """Send what the events mean until the stream is closed; return why it was."""
        while True:
            try:
                events = await outbox.next_events()
            except OutboxFullError:
                stream.end("client_gone")
                raise _FatalError("rate_limit_error", "Read the events as they come.") from None
            for kind, payload in events:
                if kind == _COMMIT:
                    assert isinstance(answers, OpenAIAnswers)
                    for answer in answers.note_commit(int(payload)):
                        await self._send(encode_event(answer))
                    continue
                try:
                    event = decode_event(payload)
                except ContractError:
                    logger.warning(
                        "an event broke the contract", extra={"stream_id": stream.stream_id}
                    )
                    continue
                for message in answers.take_event(event):
                    await self._send(encode_event(message))
                if isinstance(event, StreamClosed):
                    return event.reason

    # --- the socket ----------------------------------------------------------------------------

    async def _read(self, *, is_over: bool = False) -> DoorMessage:
        """Return the client's next message; when the stream is over, none is returned.

        Raises:
            RequestError: it is wrong.
            _GoneError: the client has closed.
        """
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                is_farewell = message.get("code") in {_NORMAL, _GOING_AWAY}
                raise _GoneError("end" if is_farewell else "client_gone")
            if is_over:
                continue
            text = message.get("text")
            if text is None:
                raise RequestError("invalid_json", "Messages are text.")
            return decode_door_message(text, self._dialect)

    async def _forgive(self, error: RequestError) -> None:
        """Tell an OpenAI client what is wrong and go on; Kotoba's take every error for the end."""
        if self._dialect == "kotoba":
            raise error
        await self._send_error(_fatal(error), kind="event")

    def _session_event(self, kind: str, asked: Asked) -> str:
        is_created = kind == "created"
        return encode_session_event(
            "created" if is_created else "updated",
            asked,
            event_id=self._name_event("tc" if is_created else "tu"),
            session_id=self._session_id,
        )

    async def _close(self, error: _FatalError | None) -> None:
        with suppress(TimeoutError):  # it may read nothing
            async with asyncio.timeout(GOODBYE_S):
                if error is not None:
                    await self._send_error(error, kind="er")
                with suppress(OSError, RuntimeError, WebSocketDisconnect):  # or have gone
                    await self._socket.close(_NORMAL if error is None else error.close_code)

    async def _send_error(self, error: _FatalError, *, kind: str) -> None:
        await self._send(_encode_error(error, event_id=self._name_event(kind)))

    async def _send(self, text: str) -> None:
        """Send a message, unless nobody listens.

        Then what the client sent before it went is still to be read: its end is found there.
        """
        if self._has_gone:
            return
        try:
            await self._socket.send({"type": "websocket.send", "text": text})
        except (WebSocketDisconnect, OSError):
            self._has_gone = True


def build_answers(asked: Asked, name_event: Callable[[str], str]) -> _Answers:
    """Return the view of its stream that a client of this dialect has."""
    if asked.dialect == "kotoba":
        return KotobaAnswers(
            name_event, has_turns=asked.has_turns, has_timestamps=asked.has_timestamps
        )
    return OpenAIAnswers(name_event, dialect=asked.dialect, has_turns=asked.has_turns)


def _fatal(error: RequestError) -> _FatalError:
    return _FatalError(error.code, str(error), param=error.param)


def _over_limit() -> _FatalError:
    return _FatalError(
        "rate_limit_error",
        "Too many sessions: end another one, or try again later.",
        _TRY_LATER,
    )


def _empty_commit() -> RequestError:
    return RequestError(
        "input_audio_buffer_commit_empty", "There is no audio since the last commit."
    )


def _encode_error(error: _FatalError, *, event_id: str) -> str:
    body = encode_error_body(error.code, error.message, param=error.param)
    return encode_error(body["error"], event_id=event_id)
