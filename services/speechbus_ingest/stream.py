"""What one client sends, whatever protocol and format it speaks: bytes in, events out."""

import asyncio
import logging
import os
from contextlib import suppress
from typing import Final

import msgspec

from speechbus_contracts import (
    StreamClosed,
    StreamId,
    StreamOpened,
    build_shard,
    build_stream_id,
    encode_event,
)
from speechbus_ingest.bus_stream import BusStream, IngestContext, TakenStream
from speechbus_ingest.event_order import Position
from speechbus_ingest.formats.decoding import Decoding
from speechbus_ingest.formats.names import (
    PLAIN,
    SAMPLE_RATE_HZ_MAX,
    SAMPLE_RATE_HZ_MIN,
    AudioFormat,
    EncodedFormat,
)
from speechbus_ingest.formats.raw import RawConverter
from speechbus_ingest.formats.undecodable import Problem, UndecodableError
from speechbus_ingest.quotas import Bucket
from speechbus_ingest.seat import Empty, Seat
from speechbus_ingest.stream_events import EventSink

__all__ = [
    "SAMPLE_RATE_HZ_MAX",
    "SAMPLE_RATE_HZ_MIN",
    "IngestStream",
    "StreamRequest",
    "new_stream_id",
]

logger = logging.getLogger(__name__)

SILENT_RATE_HZ: Final = 16_000
"""Of a stream in which no audio was ever found: one has to be named."""
SLICE_BYTES: Final = 64 << 10
"""Of audio passed on at once: 8.2 s of the tightest raw format. A message may hold minutes, and no
more than the credit and one slice may lie before the worker: ingest and AUDIO keep 90 s."""
SETTLE_S_MAX: Final = 2.0
"""Decoding what has come takes milliseconds, unless the worker holds everything back."""
EARLY_FLUSHES_MAX: Final = 16
"""Flushes before any audio; they all mean the same."""
UNDECODABLE: Final = "undecodable"
STORED_POLL_S: Final = 0.01


class StreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for, checked by its door."""

    tenant: str
    door: str
    sample_rate_hz: int | None
    """None: the audio itself says it, which is so of all formats that are not raw."""
    language: str | None = None
    target_languages: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    has_filler_filter: bool | None = None
    keywords: tuple[str, ...] = ()
    skips_silence: bool = True
    audio_format: AudioFormat | EncodedFormat = PLAIN
    """Of what `IngestStream.take` gets."""
    split_channels: int | None = None
    """Each of so many channels becomes a stream; None: the mean of all becomes one."""
    stream_id: str | None = None
    """Made by the door, for a stream that may be opened once whoever tries; None: any new one."""
    is_resumable: bool = False
    """Whether the client may come back, with raw audio that is one stream."""
    traceparent: str = ""
    """Of the client: its trace goes on in ours; empty: it has none."""


class IngestStream:
    """A client's stream.

    Order of calls: `open`, `take_over`, or a task for `decode`; then `take` and `flush` as audio
    comes; `end` once; wait for `closed`; always `release`.

    Args:
        request: what the client asked for.
        context: what all streams share.
        sink: gets the events.
        decoding: of formats that are not raw.
    """

    def __init__(
        self,
        request: StreamRequest,
        context: IngestContext,
        sink: EventSink,
        decoding: Decoding | None = None,
    ) -> None:
        self.request = request
        self._context = context
        self._sink = sink
        self.stream_id = request.stream_id or new_stream_id(context.now_ns())
        self.stream_ids = [
            self.stream_id if channel is None else f"{self.stream_id}-ch{channel}"
            for channel in _list_channels(request)
        ]
        """Of the streams on the bus."""
        self.closed = asyncio.Event()
        """Set when `stream.closed`, of all streams, has been handed to the sink; also when another
        ingest has the stream."""
        self.opened = asyncio.Event()
        """Set once the bus knows of the stream: with encoded audio, when its first samples come."""
        self.claimed = asyncio.Event()
        """Set once a worker has the stream."""
        self.written_at_s = context.audio.now_s()
        """When the client last sent audio, on the loop's clock."""
        self.allowance: Bucket | None = None
        """Bytes that may come from this tenant's clients; None: as many as the bus takes."""
        self.end_reason: str | None = None
        """What `end` was called with, `undecodable` or `resumed`; None: audio is welcome."""
        self.problem: Problem | None = None
        """Why the audio could not be decoded to its end."""
        self.undecodable = asyncio.Event()
        """Set when there is a `problem`."""
        self.seat = Seat()
        """The connection that the audio comes from, or came from last."""
        self._newest_seat = self.seat
        self.vacant = asyncio.Event()
        """Set while no connection has the stream; of those that can be resumed."""
        self.occupied = asyncio.Event()
        """Set otherwise, and when nobody needs to come back any more."""
        self._decoding = decoding
        self._is_decoded = decoding is None
        self._converter = _open_converter(request)
        self._buses: list[BusStream] = []
        """One, or one for each channel; none before `open`."""
        self._n_closed = 0
        self._n_early_flushes = 0

    @property
    def is_stored(self) -> bool:
        """Whether everything written so far is stored on the bus."""
        return self._is_decoded and all(bus.is_stored for bus in self._buses)

    @property
    def accepted_samples(self) -> int:
        """Samples published so far."""
        return self._buses[0].accepted_samples if self._buses else 0

    @property
    def stored_samples(self) -> int:
        """Samples that are stored on the bus, without a hole: no dying process takes them."""
        return self._buses[0].stored_samples if self._buses else 0

    @property
    def age_s(self) -> float:
        """How long ago the stream was opened, wherever that was."""
        if not self._buses:
            return 0.0  # it will be with its first samples
        return max(0.0, self._context.now_ns() / 1e9 - self._buses[0].opened.opened_at / 1000)

    async def open(self, sample_rate_hz: int) -> None:
        """Announce the stream and ask for a worker; audio may follow at once.

        Raises:
            StreamExistsError: the request named the id of another stream.
        """
        request = self.request
        self._buses = [
            BusStream(
                StreamOpened(
                    stream_id=stream_id,
                    tenant=request.tenant,
                    opened_at=self._context.now_ns() // 1_000_000,
                    sample_rate_hz=sample_rate_hz,
                    shard=build_shard(stream_id, shards=self._context.shards),
                    language=request.language,
                    target_languages=request.target_languages,
                    providers=request.providers,
                    door=request.door,
                    has_filler_filter=request.has_filler_filter,
                    keywords=request.keywords,
                    skips_silence=request.skips_silence,
                    channel=channel,
                    is_resumable=request.is_resumable,
                ),
                self._context,
                self,
                on_superseded=self.let_go,
                traceparent=request.traceparent,
            )
            for stream_id, channel in zip(self.stream_ids, _list_channels(request), strict=True)
        ]
        for bus in self._buses:
            await bus.open()
        for _ in range(self._n_early_flushes):
            for bus in self._buses:
                bus.flush()
        self.opened.set()

    def take_over(self, taken: TakenStream) -> None:
        """Go on with another ingest's stream; then call `replay`."""
        bus = BusStream(taken.opened, self._context, self, on_superseded=self.let_go, taken=taken)
        self._buses = [bus]
        if taken.audio.end is not None:
            self.end_reason = "end"
        if taken.claimed is not None:
            self.claimed.set()
        self.opened.set()
        bus.take_over(taken)

    async def decode(self) -> None:
        """Open the stream when its first samples come, and carry them to the bus to their end."""
        assert self._decoding is not None
        try:
            try:
                await self._carry(self._decoding)
            except UndecodableError as error:
                self._note_problem(error.problem)
            finally:
                self._decoding.close()
            if not self._buses:
                await self.open(SILENT_RATE_HZ)  # so that it is closed like any other
        except Exception:  # no door waits for this task, and it must not take the others along
            logger.exception("a stream failed", extra={"stream_id": self.stream_id})
            self._note_problem("crashed" if self.opened.is_set() else "unannounced")
            if not self.opened.is_set():
                self._close_unannounced()
        self._is_decoded = True
        for bus in self._buses:
            bus.end(self.end_reason or UNDECODABLE)

    def _note_problem(self, problem: Problem) -> None:
        if self.end_reason not in {None, "end"}:
            return  # this side, or the client's departure, has ended it: of course it was cut off
        logger.info(
            "audio undecodable",
            extra={
                "stream_id": self.stream_id,
                "format": self.request.audio_format,
                "problem": problem,
            },
        )
        self._context.count_undecodable(problem)
        self.end_reason = UNDECODABLE
        self.problem = problem
        self.undecodable.set()

    def _close_unannounced(self) -> None:
        """Tell the door what no worker will: the bus knows nothing of the stream."""
        for bus in self._buses:
            bus.release()
        self._buses = []
        closed = StreamClosed(
            stream_id=self.stream_id,
            tenant=self.request.tenant,
            epoch=0,
            reason=UNDECODABLE,
            audio_ms=0,
            finals=0,
            gap_ms=0,
        )
        self.take_event("closed", encode_event(closed))

    async def _carry(self, decoding: Decoding) -> None:
        pcm = await decoding.read()
        await self.open(decoding.sample_rate_hz or SILENT_RATE_HZ)
        while pcm:
            for start in range(0, len(pcm[0]), SLICE_BYTES):
                self._pass([samples[start : start + SLICE_BYTES] for samples in pcm])
                for bus in self._buses:
                    await bus.wait_for_room()
            pcm = await decoding.read()
        if self.end_reason is None:
            raise UndecodableError("crashed")  # the decoder saw an end where there was none

    async def take(self, data: bytes) -> None:
        """Take bytes of the request's format, cut anywhere; wait while too much is on its way.

        After `end` they are dropped: this side may end a stream while a client still sends.
        """
        for start in range(0, len(data), SLICE_BYTES):
            self._write(data[start : start + SLICE_BYTES])  # of a usual message itself, uncopied
            if self.allowance is not None:
                await asyncio.sleep(self.allowance.take(min(SLICE_BYTES, len(data) - start)))
            if not self.has_room:
                await self.wait_for_room()

    def _write(self, data: bytes) -> None:
        if self.end_reason is not None:
            return
        self.written_at_s = self._context.audio.now_s()
        if self._decoding is not None:
            self._decoding.write(data)
        elif self._converter is None:  # the hot path: one plain stream
            self._buses[0].write(data)
        else:
            self._pass(self._converter.convert(data))

    def _pass(self, pcm: list[bytes]) -> None:
        for bus, samples in zip(self._buses, pcm, strict=True):
            bus.write(samples)

    def note_client(self) -> None:
        """The client is there, though nothing was read from it."""
        self.written_at_s = self._context.audio.now_s()

    async def wait_for_room(self) -> None:
        """Wait while too much audio is on its way."""
        if self._decoding is not None:
            await self._decoding.wait_for_room()
            return
        for bus in self._buses:
            await bus.wait_for_room()

    @property
    def has_room(self) -> bool:
        """Whether `wait_for_room` would return at once."""
        if self._decoding is not None:
            return self._decoding.has_room
        for bus in self._buses:  # noqa: SIM110 (asked with every message: a generator costs)
            if not bus.has_room:
                return False
        return True

    async def settle(self) -> None:
        """Wait until what was written has been decoded, so that a flush means all of it."""
        if self._decoding is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S_MAX):
                    await self._decoding.settle()

    def flush(self) -> int:
        """Ask for finals of everything decoded so far; see `settle`.

        Returns:
            Number of the flush chunk: the `stream.flushed` that answers it names this `chunk` (of
            split channels, the first's).
        """
        if not self.opened.is_set():  # then its chunks will be the first
            self._n_early_flushes = min(self._n_early_flushes + 1, EARLY_FLUSHES_MAX)
            return self._n_early_flushes - 1
        numbers = [bus.flush() for bus in self._buses]
        return numbers[0]

    async def change_language(self, language: str | None) -> None:
        """From here on another language is spoken; returns when that is stored. See `settle`."""
        if not self._buses:  # no sample was found yet: `stream.opened` will say it
            self.request = msgspec.structs.replace(self.request, language=language)
            return
        await self.opened.wait()
        for bus in self._buses:
            await bus.change_language(language)

    def end(self, reason: str) -> None:
        """No more audio: `end`, `client_gone`, `idle`, `limit` or `shutdown`."""
        if self.end_reason is not None:
            return
        self.end_reason = reason
        if self._decoding is not None:
            self._decoding.finish()
        else:
            for bus in self._buses:
                bus.end(reason)

    def take_event(self, kind: str, payload: bytes) -> None:
        """See `EventSink`; called by the streams on the bus."""
        if kind == "claim":
            self.claimed.set()
        if kind == "closed":
            self._n_closed += 1
            if self._n_closed < len(self._buses):
                kind = "channel_closed"  # others go on; doors end with `closed`
        self._sink.take_event(kind, payload)
        if kind == "closed":
            self.closed.set()

    # --- connections, of a stream that can be resumed ------------------------------------------

    def offer_seat(self) -> Seat:
        """Have all other connections leave; wait for `vacant`, then `attach`."""
        self._newest_seat.taken.set()
        self._newest_seat = Seat()
        return self._newest_seat

    def attach(self, seat: Seat, audio_format: AudioFormat, sink: EventSink) -> None:
        """Take audio and give events to another connection.

        Args:
            seat: its own.
            audio_format: of what comes from now on.
            sink: gets the events from now on; call `replay` for those before.
        """
        self.seat = seat
        self.request = msgspec.structs.replace(self.request, audio_format=audio_format)
        self._converter = _open_converter(self.request)
        self._sink = sink
        self.written_at_s = self._context.audio.now_s()
        self.vacant.clear()
        self.occupied.set()

    def vacate(self) -> None:
        """The connection has gone: what it sent, up to its last whole sample, is published."""
        for bus in self._buses:
            bus.pause()
        self._sink = Empty()
        self.occupied.clear()
        self.vacant.set()

    def clear_seats(self, *, is_shutdown: bool = False) -> None:
        """Have all connections leave, those that wait for the seat, too."""
        for seat in (self.seat, self._newest_seat):
            seat.is_shutdown = is_shutdown
            seat.taken.set()

    async def wait_until_stored(self) -> None:
        """Return when everything published is stored; waits as long as NATS is away."""
        while not self.is_stored:  # noqa: ASYNC110 (an event would cost with every chunk)
            await asyncio.sleep(STORED_POLL_S)

    async def replay(self, *, after: Position) -> None:
        """Hand on all events stored behind a position.

        Raises:
            JetStreamUnavailableError: no answer.
        """
        for bus in self._buses:
            await bus.replay(after=after)

    def let_go(self) -> None:
        """Another ingest has the stream, or shall have it: say no more, not even its end."""
        self.end_reason = "resumed"
        self.clear_seats(is_shutdown=self.seat.is_shutdown)
        self.occupied.set()
        self.vacant.set()
        self.closed.set()

    # --- for the registry ----------------------------------------------------------------------

    def tend(self, now_s: float) -> None:
        """Do what is due."""
        if self.opened.is_set():
            for bus in self._buses:
                bus.tend(now_s)

    def hold_back(self) -> None:
        """The bus is away."""
        for bus in self._buses:
            bus.hold_back()

    async def recover(self) -> None:
        """The bus is back: hand on what was missed.

        Raises:
            JetStreamUnavailableError: no answer; call again.
        """
        for bus in self._buses:
            await bus.recover()

    async def say_unsaid(self) -> None:
        """Store gaps behind `closed`, if there are any; waits as long as NATS is away."""
        for bus in self._buses:
            await bus.say_unsaid()

    def release(self) -> None:
        """Let go of everything; the stream is closed or given up."""
        if self._decoding is not None:
            self._decoding.close()
        for bus in self._buses:
            bus.release()


def new_stream_id(now_ns: int) -> StreamId:
    """Return an id that no stream has had.

    Args:
        now_ns: wall clock, ns since 1970.
    """
    return build_stream_id(unix_ms=now_ns // 1_000_000, entropy=os.urandom(10))


def _list_channels(request: StreamRequest) -> list[int | None]:
    return [None] if request.split_channels is None else [*range(request.split_channels)]


def _open_converter(request: StreamRequest) -> RawConverter | None:
    audio_format = request.audio_format
    if isinstance(audio_format, str) or audio_format.is_plain:
        return None  # the usual case: what the client sent is what travels
    is_split = request.split_channels is not None
    return RawConverter(audio_format.encoding, audio_format.channels, is_split=is_split)
