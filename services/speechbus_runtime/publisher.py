"""Acknowledged publishing with a bounded window and an inbox of its own.

nats-py's `publish_async` never completes for a refused message and loses its slot in the window
(nats.md, pitfall 1). Here every answer, also a refusal, completes its publish.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError, read_dedup_id, read_last

__all__ = ["FULL", "SILENT", "Ack", "AckedPublisher", "PublishRefusedError", "StaleGuardError"]

logger = logging.getLogger(__name__)

WINDOW_MAX: Final = 4_096
"""Publishes waiting for their answer: twice the streams one process is ever given (one guarded
write in flight for each), so only a stalled server fills it."""
ACK_TIMEOUT_S: Final = 1.0
"""An answer takes 0.1 to 1 ms; an election takes seconds, and then repeating is cheap."""
RETRY_WAIT_S: Final = 0.1
FULL_WAIT_S: Final = 1.0
"""Room does not come back by itself within milliseconds."""
SILENT_AFTER_S: Final = 12.0
"""Longer than an election takes (9 s): a person must look."""
DEDUP_TRUSTED_S: Final = 60.0
"""Half of how long the stores remember dedup ids (`duplicate_window`, 120 s)."""

_WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10070})
_TOO_LARGE: Final = 10054
_IN_FLIGHT: Final = frozenset({10158, 10164})
"""The same message, or a guarded write of the same subject, is on its way through the replicas."""
_FULL: Final = frozenset({10002, 10023, 10047, 10077})
"""The account's limit, the server's, its disk's, and that of one JetStream stream."""
FULL: Final = "JetStream has no room: free some, or raise max_file_store or the account's limit"
SILENT: Final = (
    "JetStream acknowledges nothing: look at the NATS server's log; if its disk was full, make room"
    " and restart it"
)
_NO_RESPONDERS: Final = b"NATS/1.0 503"
_OF_ANOTHER_SUBJECT: Final = b"Nats-Expected-Last-Subject-Sequence-Subject:"


class _ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0


class Ack(msgspec.Struct, frozen=True):
    """The server stored the message."""

    seq: int = 0
    """Its sequence in the JetStream stream."""
    duplicate: bool = False
    """It had been stored before, under the same dedup id."""


class _Answer(Ack, frozen=True):
    stream: str = ""
    error: _ApiError | None = None


class PublishRefusedError(Exception):
    """The server will never accept this message as it is."""

    def __init__(self, err_code: int) -> None:
        super().__init__(f"JetStream refused a message with error {err_code}")
        self.err_code = err_code


class StaleGuardError(PublishRefusedError):
    """The expected last sequence is not the last any more: somebody else wrote in between."""


def _raise_if_final(error: _ApiError) -> None:
    """Raise what repeating does not change."""
    # Elections, missing responders and full stores answer with 5xx: all pass.
    if error.code < 500 and error.err_code not in _IN_FLIGHT | _FULL:
        raise PublishRefusedError(error.err_code)


_decoder: Final = msgspec.json.Decoder(_Answer)


