"""Sessions at providers are shared by all workers of the pool."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from speechbus_contracts import PROVIDER_STORE, StreamWaiting, build_provider_store
from speechbus_contracts.subjects import GOVERN_ROOT
from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.jetstream import StreamSpec, ensure, fetch_last
from speechbus_runtime.publisher import AckedPublisher
from speechbus_transcriber.connections import ProviderConnections
from speechbus_transcriber.governor.breaker import BreakerRecord
from speechbus_transcriber.governor.governor import Governor
from speechbus_transcriber.governor.ledger import Ledger
from speechbus_transcriber.governor.seats import Lease
from speechbus_transcriber.governor.shared_state import SharedState
from speechbus_transcriber.providers.echo import CAPABILITIES, EchoProtocol
from speechbus_transcriber.providers.registry import Account, Provider
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import build_frames, check_tiling
from tests.support.native_client import connect_native
from tests.support.nats_server import NatsServer
from tests.support.provider_streams import EXACT, assert_exact
from tests.support.simulator import simulator
from tests.support.system import System

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

LIMIT = 5
N_STREAMS = 12
N_FRAMES = 100
FULL = f"""
keys = ["good"]
segment_ms = 1000
sessions_max = {LIMIT}
"""
DEAD_FOR_A_WHILE = """
segment_ms = 1000
faults = [{kind = "refuse", session = 1, status = 503, for_s = 2}]
"""
KOTOBA = {"providers": ["kotoba"], "language": "ja"}
KOTOBA_FIRST = {"providers": ["kotoba", "echo"], "language": "ja"}


async def read_stored(bus: BusConnection, kind: str) -> list[bytes]:
    """The pool's last words of one kind."""
    stored = await fetch_last(bus, PROVIDER_STORE, [f"{GOVERN_ROOT}.{kind}.*"])
    return [one.payload for one in stored]


def read_log(folder: Path, event: str) -> list[dict[str, Any]]:
    """What all transcribers have logged under this name."""
    paths = sorted(folder.glob("transcriber-*.log"))
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def test_a_limit_holds_for_the_whole_pool_and_slots_of_a_killed_worker_come_back(
    tmp_path: Path,
) -> None:
    """Three workers, a credential with five sessions, twelve streams: the provider refuses none.

    A second key is refused by the provider, and costs a warning.
    """
    with ExitStack() as stack:
        variables = stack.enter_context(simulator(tmp_path, FULL, provider="kotoba"))
        system = stack.enter_context(
            System(
                tmp_path / "system",
                transcribers=3,
                transcriber_settings={"PROVIDERS": "kotoba", "WITHOUT_SLOT": "wait"},
                environment={
                    **variables,
                    "KOTOBA_API_KEY": "bad,good",
                    "KOTOBA_SESSIONS_MAX": str(LIMIT),
                },
            )
        )
        streams = asyncio.run(_fill_and_kill(system))

    for received in streams:
        assert_exact(received, N_FRAMES)
    failures = read_log(tmp_path / "system", "provider session failed")
    assert {failure["code"] for failure in failures} <= {"http_401"}
    assert read_log(
        tmp_path / "system", "a credential was refused; others of its provider are used"
    )
    assert [
        waits
        for received in streams
        if (waits := [e for e in received.events if isinstance(e, StreamWaiting)])
        and not waits[-1].is_over
    ] == []
    assert any(isinstance(e, StreamWaiting) for r in streams for e in r.events)


async def _fill_and_kill(system: System) -> Sequence[Received]:
    bus = await connect_bus(system.nats.url, name="test")
    log = BusLog(bus)
    held: dict[str, int] = {}

    async def look() -> None:
        while True:
            ledgers = [msgspec.json.decode(b, type=Ledger) for b in await read_stored(bus, "slots")]
            for ledger in ledgers:
                assert ledger.n_held <= LIMIT
            held.clear()
            held.update({name: n for ledger in ledgers for name, n in ledger.held.items()})
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(look())
        clients = [
            tasks.create_task(
                stream_frames(system.ingest.url, system.key, n_frames=N_FRAMES, hello=KOTOBA)
            )
            for _ in range(N_STREAMS)
        ]
        await wait_until(lambda: log.n_with_final > 0 and sum(held.values()) == LIMIT)
        killed = max(held, key=lambda name: held[name])
        (worker,) = [w for w in system.transcribers if killed.startswith(f"{w.pid}-")]
        await asyncio.to_thread(worker.kill)
        await wait_until(lambda: killed not in held)
        await asyncio.wait(clients)
        await wait_until(lambda: not held)  # each gives back what it had
        looking.cancel()
    await bus.shut_down()
    return [client.result() for client in clients]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of this test's own."""
    with NatsServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def govern(bus: BusConnection, worker_id: str) -> AsyncGenerator[Governor]:
    """A governor of a pool whose one provider has two slots."""
    account = Account(id="one", sessions_max=2, open_protocol=EchoProtocol)
    providers = {"echo": Provider(capabilities=CAPABILITIES, accounts=(account,))}
    async with ProviderConnections({}) as connections, asyncio.TaskGroup() as tasks:
        governor = Governor(
            bus,
            AckedPublisher(bus),
            connections,
            providers,
            worker_id=worker_id,
            without_slot="wait",
            now_ms=lambda: 0,
        )
        running = tasks.create_task(governor.run())
        yield governor
        running.cancel()


