"""Watches the other workers, for the streams of those whose ingest has died with them.

Ingest finds a new worker for its streams within a second. Where the streams of a lost worker are
still its own after some seconds more, nobody else is there to do it.
"""

import asyncio
import logging
import zlib
from collections.abc import Callable, Collection, Iterable
from typing import Final, Literal

import msgspec
import nats.errors

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    ContractError,
    JobOpen,
    StreamClaimed,
    WorkerSubject,
    build_dedup_headers,
    decode_event,
    encode_event,
    job_dedup_id,
)
from speechbus_contracts.subjects import JOB_OPEN, ROOT, WRITE_ROOT
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.jetstream import JetStreamUnavailableError, list_subjects, read_last
from speechbus_runtime.publisher import AckedPublisher

__all__ = ["PeerWatch"]

logger = logging.getLogger(__name__)

TICK_S: Final = 0.5
LATE_S: Final = 2.0
"""Heartbeats come every 200 ms. Ingest asks after 350 ms; here there is no hurry."""
PING_TIMEOUT_S: Final = 0.45
PATIENCE_S: Final = 2.0
"""By then every living ingest has found another worker for its streams."""
TURN_S: Final = 0.7
TURNS_MAX: Final = 4
"""One worker after the other looks for what is left, so that many do not all do the same."""
AWAY_S: Final = 1.5
"""A look around that comes this late says that this worker stood still, not the others."""
START_S: Final = 3.0
"""After its start, a worker has heard from all others by then."""
RETRY_S: Final = 1.0
PACE_S: Final = 0.02
"""Between two streams that were abandoned, perhaps for hours: they must not crowd out others."""
TRIES_MAX: Final = 5

Verdict = Literal["worker_lost", "worker_frozen"]


class _Report(msgspec.Struct):
    consumed: dict[str, int] | None = None


_report_decoder: Final = msgspec.json.Decoder(_Report)


class _Peer(msgspec.Struct):
    seen_at_s: float
    report: bytes = b""
    """Its last heartbeat that named its streams; decoded when it is needed."""

    @property
    def streams(self) -> set[str]:
        try:
            return set(_report_decoder.decode(self.report).consumed or ())
        except msgspec.DecodeError:
            return set()


