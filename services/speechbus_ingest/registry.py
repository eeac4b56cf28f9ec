"""The streams of this ingest: limits, upkeep, and care for those whose client has gone."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from math import ceil
from typing import Final

from speechbus_contracts import SourceSubject
from speechbus_ingest.bus_stream import IngestContext, TakenStream
from speechbus_ingest.event_order import Position
from speechbus_ingest.formats.decoders import NoDecoderError
from speechbus_ingest.formats.decoding import Decoding
from speechbus_ingest.formats.names import AudioFormat
from speechbus_ingest.quotas import Quotas
from speechbus_ingest.stream import IngestStream, StreamRequest
from speechbus_ingest.stream_events import EventSink, StreamEvents
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.lifecycle import LossError

__all__ = ["AudioNotStoredError", "OverLimitError", "SeatTakenError", "StreamRegistry"]

logger = logging.getLogger(__name__)

TEND_S: Final = 0.1
RECOVER_RETRY_S: Final = 0.25
RECOVER_AGAIN_S: Final = 5.0
"""After what should not happen; so that it does not fill the log."""
RETRY_AFTER_S: Final = 5
"""Streams end when their clients want; this much later somebody else's may have."""
LINGER_S: Final = 900.0
"""A stream whose client has gone is watched over, and its unread audio kept alive, this long: a
pool that is back within a quarter of an hour transcribes it."""
RESUME_S: Final = 8.0
"""A worker closes a stream whose ingest has died after 10 s, and an ingest that pauses may have
said its last word 2 s before it died."""
HAND_OVER_S: Final = 2.0
"""Storing the last chunks takes milliseconds."""


class AudioNotStoredError(LossError):
    """The process ends with accepted audio that only it has."""


class SeatTakenError(Exception):
    """Another connection has resumed the stream in the meantime."""


class OverLimitError(Exception):
    """No room for another stream of this key, or of this process.

    Attributes:
        retry_after_s: when it may be worth while to try again.
    """

    def __init__(self, retry_after_s: float = RETRY_AFTER_S) -> None:
        super().__init__()
        self.retry_after_s = ceil(retry_after_s)


