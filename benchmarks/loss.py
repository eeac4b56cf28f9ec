"""What is lost, doubled, mistimed or late when something breaks, row by row.

    python -m benchmarks.loss [--rows reset,outage] [--list]

Real processes throughout: nats-server, ingest, transcribers, and the providers' simulators with
scripted faults. The audio is frame-numbered speech with pauses (2 s and 2.5 s), so the finals alone
tell what was lost, said twice, or said at a wrong time. Simulated Palabra hears real-time pace only
and ignores what comes faster. Prints a row as soon as it is measured, and the table at the end.
"""

import argparse
import asyncio
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from speechbus_contracts import SegmentFinal, SegmentPartial
from tests.support.conversation import build_conversation, check_conversation
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import FRAME_MS
from tests.support.nats_cluster import NatsCluster
from tests.support.nats_server import DEV_CONFIG
from tests.support.nats_strikes import (
    build_small_store,
    empty_store,
    fill_store,
    subscribe_and_sleep,
)
from tests.support.resuming_client import ResumingClient
from tests.support.simulator import simulator
from tests.support.system import System

__all__ = ["main"]

FRAMES_PER_S: Final = 1000 // FRAME_MS
ON_TIME_S: Final = 1.0
"""A final this much later than the quickest of its stream is late."""
PALABRA: Final = {"providers": ["palabra"]}
KOTOBA: Final = {"providers": ["kotoba"], "language": "ja"}
BOTH: Final = {"providers": ["palabra", "kotoba"], "language": "ja"}

CREDENTIALS: Final = {
    "PALABRA_API_KEY": "",
    "PALABRA_CLIENT_ID": "bench",
    "PALABRA_CLIENT_SECRET": "bench",
}
"""Each stream has a session of its own; a key would have one for all."""

