"""Audio of one Kotoba or OpenAI client in, its texts out, while its stream is open."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NoReturn

from speechbus_contracts import ContractError, StreamClosed, decode_event
from speechbus_ingest.doors.kotoba_answers import KotobaAnswers
from speechbus_ingest.doors.kotoba_peer import GOING_AWAY, INTERNAL, FatalError, GoneError, Peer
from speechbus_ingest.doors.openai_answers import OpenAIAnswers
from speechbus_ingest.doors.outbox import Outbox, OutboxFullError
from speechbus_ingest.stream import IngestStream
from speechbus_runtime.task_groups import plain_errors
from speechbus_wire.kotoba import Append, Commit, RequestError, decode_audio
from speechbus_wire.kotoba_door import Clear, DoorMessage, Update
from speechbus_wire.kotoba_openai import Cleared
from speechbus_wire.kotoba_sessions import Asked

__all__ = ["Exchange", "build_answers"]

logger = logging.getLogger(__name__)

FAREWELL_S: Final = 10.0
"""A stream ended by this side may take this long to get its last finals to its client."""
FLUSH_INTERVAL_S: Final = 0.1
"""A client's messages behind a commit of OpenAI's are read this much later: ten a second are
enough for anybody."""

_COMMIT: Final = "commit"
"""Kind of this door's own entries in its outbox; no event of the bus has it."""
_ENDINGS: Final = {
    "idle": ("timeout_error", "Nothing came for too long.", GOING_AWAY),
    "limit": ("timeout_error", "The longest duration is reached: connect again.", GOING_AWAY),
    "shutdown": ("internal_error", "The server goes away: connect again.", GOING_AWAY),
}
"""By reason of `stream.closed`."""
_FAILURE: Final = (
    "internal_error",
    "Nobody could transcribe the stream: check its language.",
    INTERNAL,
)
"""For all other reasons but `end`."""


def build_answers(asked: Asked, name_event: Callable[[str], str]) -> KotobaAnswers | OpenAIAnswers:
    """Return the view of its stream that a client with these settings has."""
    if asked.dialect == "kotoba":
        return KotobaAnswers(
            name_event, has_turns=asked.has_turns, has_timestamps=asked.has_timestamps
        )
    return OpenAIAnswers(name_event, dialect=asked.dialect, has_turns=asked.has_turns)