class PeerWatch:
    """What one worker knows of the others.

    Args:
        bus: control connection.
        publisher: for jobs.
        worker_id: this worker.
        carried: ids of the streams that it carries.
    """

    def __init__(
        self,
        bus: BusConnection,
        publisher: AckedPublisher,
        *,
        worker_id: str,
        carried: Callable[[], Collection[str]],
    ) -> None:
        self._bus = bus
        self._publisher = publisher
        self._worker_id = worker_id
        self._carried = carried
        self._loop = asyncio.get_running_loop()
        self._peers: dict[str, _Peer] = {}
        self._probing: set[str] = set()
        bus.subscribe_direct(f"{ROOT}.worker.*.heartbeat", self._see_heartbeat)
        bus.on_reconnected(self._excuse_all)

    async def run(self) -> None:
        """Watch until cancelled."""
        looked_at_s = self._loop.time()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_for_abandoned(START_S, beside=()), name="abandoned")
            while True:
                await asyncio.sleep(TICK_S)
                now_s = self._loop.time()
                if now_s - looked_at_s > AWAY_S:
                    await self._excuse_all()
                looked_at_s = now_s
                if not self._bus.is_connected:
                    continue
                for worker_id, peer in self._peers.items():
                    if now_s - peer.seen_at_s > LATE_S and worker_id not in self._probing:
                        self._probing.add(worker_id)
                        tasks.create_task(self._probe(worker_id), name=f"peer:{worker_id}")

    def _see_heartbeat(self, subject: bytes, _reply: bytes, payload: bytes, _h: bytes) -> None:
        worker_id = subject.split(b".", 4)[3].decode()
        if worker_id == self._worker_id:
            return
        peer = self._peers.get(worker_id)
        if peer is None:
            peer = self._peers[worker_id] = _Peer(0.0)
        peer.seen_at_s = self._loop.time()
        if b'"consumed":{' in payload:
            peer.report = payload

    async def _excuse_all(self) -> None:
        now_s = self._loop.time()
        for peer in self._peers.values():
            peer.seen_at_s = now_s

    async def _probe(self, worker_id: str) -> None:
        try:
            verdict = await self._ask(worker_id)
            if verdict is None:
                self._peers[worker_id].seen_at_s = self._loop.time()
                return
            if self._loop.time() - self._peers[worker_id].seen_at_s < LATE_S:
                return  # it is back
            lost = self._peers.pop(worker_id)
            turn = find_turn(self._worker_id, [self._worker_id, *self._peers], lost=worker_id)
            await asyncio.sleep(PATIENCE_S + min(turn, TURNS_MAX) * TURN_S)
            for stream_id in lost.streams - self._find_carried():
                await self._place(stream_id, worker_id, verdict)
        finally:
            self._probing.discard(worker_id)
        if turn == 0:
            # What it had claimed in its last second is in no report.
            await self._look_for_abandoned(0.0, beside=lost.streams)

    async def _ask(self, worker_id: str) -> Verdict | None:
        try:
            await self._bus.request(
                str(WorkerSubject(worker_id, "ping")), b"", timeout=PING_TIMEOUT_S
            )
        except nats.errors.NoRespondersError:
            return "worker_lost"
        except (nats.errors.TimeoutError, TimeoutError):
            return "worker_frozen" if self._bus.is_connected else None
        except (nats.errors.Error, OSError):
            return None
        return None

    def _find_carried(self) -> set[str]:
        return set(self._carried()).union(*(peer.streams for peer in self._peers.values()))

    async def _place(self, stream_id: str, lost: str, verdict: Verdict) -> None:
        """Find a worker for a stream, if it is still the lost one's."""
        claimed = await self._read_claim(stream_id)
        if claimed is not None and claimed.worker == lost:
            await self._publish(claimed, verdict)

    async def _publish(self, claimed: StreamClaimed, verdict: Verdict) -> None:
        epoch = claimed.epoch + 1
        job = JobOpen(
            stream_id=claimed.stream_id, tenant=claimed.tenant, epoch=epoch, reason=verdict
        )
        logger.warning(
            "a stream had lost its worker and its ingest",
            extra={"stream_id": claimed.stream_id, "worker": claimed.worker, "epoch": epoch},
        )
        await self._publisher.publish(
            JOB_OPEN,
            encode_event(job),
            headers=encode_headers(build_dedup_headers(job_dedup_id(claimed.stream_id, epoch))),
        )

    async def _read_claim(self, stream_id: str) -> StreamClaimed | None:
        while True:
            try:
                stored = await read_last(
                    self._bus, TRANSCRIPT_STORE, f"{WRITE_ROOT}.*.{stream_id}.claim"
                )
            except JetStreamUnavailableError:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                event = None if stored is None else decode_event(stored.payload)
            except ContractError:
                event = None
            return event if isinstance(event, StreamClaimed) else None

    async def _look_for_abandoned(self, after_s: float, *, beside: Collection[str]) -> None:
        """Find streams that were claimed and not closed, and whose worker is gone for good.

        With the last worker everybody has died who would have noticed.
        """
        await asyncio.sleep(after_s)
        for _ in range(TRIES_MAX):
            try:
                streams = await self._list_unclosed()
                break
            except JetStreamUnavailableError:
                await asyncio.sleep(RETRY_S)
        else:
            logger.warning("the log could not be searched for abandoned streams")
            return
        verdicts: dict[str, Verdict | None] = {}
        suspects: list[StreamClaimed] = []
        for stream_id in streams - self._find_carried() - set(beside):
            claimed = await self._read_claim(stream_id)
            if claimed is None:
                continue
            worker_id = claimed.worker
            if worker_id == self._worker_id or worker_id in self._peers:
                suspects.append(claimed)
                continue
            if worker_id not in verdicts:
                verdicts[worker_id] = await self._ask(worker_id)
            verdict = verdicts[worker_id]
            if verdict is not None:
                await self._publish(claimed, verdict)
                await asyncio.sleep(PACE_S)
        if suspects:
            await self._place_forgotten(suspects)

    async def _place_forgotten(self, suspects: Iterable[StreamClaimed]) -> None:
        """Place what living workers have claimed and do not carry.

        They were started again under the same name. A claim of a moment ago is in the next report.
        """
        await asyncio.sleep(START_S)
        carried = self._find_carried()
        for claimed in suspects:
            if claimed.stream_id in carried:
                continue
            if await self._read_claim(claimed.stream_id) == claimed:
                await self._publish(claimed, "worker_lost")

    async def _list_unclosed(self) -> set[str]:
        claims, closed = [
            await list_subjects(self._bus, TRANSCRIPT_STORE, f"{WRITE_ROOT}.*.*.{kind}")
            for kind in ("claim", "closed")
        ]
        return _stream_ids(claims) - _stream_ids(closed)


def find_turn(worker_id: str, workers: Iterable[str], *, lost: str) -> int:
    """Return how many of the workers look for the streams of a lost one before this one does."""
    return sorted(workers, key=lambda one: (zlib.crc32(f"{lost} {one}".encode()), one)).index(
        worker_id
    )


def _stream_ids(subjects: Iterable[str]) -> set[str]:
    return {subject.split(".")[4] for subject in subjects}