Strike = Callable[[System], None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that breaks."""

    name: str
    seconds: int = 40
    """Of audio."""
    streams: int = 1
    scripts: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    """Of the simulators, by provider."""
    hello: Mapping[str, Any] = msgspec.field(default_factory=lambda: dict(PALABRA))
    transcribers: int = 1
    nodes: Literal[1, 3] = 1
    """Of NATS; with three, everything has three replicas."""
    has_small_store: bool = False
    """Whether NATS has 4 MB for files."""
    ingests: int = 1
    """With more than one, clients that lose the first resume at the others."""
    settings: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    """Of the transcribers."""
    changes: Mapping[int, str | None] = msgspec.field(default_factory=dict[int, str | None])
    """Languages, each from a frame on."""
    environment: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    """Variables of the services besides."""
    strikes: Sequence[tuple[float, Strike]] = ()
    """What happens to the system how many seconds after the streams began."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it, the worst stream's."""

    lost_s: float
    doubled_s: float
    time_error_ms: int
    gap_s: float
    latest_s: float
    """The latest final, behind the sound that it ends with."""
    caught_up_s: float
    """From the last partial or final on time before the first late one until the next on time, so
    that what broke is counted in; 0: none was late."""
    closed: int
    """Streams that were closed in order."""


def _segments(ms: int, *faults: str) -> str:
    return f"segment_ms = {ms}\nfaults = [{', '.join(faults)}]\n"


def _resets(count: int, *, ms: int, after_ms: int) -> str:
    return _segments(
        ms,
        *(
            f'{{kind = "reset", session = {number}, after_ms = {after_ms}}}'
            for number in range(1, count + 1)
        ),
    )


def _outage(seconds: float, *, after_ms: int = 6_500) -> str:
    """The first session breaks, and nobody is there for about so long."""
    return _segments(
        3_000,
        f'{{kind = "reset", session = 1, after_ms = {after_ms}}}',
        f'{{kind = "refuse", session = 2, status = 429, retry_after_s = {seconds}}}',
    )


def _kill(index: int) -> Strike:
    return lambda system: system.transcribers[index].kill()


def _kill_ingest(system: System) -> None:
    system.ingest.kill()


def _kill_ingest_and_worker(system: System) -> None:
    system.ingest.kill()
    system.transcribers[0].kill()


def _restart_nats(system: System) -> None:
    system.nats.kill()
    system.nats.start()


def _kill_leader(system: System) -> None:
    assert system.cluster is not None
    system.cluster.nodes[system.cluster.leader_of("TRANSCRIPT")].kill()


def _sleep_beside(system: System) -> None:
    _sleepers.append(subscribe_and_sleep(system.nats.url))


_sleepers: Final[list[socket.socket]] = []
"""Subscribers that do not read, kept open."""


def _drain_all(system: System) -> None:
    old = list(system.transcribers)
    for _ in old:
        system.add_service("transcriber")
    for service in old:
        service.request_stop()


ROWS: Final = (
    Row(name="nothing breaks", scripts={"palabra": _segments(3_000)}),
    Row(
        name="reset at a segment's border",
        scripts={"palabra": _resets(1, ms=3_000, after_ms=6_000)},
    ),
    Row(name="reset inside a segment", scripts={"palabra": _resets(1, ms=3_000, after_ms=7_400)}),
    Row(
        name="reset inside a segment, twice",
        scripts={"palabra": _resets(2, ms=3_000, after_ms=7_400)},
    ),
    Row(
        name="reset inside a segment, ten times in a row",
        seconds=80,
        scripts={"palabra": _resets(10, ms=3_000, after_ms=4_400)},
    ),
    Row(
        name="the same, Kotoba",
        seconds=80,
        scripts={"kotoba": _resets(10, ms=3_000, after_ms=4_400)},
        hello=KOTOBA,
    ),
    Row(
        name="reset inside a segment, a second provider in the route",
        scripts={"palabra": _resets(1, ms=3_000, after_ms=7_400), "kotoba": _segments(3_000)},
        hello=BOTH,
    ),
    Row(
        name="reset inside a 15 s segment",
        seconds=60,
        scripts={"palabra": _resets(1, ms=15_000, after_ms=14_000)},
    ),
    Row(
        name="reset inside a 60 s segment",
        seconds=200,
        scripts={"palabra": _resets(1, ms=60_000, after_ms=55_000)},
    ),
    Row(name="outage of 3 s", scripts={"palabra": _outage(3)}),
    Row(name="outage of 20 s", seconds=120, scripts={"palabra": _outage(20)}),
    Row(name="outage of 60 s", seconds=300, scripts={"palabra": _outage(59)}),
    Row(
        name="half-open connection",
        scripts={"palabra": _segments(3_000, '{kind = "half_open", session = 1, after_ms = 7400}')},
    ),
    Row(
        name="fail-over to the second provider",
        scripts={
            "palabra": _segments(
                3_000,
                '{kind = "reset", session = 1, after_ms = 7400}',
                *(
                    f'{{kind = "refuse", session = {number}, status = 503}}'
                    for number in range(2, 9)
                ),
            ),
            "kotoba": _segments(3_000),
        },
        hello=BOTH,
    ),
    Row(
        name="session limit of the provider, every 8 s",
        scripts={"palabra": _segments(3_000, '{kind = "close", after_ms = 8000, code = 1000}')},
    ),
    Row(
        name="planned roll-over before the provider's session limit, every 8 s",
        scripts={"palabra": _segments(3_000, '{kind = "close", after_ms = 8000, code = 1000}')},
        settings={"SESSION_LIMIT_S": "8"},
    ),
    Row(
        name="language change, every 10 s",
        scripts={"palabra": _segments(3_000)},
        changes={501: "ja", 1_001: "fr", 1_501: "ja"},
    ),
    Row(
        name="language change to another provider and back",
        scripts={"palabra": _segments(3_000), "kotoba": _segments(3_000)},
        hello={"providers": ["kotoba", "palabra"], "language": "ja"},
        changes={501: "fr", 1_001: "ja", 1_501: "fr"},
    ),
    Row(
        name="429 storm, 100 streams open at a provider with room for 50",
        streams=100,
        seconds=20,
        transcribers=2,
        scripts={"palabra": "sessions_max = 50\n" + _segments(3_000)},
    ),
    Row(
        name="the same, and the pool knows the limit",
        streams=100,
        seconds=20,
        transcribers=2,
        scripts={"palabra": "sessions_max = 50\n" + _segments(3_000)},
        environment={"PALABRA_SESSIONS_MAX": "50"},
    ),
    Row(
        name="worker SIGKILL, 50 streams",
        streams=50,
        transcribers=2,
        scripts={"palabra": _segments(3_000)},
        strikes=((12.0, _kill(0)),),
    ),
    Row(
        name="worker freeze of 4 s and thaw, 50 streams",
        streams=50,
        transcribers=2,
        scripts={"palabra": _segments(3_000)},
        strikes=(
            (12.0, lambda system: system.transcribers[0].freeze()),
            (16.0, lambda system: system.transcribers[0].thaw()),
        ),
    ),
    Row(
        name="rolling drain of all workers, 50 streams",
        streams=50,
        transcribers=2,
        scripts={"palabra": _segments(3_000)},
        strikes=((12.0, _drain_all),),
    ),
    Row(
        name="ingest SIGKILL, clients resume at another, 20 streams",
        streams=20,
        ingests=2,
        scripts={"palabra": _segments(3_000)},
        strikes=((12.0, _kill_ingest),),
    ),
    Row(
        name="ingest and worker SIGKILL in the same second, 20 streams",
        streams=20,
        ingests=2,
        transcribers=2,
        scripts={"palabra": _segments(3_000)},
        strikes=((12.0, _kill_ingest_and_worker),),
    ),
    Row(
        name="NATS restart, 20 streams",
        streams=20,
        transcribers=2,
        scripts={"palabra": _segments(3_000)},
        strikes=((12.0, _restart_nats),),
    ),
    Row(
        name="leader kill of three NATS nodes, 20 streams",
        streams=20,
        transcribers=2,
        nodes=3,
        scripts={"palabra": _segments(3_000)},
        strikes=((12.0, _kill_leader),),
    ),
    Row(
        name="slow subscriber, 20 streams",
        streams=20,
        scripts={"palabra": _segments(3_000)},
        strikes=((12.0, _sleep_beside),),
    ),
    Row(
        name="disk of NATS full for 10 s, 20 streams",
        streams=20,
        has_small_store=True,
        scripts={"palabra": _segments(3_000)},
        strikes=(
            (12.0, lambda system: asyncio.run(fill_store(system.nats.url))),
            (22.0, lambda system: asyncio.run(empty_store(system.nats.url))),
        ),
    ),
)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", help="only rows whose names hold one of these words")
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    arguments = parser.parse_args()
    words = [word for word in arguments.rows.split(",") if word]
    rows = [row for row in ROWS if not words or any(word in row.name for word in words)]
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return
    print("| what breaks | lost | doubled | time error | gap | latest final | caught up after |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        started_s = time.perf_counter()
        print(f"{row.name} …", file=sys.stderr)
        print(_format(row, _measure(row)), flush=True)
        print(f"  took {time.perf_counter() - started_s:.0f} s", file=sys.stderr)


def _format(row: Row, figures: Figures) -> str:
    unclosed = row.streams - figures.closed
    return (
        f"| {row.name} | {figures.lost_s:.2f} s | {figures.doubled_s:.2f} s "
        f"| {figures.time_error_ms} ms | {figures.gap_s:.2f} s | {figures.latest_s:.1f} s "
        f"| {figures.caught_up_s:.1f} s |" + (f" {unclosed} not closed" if unclosed else "")
    )


def _measure(row: Row) -> Figures:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        variables: dict[str, str] = {}
        for provider, script in row.scripts.items():
            variables |= stack.enter_context(simulator(folder, script, provider=provider))
        if "palabra" in row.scripts:
            variables |= CREDENTIALS
        system = stack.enter_context(
            System(
                folder / "system",
                nats_config=build_small_store(folder) if row.has_small_store else DEV_CONFIG,
                cluster=NatsCluster(folder / "system" / "nats") if row.nodes > 1 else None,
                bootstrap_settings={
                    "REPLICAS": str(row.nodes),
                    "AUDIO_REPLICAS": str(row.nodes),
                },
                transcribers=row.transcribers,
                ingests=row.ingests,
                transcriber_settings={
                    "PROVIDERS": ",".join(row.scripts),
                    "SESSIONS_MAX": "200",
                    **row.settings,
                },
                ingest_settings={"STREAMS_PER_KEY_MAX": "1000"},
                environment={**variables, **row.environment},
            )
        )
        streams, began_s = asyncio.run(_stream_all(system, row))
    n_frames = row.seconds * FRAMES_PER_S
    return Figures(
        lost_s=max(_check(stream, n_frames)[0] for stream in streams),
        doubled_s=max(_check(stream, n_frames)[1] for stream in streams),
        time_error_ms=max(_check(stream, n_frames)[2] for stream in streams),
        gap_s=max(sum(gap.to_ms - gap.from_ms for gap in stream.gaps) for stream in streams) / 1000,
        latest_s=max(max(_delays_s(stream, began_s), default=0.0) for stream in streams),
        caught_up_s=max(_caught_up_s(stream, began_s) for stream in streams),
        closed=sum(stream.closed is not None for stream in streams),
    )


def _check(stream: Received, n_frames: int) -> tuple[float, float, int]:
    tiling = check_conversation(stream.finals, n_frames)
    return (
        tiling.missing * FRAME_MS / 1000,
        tiling.doubled * FRAME_MS / 1000,
        tiling.time_error_ms_max,
    )


async def _stream_all(system: System, row: Row) -> tuple[list[Received], float]:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    hello = {**row.hello, "skip_silence": True}
    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(_stream(system, row, hello)) for _ in range(row.streams)]
        for after_s, strike in row.strikes:
            await asyncio.sleep(began_s + after_s - loop.time())
            await asyncio.to_thread(strike, system)
    return [stream.result() for stream in streams], began_s


async def _stream(system: System, row: Row, hello: Mapping[str, Any]) -> Received:
    n_frames = row.seconds * FRAMES_PER_S
    if len(system.ingests) == 1:
        return await stream_frames(
            system.ingest.url,
            system.key,
            n_frames=n_frames,
            hello=hello,
            build=build_conversation,
            changes=row.changes,
        )
    urls = [ingest.url for ingest in system.ingests]
    client = ResumingClient(
        urls, system.key, n_frames=n_frames, hello=hello, build=build_conversation
    )
    return await client.run()


def _delays_s(stream: Received, began_s: float) -> list[float]:
    """How long after its last sound was sent each final arrived; opening the stream included."""
    return [
        arrived_s - began_s - event.end_ms / 1000
        for arrived_s, event in zip(stream.arrived_at_s, stream.events, strict=True)
        if event in stream.finals
    ]


def _caught_up_s(stream: Received, began_s: float) -> float:
    shown = [
        (arrived_s - began_s, arrived_s - began_s - event.end_ms / 1000)
        for arrived_s, event in zip(stream.arrived_at_s, stream.events, strict=True)
        if isinstance(event, SegmentPartial | SegmentFinal)
    ]
    quickest_s = min(delay_s for _, delay_s in shown)
    late = [n for n, (_, delay_s) in enumerate(shown) if delay_s > quickest_s + ON_TIME_S]
    if not late:
        return 0.0
    from_s = shown[late[0] - 1][0] if late[0] else 0.0
    on_time = min(late[-1] + 1, len(shown) - 1)
    return shown[on_time][0] - from_s


if __name__ == "__main__":
    main()
