"""Acknowledged publishing with a bounded window and an inbox of its own.

nats-py's `publish_async` never completes for a refused message and loses its slot in the window
(nats.md, pitfall 1). Here every answer, also a refusal, completes its publish.
"""

import asyncio
import logging
from typing import Final

import msgspec

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError, read_last

__all__ = ["Ack", "AckedPublisher", "PublishRefusedError", "StaleGuardError"]

logger = logging.getLogger(__name__)

WINDOW_MAX: Final = 4_096
"""Publishes waiting for their answer: twice the streams one process is ever given (one guarded
write in flight for each), so only a stalled server fills it."""
ACK_TIMEOUT_S: Final = 1.0
"""An answer takes 0.1 to 1 ms; an election takes seconds, and then repeating is cheap."""
RETRY_WAIT_S: Final = 0.1

_WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10070})
_TOO_LARGE: Final = 10054
_IN_FLIGHT: Final = frozenset({10158, 10164})
"""The same message, or a guarded write of the same subject, is on its way through the replicas."""
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


_decoder: Final = msgspec.json.Decoder(_Answer)


class AckedPublisher:
    """Publishes to JetStream and waits for the answer; repeats what got none.

    Every message must be safe to repeat: give it a dedup id.
    """

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus
        self._inbox = (bus.new_inbox() + ".").encode()
        self._waiting: dict[int, asyncio.Future[_Answer | None]] = {}
        self._next_key = 0
        self._window = asyncio.Semaphore(WINDOW_MAX)
        bus.subscribe_direct(self._inbox.decode() + "*", self._receive)
        bus.on_disconnected(self._lose_all)

    async def publish(self, subject: str, payload: bytes, *, headers: bytes) -> Ack:
        """Store one message; waits as long as it takes (cancel it to give up).

        Args:
            subject: subject of a JetStream stream.
            payload: the message.
            headers: block from `encode_headers`, with a dedup id.

        Raises:
            StaleGuardError: an expected-sequence header no longer holds.
            PublishRefusedError: refused for another reason that repeating does not change.
        """
        if len(headers) + len(payload) > self._bus.max_payload:
            # The server would cut the connection of everybody here, at each repetition.
            raise PublishRefusedError(_TOO_LARGE)
        async with self._window:
            while True:
                answer = await self._publish_once(subject.encode(), payload, headers)
                if answer is not None:
                    if answer.error is None:
                        return Ack(answer.seq, answer.duplicate)
                    if answer.error.err_code in _WRONG_LAST_SEQUENCE:
                        return await self._find_own(subject, headers, answer)
                    # Elections, missing responders and full stores answer with 5xx: all pass.
                    if answer.error.err_code not in _IN_FLIGHT and answer.error.code < 500:
                        raise PublishRefusedError(answer.error.err_code)
                await asyncio.sleep(RETRY_WAIT_S)

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
            if last is None or _dedup_id(last.headers) != _dedup_id(headers):
                break
            return Ack(last.sequence, duplicate=True)
        raise StaleGuardError(refusal.error.err_code)

    async def _publish_once(self, subject: bytes, payload: bytes, headers: bytes) -> _Answer | None:
        self._next_key += 1
        key = self._next_key
        future: asyncio.Future[_Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            reply = self._inbox + b"%d" % key
            if not self._bus.publish_nowait(subject, payload, reply=reply, headers=headers):
                return None
            async with asyncio.timeout(ACK_TIMEOUT_S):
                return await future
        except TimeoutError:
            return None
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


def _dedup_id(headers: bytes) -> bytes:
    return headers.partition(b"Nats-Msg-Id:")[2].partition(b"\r\n")[0].strip()
