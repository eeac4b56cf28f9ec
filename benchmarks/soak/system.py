"""The system under a soak, and what is done to its processes."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.simulators import Simulator
from benchmarks.soak.nodes import NodeStriker
from benchmarks.soak.plan import Strike, plan_script
from tests.support.nats_cluster import NatsCluster
from tests.support.nats_server import NatsServerError
from tests.support.system import Service, ServiceError, System

__all__ = ["Striker", "Struck", "build_system"]

START_TRIES: Final = 3
"""NATS may go away while a service starts."""
QUIET_S: Final = 6.0
"""Between a restart of NATS and the death of an ingest. AUDIO is in memory: what the one has lost
only the other has, for a moment (docs/architecture.md). With three replicas nothing is lost, but an
election or a node that is cut off keeps the last audio in ingest for seconds."""
ORPHANS_WAIT_S: Final = 120.0
"""For the streams of a dead ingest to be closed before NATS may go away, for the same reason."""


class Struck(msgspec.Struct, kw_only=True):
    """One strike, as it happened."""

    kind: str
    what: str
    began_s: float
    """Since the soak began."""
    ended_s: float | None = None
    """None: it lasts."""

    def describe(self) -> str:
        """One line for a report."""
        ended = "…" if self.ended_s is None else f"{self.ended_s:.1f}"
        return f"{self.began_s:.1f} to {ended} s: {self.kind} {self.what}"


def build_system(
    folder: Path,
    simulators: Sequence[Simulator],
    *,
    ingests: int,
    workers: int,
    cluster_audio_replicas: int | None = None,
) -> System:
    """Prepare the services for running simulators.

    Args:
        folder: for stores and logs.
        simulators: run.
        ingests: how many.
        workers: how many.
        cluster_audio_replicas: with three NATS nodes, how many of them have each chunk of audio;
            None: a single server.
    """
    has_cluster = cluster_audio_replicas is not None
    environment = {
        "KOTOBA_API_KEY": "soak",
        "PALABRA_CLIENT_ID": "soak",
        "PALABRA_CLIENT_SECRET": "soak",
    }
    for simulator in simulators:
        environment |= simulator.variables
    return System(
        folder / "system",
        ingests=ingests,
        transcribers=workers,
        transcriber_settings={"PROVIDERS": "palabra,kotoba,echo", "SESSIONS_MAX": "200"},
        ingest_settings={"STREAMS_PER_KEY_MAX": "1000"},
        environment=environment,
        cluster=NatsCluster(folder / "system" / "nats") if has_cluster else None,
        bootstrap_settings={"REPLICAS": "3", "AUDIO_REPLICAS": str(cluster_audio_replicas)}
        if has_cluster
        else {},
    )


class Striker:
    """Strikes processes and brings them back.

    The first worker and the first ingest are only frozen, so that their memory says something.

    Args:
        system: runs.
        simulators: run.
        seed: of the soak.
        audio_replicas: of the stores of audio.
        now_s: since the soak began.
        note_death: told the port of each ingest that is about to end.
        count_orphans: streams whose ingest has ended and that are not closed yet.
    """

    def __init__(
        self,
        system: System,
        simulators: Sequence[Simulator],
        *,
        seed: int,
        audio_replicas: int,
        now_s: Callable[[], float],
        note_death: Callable[[int], None],
        count_orphans: Callable[[], int],
    ) -> None:
        self.is_over = False
        """Begin nothing more."""
        self.struck: list[Struck] = []
        self.skipped = 0
        self.problems: list[str] = []
        self._system = system
        self._simulators = {simulator.provider: simulator for simulator in simulators}
        self._seed = seed
        self._now_s = now_s
        self._note_death = note_death
        self._count_orphans = count_orphans
        self._busy: set[str] = set()
        self._nodes = (
            None
            if system.cluster is None
            else NodeStriker(system.cluster, audio_replicas=audio_replicas)
        )
        self._is_volatile = audio_replicas == 1
        """Whether audio goes with its NATS server."""
        self._nats = asyncio.Lock()
        self._nats_back_s = -QUIET_S

    @property
    def listening(self) -> list[int]:
        """Ports of the ingests, running or not."""
        return [service.port for service in self._system.ingests]

    async def strike(self, strike: Strike) -> None:
        """Do it, and bring back what it took."""
        kind = strike.kind
        if kind.startswith("nats"):
            await self._strike_nats(strike)
        elif kind.startswith(("node", "leader")):
            await self._strike_nodes(strike)
        elif kind.startswith("ingest"):
            await self._strike_ingest(strike)
        elif kind in {"palabra_kill", "kotoba_kill"}:
            await self._strike_simulator(strike, kind.removesuffix("_kill"))
        elif kind == "workers_kill":
            async with asyncio.TaskGroup() as tasks:
                for worker in self._free(self._system.transcribers[1:]):
                    tasks.create_task(self._replace(worker, strike, self._kill))
        else:
            await self._strike_worker(strike)

    def look_after(self) -> None:
        """Notice services that ended without being struck."""
        for service in self._system.services:
            if not service.is_running and service.name not in self._busy:
                self._busy.add(service.name)
                self.problems.append(f"{service.name} ended by itself\n{service.read_log_end()}")

    # --- by kind -------------------------------------------------------------------------------

    async def _strike_worker(self, strike: Strike) -> None:
        workers = self._system.transcribers
        if strike.kind == "worker_freeze":
            await self._freeze(strike, workers)
        elif worker := self._choose(workers[1:], strike):
            does = self._drain if strike.kind == "worker_drain" else self._kill
            await self._replace(worker, strike, does)

    async def _strike_ingest(self, strike: Strike) -> None:
        ingests = self._system.ingests
        if strike.kind == "ingest_freeze":
            await self._freeze(strike, ingests)
            return
        async with self._nats:
            await asyncio.sleep(self._nats_back_s + QUIET_S - self._now_s())
            ingest = self._choose(ingests[1:], strike)
            if ingest is None:
                return
            self._note_death(ingest.port)
            async with asyncio.TaskGroup() as tasks:
                does = self._drain if strike.kind == "ingest_drain" else self._kill
                tasks.create_task(self._replace(ingest, strike, does))
                if strike.kind == "ingest_and_worker_kill" and (
                    worker := self._choose(self._system.transcribers[1:], strike)
                ):
                    tasks.create_task(self._replace(worker, strike, self._kill))

    async def _strike_nats(self, strike: Strike) -> None:
        async with self._nats:
            if not await self._wait_for_orphans() or self.is_over:
                self.skipped += 1
                return
            nats = self._system.nats
            struck = self._begin(strike, "")
            async with asyncio.TaskGroup() as tasks:
                if strike.kind == "nats_freeze":
                    os.kill(nats.pid, signal.SIGSTOP)
                    await asyncio.sleep(strike.away_s)
                    os.kill(nats.pid, signal.SIGCONT)
                else:
                    await asyncio.to_thread(nats.kill)
                    if strike.kind == "nats_and_worker" and (
                        worker := self._choose(self._system.transcribers[1:], strike)
                    ):
                        tasks.create_task(self._replace(worker, strike, self._kill))
                    await asyncio.sleep(strike.away_s)
                    await asyncio.to_thread(nats.start)
            struck.ended_s = self._nats_back_s = self._now_s()

    async def _strike_nodes(self, strike: Strike) -> None:
        assert self._nodes is not None
        async with self._nats:
            is_allowed = not self._is_volatile or await self._wait_for_orphans()
            if not is_allowed or self.is_over:
                self.skipped += 1
                return
            node = self._nodes.choose(strike)
            struck = self._begin(strike, f"node-{node}")
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(asyncio.to_thread(self._nodes.strike, strike, node))
                    if strike.kind == "node_and_worker_kill" and (
                        worker := self._choose(self._system.transcribers[1:], strike)
                    ):
                        tasks.create_task(self._replace(worker, strike, self._kill))
                struck.ended_s = self._now_s()
                await asyncio.to_thread(self._nodes.wait_until_whole)
            except* NatsServerError as errors:
                self.problems.append(f"{strike.kind} of node-{node}: {errors.exceptions[0]}")
            self._nats_back_s = self._now_s()

    async def _wait_for_orphans(self) -> bool:
        """Return whether every stream of a dead ingest has been closed."""
        until_s = self._now_s() + ORPHANS_WAIT_S
        while self._count_orphans():
            if self._now_s() > until_s:
                return False
            await asyncio.sleep(0.2)
        return True

    async def _strike_simulator(self, strike: Strike, provider: str) -> None:
        simulator = self._simulators[provider]
        if simulator.is_running and provider not in self._busy and not self.is_over:
            self._busy.add(provider)
            struck = self._begin(strike, "")
            await asyncio.to_thread(simulator.kill)
            await asyncio.sleep(strike.away_s)
            script = plan_script(self._seed, provider, simulator.lives + 1)
            await asyncio.to_thread(simulator.start, script)
            struck.ended_s = self._now_s()
            self._busy.discard(provider)

    # --- one process ---------------------------------------------------------------------------

    async def _freeze(self, strike: Strike, services: Sequence[Service]) -> None:
        if service := self._choose(services, strike):
            self._busy.add(service.name)
            struck = self._begin(strike, service.name)
            await asyncio.to_thread(service.freeze)
            await asyncio.sleep(strike.away_s)
            service.thaw()
            self._end(service, struck)

    async def _replace(
        self, service: Service, strike: Strike, end: Callable[[Service], Awaitable[None]]
    ) -> None:
        self._busy.add(service.name)
        struck = self._begin(strike, service.name)
        await end(service)
        await asyncio.sleep(strike.away_s)
        for n_tries in range(1, START_TRIES + 1):
            try:
                await asyncio.to_thread(service.start)
            except ServiceError as error:
                if service.is_running:
                    await asyncio.to_thread(service.kill)
                if n_tries == START_TRIES:
                    self.problems.append(f"{service.name} did not come back: {error}")
            else:
                break
        self._end(service, struck)

    async def _kill(self, service: Service) -> None:
        await asyncio.to_thread(service.kill)

    async def _drain(self, service: Service) -> None:
        code = await asyncio.to_thread(service.stop)
        if code:
            self.problems.append(f"{service.name} ended with {code} after SIGTERM")

    def _free(self, services: Sequence[Service]) -> list[Service]:
        return [s for s in services if s.is_running and s.name not in self._busy]

    def _choose(self, services: Sequence[Service], strike: Strike) -> Service | None:
        free = self._free(services)
        if self.is_over or not free:
            self.skipped += 1
            return None
        return free[int(strike.target * len(free))]

    def _begin(self, strike: Strike, what: str) -> Struck:
        self.struck.append(Struck(kind=strike.kind, what=what, began_s=self._now_s()))
        return self.struck[-1]

    def _end(self, service: Service, struck: Struck) -> None:
        struck.ended_s = self._now_s()
        self._busy.discard(service.name)
