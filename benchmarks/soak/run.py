"""A soak as it runs: clients come and go, processes are struck, ended streams are verified."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from benchmarks.simulators import Simulator
from benchmarks.soak.clients import Told, play
from benchmarks.soak.memory import Memory
from benchmarks.soak.plan import Strike, plan_stream
from benchmarks.soak.store import Passing, read_events, read_stream_ids
from benchmarks.soak.system import Striker, Struck
from benchmarks.soak.verify import Known, Verdict, verify_stream
from speechbus_contracts import AnyEvent, StreamClosed
from speechbus_runtime.bus import BusConnection, connect_bus
from tests.support.frame_numbers import FRAME_MS
from tests.support.system import System

__all__ = ["Finding", "Result", "Soak"]

RATE_HZ: Final = 16_000
TICK_S: Final = 1.0
TELL_EVERY_S: Final = 10.0
LOOK_EVERY_S: Final = 5.0
EARLY_S: Final = 120.0
"""When memory is looked at first; earlier in a soak that is shorter than twice that."""
CLOSED_WITHIN_S: Final = 240.0
"""After its client has gone: at a provider that hears real time only, what piled up takes as long
as it is."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A stream with which something is wrong."""

    stream_id: str
    plan: str
    problems: Sequence[str]
    events: Sequence[AnyEvent]
    began_s: float
    ended_s: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a soak."""

    seconds: float
    n_streams: int
    """Asked for at a time."""
    told: Sequence[Told]
    verdicts: Sequence[Verdict]
    findings: Sequence[Finding]
    closed_for: Counter[str]
    struck: Sequence[Struck]
    skipped: int
    sessions_lived: Counter[str]
    problems: Sequence[str]
    """Of services."""
    memory: Memory


class Soak:
    """One run.

    Args:
        system: runs.
        simulators: run.
        seed: what streams and scripts are drawn from.
        n_streams: live at a time, about.
        seconds: until no more streams are opened.
        strikes: in the order of their times.
        audio_replicas: of the stores of audio.
    """

    def __init__(
        self,
        system: System,
        simulators: Sequence[Simulator],
        *,
        seed: int,
        n_streams: int,
        seconds: float,
        strikes: Sequence[Strike],
        audio_replicas: int = 1,
    ) -> None:
        self._system = system
        self._simulators = simulators
        self._seed = seed
        self._n_streams = n_streams
        self._seconds = seconds
        self._strikes = strikes
        self._audio_replicas = audio_replicas
        self._stop = asyncio.Event()
        self._told: list[Told] = []
        self._times_s: dict[int, tuple[float, float]] = {}
        self._n_live = 0
        self._unclosed: dict[int, Told] = {}
        self._orphans: dict[int, int] = {}
        """Port of the ingest that died under it, of each stream that was not closed then."""
        self._findings: dict[str, Finding] = {}
        self._memory = Memory()
        self._has_early = False
        self._began_s = 0.0

    async def run(self) -> Result:
        """Soak, wait for the last streams to be closed, and verify all of them."""
        loop = asyncio.get_running_loop()
        self._began_s = loop.time()
        bus = await connect_bus(self._system.nats_url, name="soak")
        watching_bus = await connect_bus(self._system.nats_url, name="soak-watch")
        passing = Passing(watching_bus)
        await watching_bus.flush()
        striker = Striker(
            self._system,
            self._simulators,
            seed=self._seed,
            audio_replicas=self._audio_replicas,
            now_s=self._now_s,
            note_death=self._note_death,
            count_orphans=self._count_orphans,
        )
        async with asyncio.TaskGroup() as watchers:
            watching = watchers.create_task(self._watch(striker))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._strike(striker))
                for slot in range(self._n_streams):
                    tasks.create_task(self._fill(slot, tasks, bus, passing, striker))
                await asyncio.sleep(self._seconds)
                striker.is_over = True
                self._stop.set()
            watching.cancel()
        print(f"{self._now_s():.0f} s: all clients are gone, reading the transcript", flush=True)
        verdicts, closed_for = await self._verify_all(bus, passing)
        await bus.shut_down()
        await watching_bus.shut_down()
        return Result(
            seconds=self._now_s(),
            n_streams=self._n_streams,
            told=self._told,
            verdicts=verdicts,
            findings=list(self._findings.values()),
            closed_for=closed_for,
            struck=striker.struck,
            skipped=striker.skipped,
            sessions_lived=Counter({s.provider: s.lives for s in self._simulators}),
            problems=striker.problems,
            memory=self._memory,
        )

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s

    # --- clients -------------------------------------------------------------------------------

    async def _fill(
        self,
        slot: int,
        tasks: asyncio.TaskGroup,
        bus: BusConnection,
        passing: Passing,
        striker: Striker,
    ) -> None:
        """Play one stream after the other, and have each verified when it is over."""
        number = slot
        while not self._stop.is_set():
            plan = plan_stream(self._seed, number, ingests=len(self._system.ingests))
            number += self._n_streams
            await asyncio.sleep(plan.pause_s)
            told = Told(plan=plan)
            self._told.append(told)
            self._unclosed[plan.number] = told
            began_s = self._now_s()
            self._n_live += 1
            await play(plan, told, lambda: striker.listening, self._system.key, self._stop)
            self._n_live -= 1
            self._times_s[plan.number] = (began_s, self._now_s())
            tasks.create_task(self._verify_told(told, bus, passing))

    def _note_death(self, port: int) -> None:
        self._orphans |= {n: port for n, told in self._unclosed.items() if told.port == port}

    def _count_orphans(self) -> int:
        """Streams of dead ingests that are neither closed nor resumed at another."""
        return sum(
            n in self._unclosed and self._unclosed[n].port == port
            for n, port in self._orphans.items()
        )

    # --- strikes and watching ------------------------------------------------------------------

    async def _strike(self, striker: Striker) -> None:
        async with asyncio.TaskGroup() as tasks:
            for strike in self._strikes:
                await asyncio.sleep(strike.at_s - self._now_s())
                tasks.create_task(striker.strike(strike))

    async def _watch(self, striker: Striker) -> None:
        told_at_s = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            striker.look_after()
            now_s = self._now_s()
            if now_s - told_at_s < TELL_EVERY_S:
                continue
            told_at_s = now_s
            is_early = not self._has_early and now_s > min(EARLY_S, self._seconds / 2)
            self._has_early |= is_early
            await asyncio.to_thread(self._memory.sample, self._pids(), is_early=is_early)
            problems = len(self._findings) + len(striker.problems)
            print(
                f"{now_s:.0f} s: {self._n_live} live, {len(self._told) - self._n_live} over, "
                f"{len(striker.struck)} strikes, {problems} problems",
                flush=True,
            )

    def _pids(self) -> dict[str, int]:
        services = {s.name: s.pid for s in self._system.services if s.is_running}
        simulators = {f"simulator of {s.provider}": s.pid for s in self._simulators if s.is_running}
        return services | simulators

    # --- verification --------------------------------------------------------------------------

    async def _verify_told(self, told: Told, bus: BusConnection, passing: Passing) -> None:
        """Verify a stream when it is closed, so that what is wrong is known early."""
        stream_id = told.stream_id
        if stream_id:
            await self._wait_until_closed(stream_id, bus, passing)
        del self._unclosed[told.plan.number]
        if not stream_id:
            return
        await self._verify(stream_id, told, bus, passing)

    async def _wait_until_closed(
        self, stream_id: str, bus: BusConnection, passing: Passing
    ) -> None:
        """Wait for the end of a stream, for a limited time."""
        until_s = self._now_s() + CLOSED_WITHIN_S
        look_at_s = 0.0
        while self._now_s() < until_s:
            # What passed while NATS was away is seen in the store only.
            if stream_id not in passing.open or self._now_s() > look_at_s:
                look_at_s = self._now_s() + LOOK_EVERY_S
                events = await read_events(bus, self._system.tenant, stream_id)
                if any(isinstance(event, StreamClosed) for event in events):
                    passing.open.discard(stream_id)
                    return
            await asyncio.sleep(TICK_S)

    async def _verify_all(
        self, bus: BusConnection, passing: Passing
    ) -> tuple[list[Verdict], Counter[str]]:
        """Verify everything that was ever opened, as it is stored now."""
        by_id = {told.stream_id: told for told in self._told if told.stream_id}
        stored = await read_stream_ids(bus, self._system.tenant)
        for stream_id in set(by_id) - set(stored):
            self._report(stream_id, by_id[stream_id], ["nothing is stored of it"], [])
        verdicts: list[Verdict] = []
        closed_for = Counter[str]()
        for stream_id in stored:
            told = by_id.get(stream_id)
            if told is None:  # else it was waited for when its client had gone
                await self._wait_until_closed(stream_id, bus, passing)
            verdict, events = await self._verify(stream_id, told, bus, passing)
            verdicts.append(verdict)
            closed_for.update(event.reason for event in events if isinstance(event, StreamClosed))
        return verdicts, closed_for

    async def _verify(
        self, stream_id: str, told: Told | None, bus: BusConnection, passing: Passing
    ) -> tuple[Verdict, list[AnyEvent]]:
        events = await read_events(bus, self._system.tenant, stream_id)
        published_ms = passing.published_samples.get(stream_id, 0) * 1000 // RATE_HZ
        if told is None:
            known = Known(has_pauses=True, sent_ms=10**9, accepted_ms=published_ms)
        else:
            has_told = told.plan.door == "native" and told.has_ended
            known = Known(
                has_pauses=told.plan.has_pauses,
                sent_ms=told.sent_frames * FRAME_MS,
                accepted_ms=max(told.heard_ms, published_ms),
                finals=told.finals if has_told else None,
                ended=told.has_ended,
            )
        verdict = verify_stream(events, known)
        if verdict.problems:
            self._report(stream_id, told, verdict.problems, events)
        return verdict, events

    def _report(
        self,
        stream_id: str,
        told: Told | None,
        problems: Sequence[str],
        events: Sequence[AnyEvent],
    ) -> None:
        is_new = stream_id not in self._findings
        plan = "unknown to every client" if told is None else told.plan.describe()
        if told is not None:
            plan += f"; sent {told.sent_frames} frames, {told.lost or 'stayed to the end'}"
        began_s, ended_s = (0.0, 0.0) if told is None else self._times_s[told.plan.number]
        self._findings[stream_id] = Finding(
            stream_id=stream_id,
            plan=plan,
            problems=problems,
            events=events,
            began_s=began_s,
            ended_s=ended_s,
        )
        if is_new:
            print(f"{self._now_s():.0f} s: {stream_id}: {'; '.join(problems)} ({plan})", flush=True)