async def take(governor: Governor) -> Lease:
    """Wait for a lease."""
    ticket = governor.ask(["echo"], wake=lambda: None)
    await wait_until(lambda: ticket.lease is not None)
    assert ticket.lease is not None
    return ticket.lease


def test_slots_that_were_taken_away_end_their_sessions_and_slots_of_a_former_life_are_given_back(
    server: NatsServer,
) -> None:
    """A worker that was frozen for long learns it from the ledger; a new one of its name, too."""

    async def main() -> None:
        bus = await connect_bus(server.url, name="test")
        state = SharedState(bus, AckedPublisher(bus))
        name, config = build_provider_store()
        await ensure(bus, [StreamSpec(name=name, config=config)])
        await state.replace("slots", "one", Ledger(held={"me": 2}), last_sequence=0)
        lost: list[str] = []
        async with govern(bus, "me") as governor:
            first, second = await take(governor), await take(governor)
            first.on_lost = lambda: lost.append("first")
            second.on_lost = lambda: lost.append("second")
            third = governor.ask(["echo"], wake=lambda: None)
            ledger, sequence = await state.read_ledger("one")
            while "me" not in ledger.waiting:
                ledger, sequence = await state.read_ledger("one")
            assert third.lease is None

            await state.replace(
                "slots", "one", Ledger(held={"me": 1, "other": 1}), last_sequence=sequence
            )
            await wait_until(lambda: lost == ["second"])
            governor.release(second)
            governor.withdraw(third)
            governor.release(first)
            await governor.stop()
        ledger, _ = await state.read_ledger("one")
        assert ledger == Ledger(held={"other": 1})
        await bus.shut_down()

    asyncio.run(main())


def test_while_nats_is_away_sessions_go_on_and_new_ones_wait(server: NatsServer) -> None:
    """Nobody can know what others have: the limit holds."""

    async def main() -> None:
        bus = await connect_bus(server.url, name="test")
        name, config = build_provider_store()
        await ensure(bus, [StreamSpec(name=name, config=config)])
        lost: list[str] = []
        async with govern(bus, "me") as governor:
            first = await take(governor)
            first.on_lost = lambda: lost.append("first")
            await asyncio.to_thread(server.kill)
            await wait_until(lambda: not bus.is_connected)
            second = governor.ask(["echo"], wake=lambda: None)
            assert second.lease is None
            await asyncio.to_thread(server.start)
            await wait_until(lambda: second.lease is not None)
            assert lost == []
        await bus.shut_down()

    asyncio.run(main())


def test_a_dead_provider_is_skipped_by_all_tried_by_a_handshake_and_used_again(
    tmp_path: Path,
) -> None:
    """One worker finds out, the others need not; a running stream stays where it is."""
    with ExitStack() as stack:
        variables = stack.enter_context(simulator(tmp_path, DEAD_FOR_A_WHILE, provider="kotoba"))
        system = stack.enter_context(
            System(
                tmp_path / "system",
                transcribers=3,
                transcriber_settings={"PROVIDERS": "kotoba,echo", "SESSIONS_MAX": "1"},
                environment=variables,
            )
        )
        skipped, recovered = asyncio.run(_die_and_recover(system))

    assert_exact(skipped, 50)
    assert_exact(recovered, 50)
    assert {final.provider for final in skipped.finals} == {"echo"}
    assert {final.provider for final in recovered.finals} == {"kotoba"}
    failures = read_log(tmp_path / "system", "provider session failed")
    assert [failure["code"] for failure in failures] == ["http_503"] * 3
    assert len({failure["stream_id"] for failure in failures}) == 1


async def _die_and_recover(system: System) -> tuple[Received, Received]:
    bus = await connect_bus(system.nats.url, name="test")
    dead: list[bool] = []

    async def look() -> None:
        while True:
            for record in await read_stored(bus, "breaker"):
                dead[:] = [msgspec.json.decode(record, type=BreakerRecord).is_open]
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(look())
        first = await stack.enter_async_context(connect_native(system.ingest, system.key))
        await first.open(**KOTOBA_FIRST)
        await first.send(build_frames(1, 200))
        await wait_until(lambda: dead == [True])
        skipped = await stream_frames(
            system.ingest.url, system.key, n_frames=50, hello=KOTOBA_FIRST
        )
        await first.hear_until("segment.final")
        await wait_until(lambda: dead == [False])
        recovered = await stream_frames(
            system.ingest.url, system.key, n_frames=50, hello=KOTOBA_FIRST
        )
        await first.send(build_frames(201, 100))
        await first.end()
        looking.cancel()
    await bus.shut_down()
    assert check_tiling(first.finals, 300) == EXACT
    assert {final.provider for final in first.finals} == {"echo"}
    return skipped, recovered