class AckedPublisher:
    """Publishes to JetStream and waits for the answer; repeats what got none.

    Every message must be safe to repeat: give it a dedup id.

    Args:
        bus: the connection.
        dedup_trusted_s: how long after a first try the store surely knows its dedup id.
        on_problem: called with what a person must do so that writes go on, and with an empty text
            when they do.
        on_acked: called with how long an acknowledgement took, in seconds.
    """

    def __init__(
        self,
        bus: BusConnection,
        *,
        dedup_trusted_s: float = DEDUP_TRUSTED_S,
        on_problem: Callable[[str], None] = lambda _: None,
        on_acked: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._bus = bus
        self._dedup_trusted_s = dedup_trusted_s
        self._on_problem = on_problem
        self._on_acked = on_acked
        self._problems: Counter[str] = Counter()
        self._inbox = (bus.new_inbox() + ".").encode()
        self._waiting: dict[int, asyncio.Future[_Answer | None]] = {}
        self._next_key = 0
        self._window = asyncio.Semaphore(WINDOW_MAX)
        bus.subscribe_direct(self._inbox.decode() + "*", self._receive)
        bus.on_disconnected(self._lose_all)

    async def publish(
        self, subject: str, payload: bytes, *, headers: bytes, store: str | None = None
    ) -> Ack:
        """Store one message; waits as long as it takes (cancel it to give up).

        Args:
            subject: subject of a JetStream stream.
            payload: the message.
            headers: block from `encode_headers`, with a dedup id.
            store: that JetStream stream, when a second copy must not get in however late the
                repetition comes; nobody else may write to the subject without a guard.

        Raises:
            StaleGuardError: an expected-sequence header no longer holds.
            PublishRefusedError: refused for another reason that repeating does not change.
        """
        if len(headers) + len(payload) > self._bus.max_payload:
            # The server would cut the connection of everybody here, at each repetition.
            raise PublishRefusedError(_TOO_LARGE)
        loop = asyncio.get_running_loop()
        began_s = connected_at_s = loop.time()
        problem = ""
        async with self._window:
            try:
                while True:
                    waited_s = loop.time() - began_s
                    if store is None or waited_s < self._dedup_trusted_s:
                        answer = await self._publish_once(subject, payload, headers)
                    else:
                        answer = await self._publish_late(store, subject, payload, headers)
                    error = None if answer is None else answer.error
                    if answer is not None:
                        if error is None:
                            return Ack(answer.seq, answer.duplicate)
                        if error.err_code in _WRONG_LAST_SEQUENCE:
                            return await self._find_own(subject, headers, answer)
                        _raise_if_final(error)
                    if not self._bus.is_connected:
                        connected_at_s = loop.time()
                    is_full = error is not None and error.err_code in _FULL
                    is_silent = loop.time() - connected_at_s > SILENT_AFTER_S
                    if not problem and (is_full or is_silent):
                        problem = FULL if is_full else SILENT
                        self._add_problem(problem)
                    await asyncio.sleep(FULL_WAIT_S if is_full else RETRY_WAIT_S)
            finally:
                if problem:
                    self._end_problem(problem)

    def _add_problem(self, problem: str) -> None:
        self._problems[problem] += 1
        if self._problems.total() == 1:
            logger.error("writes wait", extra={"advice": problem})
            self._on_problem(problem)

    def _end_problem(self, problem: str) -> None:
        self._problems[problem] -= 1
        if not self._problems.total():
            logger.warning("writes go on")
            self._on_problem("")

    async def _publish_late(
        self, store: str, subject: str, payload: bytes, headers: bytes
    ) -> _Answer | None:
        """Publish again, unless the store has it: it may have forgotten its dedup id since."""
        try:
            stored = await read_last(self._bus, store, subject)
        except JetStreamUnavailableError:
            return None
        if stored is not None and stored.dedup_id == read_dedup_id(headers):
            return _Answer(seq=stored.sequence, duplicate=True)
        return await self._publish_once(subject, payload, headers)

    async def _find_own(self, subject: str, headers: bytes, refusal: _Answer) -> Ack:
        """Return the acknowledgement that was lost, if a guard is stale because of this message.

        The server compares sequences before it looks for a dedup id: a write that guards its own
        subject and is repeated meets itself.

        Raises:
            StaleGuardError: somebody else has written.
        """
        assert refusal.error is not None
        while _OF_ANOTHER_SUBJECT not in headers:
            try:
                last = await read_last(self._bus, refusal.stream, subject)
            except JetStreamUnavailableError:
                await asyncio.sleep(RETRY_WAIT_S)
                continue
            if last is None or last.dedup_id != read_dedup_id(headers):
                break
            return Ack(last.sequence, duplicate=True)
        raise StaleGuardError(refusal.error.err_code)

    async def _publish_once(self, subject: str, payload: bytes, headers: bytes) -> _Answer | None:
        self._next_key += 1
        key = self._next_key
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answer | None] = loop.create_future()
        self._waiting[key] = future
        sent_at_s = loop.time()
        try:
            reply = self._inbox + b"%d" % key
            if not self._bus.publish_nowait(
                subject.encode(), payload, reply=reply, headers=headers
            ):
                return None
            async with asyncio.timeout(ACK_TIMEOUT_S):
                answer = await future
        except TimeoutError:
            return None
        else:
            if answer is not None:
                self._on_acked(loop.time() - sent_at_s)
            return answer
        finally:
            del self._waiting[key]

    def _receive(self, subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
        future = self._waiting.get(int(subject[len(self._inbox) :]))
        if future is None or future.done():
            return
        if headers.startswith(_NO_RESPONDERS):
            future.set_result(None)
            return
        try:
            future.set_result(_decoder.decode(payload))
        except msgspec.DecodeError:
            logger.exception("JetStream answered with something that is no acknowledgement")
            future.set_result(None)

    def _lose_all(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