class Exchange:
    """Carries a client's audio to its stream, and the stream's events to the client.

    Args:
        peer: the client.
        stream: open.
        outbox: gets the stream's events.
        asked: the settings, which stand.
        idle_s: a client that sends nothing this long is sent away.
    """

    def __init__(
        self, peer: Peer, stream: IngestStream, outbox: Outbox, asked: Asked, *, idle_s: float
    ) -> None:
        self._peer = peer
        self._stream = stream
        self._outbox = outbox
        self._asked = asked
        self._idle_s = idle_s
        self._answers = build_answers(asked, peer.name_event)
        self._parting: FatalError | None = None
        self._waiting_bytes = 0  # since the last commit

    async def run(self, first: Append | None, *, duration_s: float) -> None:
        """Carry on until everything is transcribed after a commit of Kotoba's.

        Args:
            first: audio that has come already.
            duration_s: longest stream.

        Raises:
            FatalError: the session ends in another way.
            GoneError: the client has closed.
        """
        with plain_errors(FatalError, GoneError):
            async with asyncio.TaskGroup() as tasks:
                receiver = tasks.create_task(self._receive(first, duration_s))
                reason = await self._send_answers()
                receiver.cancel()
        if self._parting is not None:
            raise self._parting
        if reason != "end":
            raise FatalError(*_ENDINGS.get(reason, _FAILURE))

    # --- from the client -----------------------------------------------------------------------

    async def _receive(self, first: Append | None, duration_s: float) -> None:
        """Read until the client goes, or this side has had enough."""
        try:
            if first is not None:
                await self._obey_or_say(first)
            loop = asyncio.get_running_loop()
            ends_at_s = loop.time() + duration_s
            while loop.time() < ends_at_s or self._is_waiting:
                try:
                    async with asyncio.timeout(None if self._is_waiting else self._idle_s):
                        message = await self._read()
                except TimeoutError:
                    if not self._is_waiting:
                        await self._part("idle")
                    continue
                if message is not None:
                    await self._obey_or_say(message)
            await self._part("limit")
        except RequestError as error:
            self._parting = FatalError.of(error)
            await self._part("client_gone")
        except GoneError as gone:
            self._stream.end(gone.reason)
            raise

    @property
    def _is_waiting(self) -> bool:
        """Whether the stream has ended: its client waits for the last text, and may be silent."""
        return self._stream.end_reason is not None

    async def _read(self) -> DoorMessage | None:
        """Return the next message; None: it came too late, or an OpenAI client got it wrong."""
        if self._is_waiting:
            await self._peer.ignore()
            return None
        try:
            return await self._peer.read()
        except RequestError as error:
            await self._peer.forgive(error)
            return None

    async def _obey_or_say(self, message: DoorMessage) -> None:
        try:
            await self._obey(message)
        except RequestError as error:
            await self._peer.forgive(error)

    async def _obey(self, message: DoorMessage) -> None:
        peer, stream = self._peer, self._stream
        if stream.end_reason is not None:
            return  # by this side, while the message was on its way
        match message:
            case Append():
                await self._take_audio(message)
            case Commit() if peer.dialect == "kotoba":
                stream.end("end")
            case Commit():
                await self._commit()
            case Update() if peer.dialect != "kotoba" and message.asked == self._asked:
                await peer.tell_session("updated", self._asked)
            case Update():
                raise RequestError(
                    "invalid_event" if peer.dialect == "kotoba" else "invalid_parameters",
                    "The settings stand: open another session for others.",
                    param="session",
                )
            case Clear():
                await peer.tell(Cleared(event_id=peer.name_event("event")))

    async def _take_audio(self, append: Append) -> None:
        audio = decode_audio(append.audio)
        self._waiting_bytes += len(audio)
        for message in self._answers.note_append(append.event_id):
            await self._peer.tell(message)
        await self._stream.take(audio)

    async def _commit(self) -> None:
        """End a turn of OpenAI's."""
        if not self._waiting_bytes:
            raise RequestError(
                "input_audio_buffer_commit_empty", "There is no audio since the last commit."
            )
        self._waiting_bytes = 0
        # In the same queue as the events, so that its answer cannot overtake it.
        self._outbox.take_event(_COMMIT, b"%d" % self._stream.flush())
        await asyncio.sleep(FLUSH_INTERVAL_S)
        await self._stream.wait_for_room()

    async def _part(self, reason: str) -> NoReturn:
        """End a stream that its client did not end, and wait until its last text is sent.

        Raises:
            FatalError: this takes too long; usually the wait is cancelled before.
        """
        self._stream.end(reason)
        await asyncio.sleep(FAREWELL_S)
        raise self._parting or FatalError(*_ENDINGS[reason])

    # --- to the client -------------------------------------------------------------------------

    async def _send_answers(self) -> str:
        """Send what the events mean until the stream is closed; return why it was."""
        while True:
            try:
                events = await self._outbox.next_events()
            except OutboxFullError:
                self._stream.end("client_gone")
                raise FatalError("rate_limit_error", "Read the events as they come.") from None
            for kind, payload in events:
                if kind == _COMMIT:
                    assert isinstance(self._answers, OpenAIAnswers)
                    for answer in self._answers.note_commit(int(payload)):
                        await self._peer.tell(answer)
                    continue
                try:
                    event = decode_event(payload)
                except ContractError:
                    logger.warning(
                        "an event broke the contract", extra={"stream_id": self._stream.stream_id}
                    )
                    continue
                for message in self._answers.take_event(event):
                    await self._peer.tell(message)
                if isinstance(event, StreamClosed):
                    return event.reason
