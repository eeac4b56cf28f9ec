"""Watches the workers that carry this ingest's streams, and finds others when they fail.

Each ingest supervises only its own streams: no coordinator, no lease per stream. A late heartbeat
is only a suspicion; the worker is asked before anything moves.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

import nats.errors

from speechbus_contracts import (
    ContractError,
    WorkerHeartbeat,
    WorkerSubject,
    decode_event,
)
from speechbus_contracts.subjects import ROOT
from speechbus_runtime.bus import BusConnection

__all__ = ["Supervised", "Supervisor"]

logger = logging.getLogger(__name__)

TICK_S: Final = 0.05
LATE_S: Final = 0.25
"""Heartbeats come every 200 ms; one late by a quarter of that is worth a question. A dead worker is
found by it, and a busy machine asks now and then for nothing."""
PING_TIMEOUT_S: Final = 0.55
"""A busy worker answers within this; a frozen one does not (nats.md 3: noticed after 810 ms)."""
RECONNECT_S: Final = 0.5
"""After an outage of NATS, workers may need this much longer to be connected than this ingest."""
FALSE_ALARM_S: Final = 3.0
"""A worker that is heard again so soon after it was taken for frozen was busy."""
PATIENCE_S_MAX: Final = 4.0
"""Each false alarm doubles the patience with a worker, up to this: on a machine without a free core
streams would go from one busy worker to the next, each beginning anew."""
ABSENCES_MAX: Final = 3
"""Reports in a row, one a second, in which a worker does not name a stream that it has claimed."""
FORGET_S: Final = 60.0
"""A worker without streams of ours that has been silent this long is forgotten."""

Verdict = Literal["worker_lost", "worker_frozen"]


class Supervised(Protocol):
    """A stream as its supervisor sees it."""

    @property
    def worker_id(self) -> str | None:
        """Worker that has claimed it; None: nobody yet."""
        ...

    @property
    def stream_id(self) -> str:
        """Its id."""
        ...

    def consume(self, sample: int) -> None:
        """How far its worker has read."""
        ...

    async def reopen(self, reason: str) -> None:
        """Place it on another worker."""
        ...


class Supervisor:
    """Liveness of all workers, as far as this ingest's streams are concerned.

    Args:
        bus: control connection.
        now_s: the loop's clock.
        beat: called whenever the loop turns; for health.
    """

    def __init__(
        self, bus: BusConnection, *, now_s: Callable[[], float], beat: Callable[[], None]
    ) -> None:
        self._bus = bus
        self._now_s = now_s
        self._beat = beat
        self._streams: dict[str, Supervised] = {}
        self._seen_at_s: dict[str, float] = {}
        self._probing: set[str] = set()
        self._condemned_at_s: dict[str, float] = {}
        self._patience_s: dict[str, float] = {}
        self._absences: Counter[str] = Counter()
        self._abandoned: list[Supervised] = []
        self._echo_subject = bus.new_inbox().encode()
        self._echoed = self._asked = 0
        bus.subscribe_direct(self._echo_subject.decode(), self._hear_echo)
        bus.subscribe_direct(f"{ROOT}.worker.*.heartbeat", self._see_heartbeat)
        bus.on_reconnected(self._after_reconnect)

    def add(self, stream: Supervised) -> None:
        """Supervise a stream."""
        self._streams[stream.stream_id] = stream

    def remove(self, stream: Supervised) -> None:
        """Let go of a stream."""
        self._streams.pop(stream.stream_id, None)
        self._absences.pop(stream.stream_id, None)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as probes:
            while True:
                self._beat()
                abandoned, self._abandoned = self._abandoned, []
                for stream in abandoned:
                    logger.warning(
                        "a worker does not carry what it has claimed",
                        extra={"worker": stream.worker_id, "stream_id": stream.stream_id},
                    )
                    probes.create_task(stream.reopen("worker_lost"))
                if self._bus.is_connected:
                    for worker_id in self._late_workers():
                        self._probing.add(worker_id)
                        probes.create_task(self._probe(worker_id), name=f"probe:{worker_id}")
                await asyncio.sleep(TICK_S)

    def _late_workers(self) -> list[str]:
        now_s = self._now_s()
        carrying = {stream.worker_id for stream in self._streams.values()}
        late: list[str] = []
        for worker_id in carrying:
            if worker_id is None or worker_id in self._probing:
                continue
            # A worker known only from a claim gets as long as any other to be heard.
            seen_at_s = self._seen_at_s.setdefault(worker_id, now_s)
            if now_s - seen_at_s > LATE_S:
                late.append(worker_id)
        for worker_id in [w for w, seen in self._seen_at_s.items() if now_s - seen > FORGET_S]:
            if worker_id not in carrying:
                del self._seen_at_s[worker_id]
                self._patience_s.pop(worker_id, None)
                self._condemned_at_s.pop(worker_id, None)
        return late

    async def _probe(self, worker_id: str) -> None:
        try:
            verdict = await self._ask(worker_id)
            # Seen or not: the next question comes `LATE_S` from now.
            self._seen_at_s[worker_id] = self._now_s()
            if verdict is None:
                return
            streams = [s for s in self._streams.values() if s.worker_id == worker_id]
            logger.warning(
                "worker failed",
                extra={"worker": worker_id, "why": verdict, "streams": len(streams)},
            )
            async with asyncio.TaskGroup() as reopenings:
                for stream in streams:
                    reopenings.create_task(stream.reopen(verdict))
        finally:
            self._probing.discard(worker_id)

    async def _ask(self, worker_id: str) -> Verdict | None:
        self._asked += 1
        number = self._asked
        self._bus.publish_nowait(self._echo_subject, b"%d" % number)
        try:
            await self._bus.request(
                str(WorkerSubject(worker_id, "ping")), b"", timeout=self._patience_with(worker_id)
            )
        except nats.errors.NoRespondersError:
            return "worker_lost"
        except (nats.errors.TimeoutError, TimeoutError):
            # Silence says nothing about the worker while NATS gives our own words not back either.
            is_heard = self._echoed >= number and self._bus.is_connected
            if not is_heard or self._now_s() - self._seen_at_s[worker_id] < LATE_S:
                return None
            self._condemned_at_s[worker_id] = self._now_s()
            return "worker_frozen"
        except (nats.errors.Error, OSError):
            return None
        return None

    def _hear_echo(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        self._echoed = int(payload)

    def _see_heartbeat(self, _subject: bytes, _reply: bytes, payload: bytes, _h: bytes) -> None:
        try:
            heartbeat = decode_event(payload)
        except ContractError:
            return
        if not isinstance(heartbeat, WorkerHeartbeat):
            return
        self._seen_at_s[heartbeat.worker] = self._now_s()
        if heartbeat.worker in self._condemned_at_s:
            self._learn(heartbeat.worker)
        if heartbeat.consumed is not None:
            self._compare(heartbeat.worker, heartbeat.consumed)

    def _patience_with(self, worker_id: str) -> float:
        return self._patience_s.get(worker_id, PING_TIMEOUT_S)

    def _learn(self, worker_id: str) -> None:
        """A worker that was taken for frozen is heard: it may have been busy only."""
        if self._now_s() - self._condemned_at_s.pop(worker_id) < FALSE_ALARM_S:
            patience_s = min(PATIENCE_S_MAX, 2 * self._patience_with(worker_id))
            self._patience_s[worker_id] = patience_s

    def _compare(self, worker_id: str, consumed: Mapping[str, int]) -> None:
        """See which of our streams the worker really carries: a claim alone carries nothing."""
        for stream_id, stream in self._streams.items():
            if stream.worker_id != worker_id:
                continue
            if stream_id in consumed:
                self._absences.pop(stream_id, None)
                stream.consume(consumed[stream_id])
                continue
            self._absences[stream_id] += 1
            if self._absences[stream_id] >= ABSENCES_MAX:
                del self._absences[stream_id]
                self._abandoned.append(stream)

    async def _after_reconnect(self) -> None:
        until_s = self._now_s() + RECONNECT_S
        for worker_id in self._seen_at_s:
            self._seen_at_s[worker_id] = until_s
