"""A worker: takes streams from the queue, carries them, hands them over when it must go."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from speechbus_contracts import (
    ContractError,
    JobOpen,
    StreamClaimed,
    WorkerHeartbeat,
    WorkerSubject,
    decode_event,
    encode_event,
)
from speechbus_contracts.subjects import TRANSCRIPT_ROOT
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.lifecycle import StopSignal
from speechbus_runtime.publisher import PublishRefusedError
from speechbus_transcriber.claim import StreamUnknownError, claim_stream
from speechbus_transcriber.peers import PeerWatch
from speechbus_transcriber.placement import JobPuller, count_deliveries
from speechbus_transcriber.providers.registry import plan_stream
from speechbus_transcriber.stream import StreamRun
from speechbus_transcriber.stream_context import StreamContext

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 0.2
CONSUMED_EVERY: Final = 5
"""One heartbeat in so many tells how far each stream was read."""
CHECK_LATE_S: Final = 3.0
"""Sources are looked at once a second; a look this late comes after a freeze of this worker."""
UNKNOWN_MAX: Final = 4
"""Deliveries of a job whose stream the log does not know: 2 s. A leader that was cut off, and
answers until it knows that it is none any more, learns it within 1 s."""
SHOW_WITHIN_S: Final = 1.0
"""A worker whose last heartbeat came back longer ago than this keeps its partials to itself."""


class Worker:
    """Carries up to `capacity` streams.

    Args:
        context: what its streams share; `may_show` is taken from the worker itself.
        capacity: streams at once.
        beat: called whenever the worker's loop turns; for health.
    """

    def __init__(self, context: StreamContext, *, capacity: int, beat: Callable[[], None]) -> None:
        self._context = context
        self._capacity = capacity
        self._beat = beat
        self._runs: dict[str, StreamRun] = {}
        self._claiming: set[tuple[str, int]] = set()
        self._checked_at_s = 0.0
        self._carried = 0
        self._is_draining = False
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._loop = asyncio.get_running_loop()
        self._streams = asyncio.TaskGroup()
        bus = context.control_bus
        self._heartbeat_subject = str(WorkerSubject(context.worker_id, "heartbeat"))
        self._sent_at: deque[float] = deque(maxlen=100)
        self._returned_at_s = self._loop.time()
        self._puller = JobPuller(
            bus, capacity=capacity, carried=self._count_carried, take=self._take_job
        )
        self._peers = PeerWatch(
            bus,
            context.publisher,
            worker_id=context.worker_id,
            carried=self._list_carried,
        )
        bus.subscribe_direct(f"{TRANSCRIPT_ROOT}.*.*.claim", self._see_claim)
        bus.subscribe_direct(self._heartbeat_subject, self._see_heartbeat)
        bus.subscribe_direct(str(WorkerSubject(context.worker_id, "ping")), self._answer_ping)
        bus.on_disconnected(self._sent_at.clear)
        bus.on_reconnected(self._after_reconnect)
        context.audio_bus.on_reconnected(self._after_reconnect)

    def may_show(self) -> bool:
        """Whether a newer claim of one of its streams would have been seen by now.

        Claims and the worker's own heartbeats come over one connection, in order: when a
        heartbeat has come back, every claim stored before it has been read.
        """
        return self._loop.time() - self._returned_at_s < SHOW_WITHIN_S

    async def run(self, stop: StopSignal, *, on_drain: Callable[[], None], drain_s: float) -> None:
        """Carry streams until `stop`, then hand them over; returns within about `drain_s`."""
        async with self._streams:
            heartbeat = self._streams.create_task(self._send_heartbeats(), name="heartbeat")
            pull = self._streams.create_task(self._puller.run(), name="pull")
            peers = self._streams.create_task(self._peers.run(), name="peers")
            await stop.wait()
            self._is_draining = True
            peers.cancel()
            on_drain()
            self._puller.stop()
            await self._drain(drain_s)
            pull.cancel()
            heartbeat.cancel()

    # --- placement -----------------------------------------------------------------------------

    def _count_carried(self) -> int:
        return self._carried

    def _list_carried(self) -> set[str]:
        return {*self._runs, *(stream_id for stream_id, _ in self._claiming)}

    def _take_job(self, job: JobOpen, reply: bytes, traceparent: str) -> bool:
        if self._is_draining or self._carried >= self._capacity:
            return False
        self._carried += 1
        self._all_gone.clear()
        if count_deliveries(reply) > 1:
            self._context.measures.count_redelivered()
        self._streams.create_task(
            self._carry(job, reply, traceparent), name=f"stream:{job.stream_id}"
        )
        return True

    async def _carry(self, job: JobOpen, reply: bytes, traceparent: str) -> None:
        key = (job.stream_id, job.epoch)
        if key in self._claiming:
            self._carried -= 1  # delivered again while its claim takes long
            return
        self._claiming.add(key)
        try:
            await self._claim_and_run(job, reply, traceparent)
        except Exception:  # a bug, ours or a library's: one stream's must not end all the others
            # Its ingest misses it in the heartbeats and places it again.
            logger.exception("a stream failed", extra={"stream_id": job.stream_id})
        finally:
            self._claiming.discard(key)
            self._carried -= 1
            if not self._carried:
                self._all_gone.set()

    async def _claim_and_run(self, job: JobOpen, reply: bytes, traceparent: str) -> None:
        context = self._context
        try:
            owned = await claim_stream(
                context.control_bus,
                context.publisher,
                job,
                worker_id=context.worker_id,
                choose=lambda opened: next(iter(plan_stream(opened, context.providers)), "none"),
                now_ms=context.now_ns() // 1_000_000,
                tracing=context.tracing,
                traceparent=traceparent,
            )
        except JetStreamUnavailableError:
            self._puller.postpone(reply)  # read again when NATS answers again
            return
        except StreamUnknownError:
            if self._puller.postpone(reply, times_max=UNKNOWN_MAX):
                return
            logger.warning("a job of a stream that nobody knows was removed")
            self._puller.acknowledge(reply)
            return
        except (ContractError, PublishRefusedError):
            # No worker could do better: passed round, it would take one after the other down.
            logger.warning("a job that cannot be claimed was removed")
            self._puller.acknowledge(reply)
            return
        self._puller.acknowledge(reply)
        if owned is None:
            return
        former = self._runs.get(job.stream_id)
        if former is not None:
            former.supersede()  # we were thought dead and got our own stream back
        context.measures.count_claim(job.reason)
        run = StreamRun(owned, context)
        self._runs[job.stream_id] = run
        if self._is_draining:
            await run.hand_over("drain")
        logger.info(
            "stream claimed",
            extra={"stream_id": run.stream_id, "epoch": run.epoch, "reason": job.reason},
        )
        try:
            outcome = await run.run()
        finally:
            if self._runs.get(job.stream_id) is run:
                del self._runs[job.stream_id]
        logger.info(
            "stream ended here",
            extra={"stream_id": run.stream_id, "epoch": run.epoch, "outcome": outcome},
        )

    def _see_claim(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        try:
            claimed = decode_event(payload)
        except ContractError:
            return
        if isinstance(claimed, StreamClaimed):
            run = self._runs.get(claimed.stream_id)
            if run is not None and claimed.epoch > run.epoch:
                run.supersede()

    # --- liveness ------------------------------------------------------------------------------

    async def _send_heartbeats(self) -> None:
        context = self._context
        subject = self._heartbeat_subject.encode()
        count = 0
        while True:
            consumed = None
            if count % CONSUMED_EVERY == 0:
                consumed = {stream_id: 0 for stream_id, _ in self._claiming}
                consumed |= {run.stream_id: run.position for run in self._runs.values()}
                self._check_sources()
                self._measure()
            heartbeat = WorkerHeartbeat(
                worker=context.worker_id,
                sessions=self._carried,
                capacity=self._capacity,
                draining=self._is_draining,
                consumed=consumed,
            )
            if context.control_bus.publish_nowait(subject, encode_event(heartbeat)):
                self._sent_at.append(self._loop.time())
            self._beat()
            count += 1
            await asyncio.sleep(HEARTBEAT_S)

    def _see_heartbeat(self, _subject: bytes, _reply: bytes, _payload: bytes, _h: bytes) -> None:
        if self._sent_at:
            self._returned_at_s = self._sent_at.popleft()

    def _answer_ping(self, _subject: bytes, reply: bytes, _payload: bytes, _headers: bytes) -> None:
        self._context.control_bus.publish_nowait(reply, b"")

    def _check_sources(self) -> None:
        now_s = self._loop.time()
        was_away = now_s - self._checked_at_s > CHECK_LATE_S
        self._checked_at_s = now_s
        for run in list(self._runs.values()):
            if was_away:
                run.excuse_source()  # this worker stood still: what came meanwhile is unread
            elif self._context.audio_bus.is_connected:
                run.check_source(now_s)

    def _measure(self) -> None:
        measures = self._context.measures
        measures.n_streams = self._carried
        measures.note_lags([run.check_lag() for run in self._runs.values()])

    async def _after_reconnect(self) -> None:
        self.excuse_sources()

    def excuse_sources(self) -> None:
        """NATS was out of reach: silence so far says nothing about the ingests."""
        for run in list(self._runs.values()):
            run.excuse_source()

    # --- drain ---------------------------------------------------------------------------------

    async def _drain(self, drain_s: float) -> None:
        """Ask for new owners and carry each stream until its new claim is there."""
        runs = list(self._runs.values())
        logger.info("draining", extra={"streams": len(runs)})
        try:
            async with asyncio.timeout(drain_s):
                async with asyncio.TaskGroup() as handovers:
                    for run in runs:
                        handovers.create_task(run.hand_over("drain"))
                await self._all_gone.wait()
        except TimeoutError:
            # Their ingests will notice that this worker is gone and find others.
            logger.warning("streams were not taken over in time", extra={"left": self._carried})
            for run in list(self._runs.values()):
                run.supersede()