class StreamRegistry:
    """All live streams of one ingest.

    Args:
        context: what streams share.
        streams_max: streams of this process.
        streams_per_key_max: streams of one tenant.
        beat: called whenever the upkeep loop turns; for health.
        resume_s: a client that can resume its stream may be away this long.
        quotas: how fast tenants may open streams and send audio.
    """

    def __init__(
        self,
        context: IngestContext,
        *,
        streams_max: int,
        streams_per_key_max: int,
        quotas: Quotas,
        beat: Callable[[], None],
        resume_s: float = RESUME_S,
    ) -> None:
        self.context = context
        self.resume_s = resume_s
        self.is_draining = False
        self._streams_max = streams_max
        self._streams_per_key_max = streams_per_key_max
        self._quotas = quotas
        self._beat = beat
        self._streams: dict[str, IngestStream] = {}
        self._n_streams = 0
        self._per_tenant: Counter[str] = Counter()
        self._tasks = asyncio.TaskGroup()
        context.control_bus.on_disconnected(self._hold_back)
        context.control_bus.on_reconnected(self._recover_all)

    @property
    def n_streams(self) -> int:
        """Streams that are not closed yet."""
        return self._n_streams

    def check_room(self, tenant: str, *, n_streams: int = 1) -> None:
        """See whether a tenant may open streams now.

        Raises:
            OverLimitError: not now.
        """
        if (
            self.is_draining
            or self._n_streams + n_streams > self._streams_max
            or self._per_tenant[tenant] + n_streams > self._streams_per_key_max
        ):
            raise OverLimitError
        if wait_s := self._quotas.openings(tenant).wait_for(n_streams):
            raise OverLimitError(wait_s)

    def may_return(self, tenant: str) -> bool:
        """Whether a tenant without room may still come, to resume one of its streams."""
        return any(
            stream.request.is_resumable and stream.request.tenant == tenant
            for stream in self._streams.values()
        )

    def find(self, tenant: str, stream_id: str) -> IngestStream | None:
        """Return a tenant's stream that is here, not closed, and can be resumed."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.request.tenant != tenant or stream.closed.is_set():
            return None
        return stream if stream.request.is_resumable else None

    @asynccontextmanager
    async def open_stream(
        self, request: StreamRequest, sink: EventSink
    ) -> AsyncGenerator[IngestStream, None]:
        """Hold a stream open during the block; afterwards it is ended and watched until closed.

        Raises:
            OverLimitError: no room.
        """
        n_streams = request.split_channels or 1
        self.check_room(request.tenant, n_streams=n_streams)
        self._quotas.openings(request.tenant).take(n_streams)
        self._n_streams += n_streams
        self._per_tenant[request.tenant] += n_streams
        try:
            decoding = await self._open_decoding(request)
        except BaseException:
            self._leave_room(request)
            raise
        stream = IngestStream(request, self.context, sink, decoding)
        stream.allowance = self._quotas.audio(request.tenant)
        self._streams[stream.stream_id] = stream
        try:
            if request.sample_rate_hz is not None:
                await stream.open(request.sample_rate_hz)
            else:
                self._tasks.create_task(stream.decode(), name=f"decode:{stream.stream_id}")
        except BaseException:
            # The bus did not answer: nobody knows the stream, so nobody waits for it.
            self._forget(stream)
            raise
        if request.is_resumable:
            async with self._seated(stream):
                yield stream
            return
        try:
            yield stream
        finally:
            stream.end("client_gone")  # no effect when the door has ended it with its reason
            self._tasks.create_task(self._linger(stream), name=f"linger:{stream.stream_id}")

    @asynccontextmanager
    async def rejoin(
        self, stream: IngestStream, audio_format: AudioFormat, sink: EventSink
    ) -> AsyncGenerator[None, None]:
        """Give a stream that is here to another connection during the block.

        Raises:
            SeatTakenError: yet another connection, or another ingest, has it by now.
            OverLimitError: this process ends.
        """
        seat = stream.offer_seat()
        await stream.vacant.wait()
        if seat.is_shutdown:
            raise OverLimitError
        if seat.taken.is_set() or stream.closed.is_set():
            raise SeatTakenError
        stream.attach(seat, audio_format, sink)
        try:
            yield
        finally:
            stream.vacate()

    @asynccontextmanager
    async def adopt(
        self, request: StreamRequest, taken: TakenStream, sink: EventSink
    ) -> AsyncGenerator[IngestStream, None]:
        """Go on with another ingest's stream; as `open_stream`.

        Raises:
            OverLimitError: no room.
        """
        self.check_room(request.tenant)
        self._n_streams += 1
        self._per_tenant[request.tenant] += 1
        stream = IngestStream(request, self.context, sink)
        stream.allowance = self._quotas.audio(request.tenant)
        stream.take_over(taken)
        self._streams[stream.stream_id] = stream
        async with self._seated(stream):
            yield stream

    async def replay(self, stream: IngestStream, *, after: Position) -> None:
        """Hand on all events stored behind a position.

        Raises:
            JetStreamUnavailableError: no answer; the client may try again.
        """
        try:
            await stream.replay(after=after)
        except BaseException:
            self._recover_soon(stream)  # or what comes from now on would be held back for ever
            raise

    @asynccontextmanager
    async def _seated(self, stream: IngestStream) -> AsyncGenerator[None, None]:
        self._tasks.create_task(self._keep(stream), name=f"keep:{stream.stream_id}")
        try:
            yield
        finally:
            stream.vacate()

    async def _open_decoding(self, request: StreamRequest) -> Decoding | None:
        if not isinstance(request.audio_format, str):
            return None
        try:
            return await self.context.decoders.open(
                request.audio_format, channels=request.split_channels
            )
        except NoDecoderError:
            raise OverLimitError from None

    async def run(self) -> None:
        """Look after all streams until cancelled."""
        publisher = self.context.audio
        async with self._tasks:
            self._tasks.create_task(self._recover_those_behind(), name="recover")
            while True:
                now_s = publisher.now_s()
                for stream in self._streams.values():
                    stream.tend(now_s)
                publisher.resend_late()
                self._beat()
                await asyncio.sleep(TEND_S)

    async def drain(self, *, within_s: float) -> None:
        """Take no more streams, end those that are open and wait for their last finals.

        Raises:
            AudioNotStoredError: the bus is away and has not got all audio that was accepted.
        """
        self.is_draining = True
        streams = list(self._streams.values())
        for stream in streams:
            if stream.request.is_resumable and stream.end_reason is None:
                stream.clear_seats(is_shutdown=True)  # its client goes on with it elsewhere
                self._tasks.create_task(self._hand_over(stream))
            else:
                stream.end("shutdown")
        try:
            async with asyncio.timeout(within_s):
                for stream in streams:
                    await stream.closed.wait()
        except TimeoutError:
            left = [stream for stream in streams if not stream.closed.is_set()]
            logger.warning("streams still open at shutdown", extra={"left": len(left)})
            if lost := sum(not stream.is_stored for stream in left):
                raise AudioNotStoredError(
                    f"accepted audio of {lost} stream(s) is lost with this process: the bus did not"
                    " take it in time"
                ) from None
            # Else their workers have all of it, end markers included, and will finish.

    def _hold_back(self) -> None:
        for stream in self._streams.values():
            stream.hold_back()

    async def _recover_all(self) -> None:
        for stream in self._streams.values():
            self._recover_soon(stream)

    def _recover_soon(self, stream: IngestStream | StreamEvents) -> None:
        self._tasks.create_task(_recover(stream), name=f"recover:{stream.stream_id}")

    async def _keep(self, stream: IngestStream) -> None:
        """Have a stream that can be resumed, until its client has been away for too long."""
        bus = self.context.control_bus

        def release(_subject: bytes, reply: bytes, _payload: bytes, _headers: bytes) -> None:
            self._tasks.create_task(self._release(stream, reply))

        subject = SourceSubject(stream.request.tenant, stream.stream_id)
        sid = bus.subscribe_direct(str(subject), release)
        try:
            while stream.end_reason is None:
                await stream.vacant.wait()
                if stream.end_reason is not None:
                    break
                try:
                    async with asyncio.timeout(self.resume_s):
                        await stream.occupied.wait()
                except TimeoutError:
                    stream.end("client_gone")
            await self._linger(stream)
        finally:
            bus.unsubscribe_direct(sid)

    async def _release(self, stream: IngestStream, reply: bytes) -> None:
        """Answer an ingest that the client has come to: why the stream has ended, or nothing."""
        if stream.end_reason is None or stream.end_reason == "end":
            stream.clear_seats()
            await self._hand_over(stream)
        if stream.is_stored:  # else who asks takes this process for frozen
            reason = stream.end_reason if stream.end_reason != "resumed" else ""
            self.context.control_bus.publish_nowait(reply, (reason or "").encode())

    async def _hand_over(self, stream: IngestStream) -> None:
        """Store what has come from the client and let go of the stream, without its end."""
        await stream.vacant.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S):
                await stream.wait_until_stored()
                stream.let_go()

    async def _recover_those_behind(self) -> None:
        while True:
            self._recover_soon(await self.context.behind.get())

    async def _linger(self, stream: IngestStream) -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                await stream.closed.wait()
                await stream.say_unsaid()
        except TimeoutError:
            logger.warning("a stream was not closed", extra={"stream_id": stream.stream_id})
        except Exception:  # a bug, or a refusal: one stream's must not end all the others
            logger.exception("a stream failed", extra={"stream_id": stream.stream_id})
        finally:
            self._forget(stream)

    def _forget(self, stream: IngestStream) -> None:
        stream.release()
        if self._streams.get(stream.stream_id) is stream:  # else it has come back from elsewhere
            del self._streams[stream.stream_id]
        self._leave_room(stream.request)

    def _leave_room(self, request: StreamRequest) -> None:
        n_streams = request.split_channels or 1
        self._n_streams -= n_streams
        self._per_tenant[request.tenant] -= n_streams


async def _recover(stream: IngestStream | StreamEvents) -> None:
    while not stream.closed.is_set():
        try:
            await stream.recover()
        except JetStreamUnavailableError:
            await asyncio.sleep(RECOVER_RETRY_S)
        except Exception:  # likewise; what it broke at may have been handed on already
            logger.exception("a stream failed", extra={"stream_id": stream.stream_id})
            await asyncio.sleep(RECOVER_AGAIN_S)
        else:
            return
