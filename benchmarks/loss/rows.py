"""The rows of the table: what breaks, and in which system."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final, Literal

import msgspec

from benchmarks.simulators import Simulator
from speechbus_simulator.script import Provider
from tests.support.frame_numbers import FRAME_MS
from tests.support.nats_strikes import empty_store, fill_store, subscribe_and_sleep
from tests.support.system import System

__all__ = ["FRAMES_PER_S", "ROWS", "Row", "Stage"]

FRAMES_PER_S: Final = 1000 // FRAME_MS
ProviderNames = tuple[Provider, ...]
PALABRA: Final[ProviderNames] = ("palabra",)
KOTOBA: Final[ProviderNames] = ("kotoba",)
BOTH: Final[ProviderNames] = ("palabra", "kotoba")


class Stage:
    """A row's system, as strikes see it.

    Args:
        system: runs.
        simulators: run, by provider.
    """

    def __init__(self, system: System, simulators: Mapping[str, Simulator]) -> None:
        self.system = system
        self.simulators = simulators
        self.sleepers: list[socket.socket] = []
        """Subscribers that do not read."""

    def clear(self) -> None:
        """Let go of what strikes have left."""
        for sleeper in self.sleepers:
            sleeper.close()


Strike = Callable[[Stage], None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that breaks."""

    name: str
    seconds: int = 40
    """Of audio."""
    streams: int = 1
    scripts: Mapping[Provider, str] = msgspec.field(default_factory=dict[Provider, str])
    """Of the simulators, by provider."""
    route: ProviderNames = PALABRA
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
    breaks: int = 0
    """Sessions that have to fail, or the row says nothing: a fault may meet one that is gone."""
    strikes: Sequence[tuple[float, Strike]] = ()
    """What happens to the system how many seconds after the streams began."""


def _segments(ms: int, *faults: str) -> str:
    return f"segment_ms = {ms}\nfaults = [{', '.join(faults)}]\n"


PLAIN: Final = _segments(3_000)


def _resets(count: int, *, ms: int, after_ms: int) -> str:
    """Each of the first sessions breaks, so long after its beginning."""
    return _segments(
        ms,
        *(
            f'{{kind = "reset", session = {number}, after_ms = {after_ms}}}'
            for number in range(1, count + 1)
        ),
    )


# --- resets ---

_TIMES: Final = {1: "", 2: ", twice", 10: ", ten times in a row"}
_ROUTES: Final[Mapping[str, ProviderNames]] = {
    "": PALABRA,
    ", Kotoba": KOTOBA,
    ", a second provider in the route": BOTH,
}
"""Of numbered speech Palabra hears real-time pace only, and Kotoba what comes as it comes."""


def _list_resets() -> Iterator[Row]:
    """Yield resets of sessions, at and between the borders of 3 s segments.

    Of a route with two providers, sessions at both break: three breaks lead to the other one.
    """
    for (suffix, route), place, count in product(_ROUTES.items(), ("border", "inside"), _TIMES):
        at_border = place == "border"
        after_ms = 3_000 + 3_000 * (count < 10) if at_border else 4_400 + 3_000 * (count < 10)
        where = "at a segment's border" if at_border else "inside a segment"
        yield Row(
            name=f"reset {where}{_TIMES[count]}{suffix}",
            seconds={1: 30, 2: 40, 10: 110}[count],
            breaks=count,
            scripts={
                # One to spare, should a session go before its fault is due.
                name: _resets(count + (count == 10), ms=3_000, after_ms=after_ms)
                for name in route
            },
            route=route,
        )


def _list_resets_of_long_segments() -> Iterator[Row]:
    for route, suffix in ((PALABRA, ""), (KOTOBA, ", Kotoba")):
        for ms, after_ms, seconds in ((15_000, 14_000, 60), (60_000, 55_000, 180)):
            yield Row(
                name=f"reset inside a {ms // 1000} s segment{suffix}",
                seconds=seconds,
                scripts={route[0]: _resets(1, ms=ms, after_ms=after_ms)},
                breaks=1,
                route=route,
            )


# --- outages ---

_OUTAGES: Final = ((3, 40), (20, 120), (60, 300))
"""Their seconds, and those of audio: as long as it takes to catch up."""
_OUTAGE_BEGINS_S: Final = 6.5


def _list_outages() -> Iterator[Row]:
    """Yield outages: announced by the provider, and servers that die and come back."""
    for span_s, seconds in _OUTAGES:
        yield Row(
            name=f"outage of {span_s} s",
            seconds=seconds,
            breaks=2,
            scripts={
                "palabra": _segments(
                    3_000,
                    '{kind = "reset", session = 1, after_ms = 6500}',
                    # A try takes a moment, too.
                    '{kind = "refuse", session = 2, status = 429, retry_after_s = '
                    f"{min(span_s, 59)}}}",
                )
            },
        )
        for suffix, route, heard_s in (
            ("", PALABRA, seconds),
            (", a second provider in the route", BOTH, 20 + span_s),
        ):
            yield Row(
                name=f"outage of {span_s} s, its server killed{suffix}",
                seconds=heard_s,
                scripts=dict.fromkeys(route, PLAIN),
                breaks=1,
                route=route,
                strikes=(
                    (_OUTAGE_BEGINS_S, _kill_palabra),
                    (_OUTAGE_BEGINS_S + span_s, _restart_palabra),
                ),
            )


def _kill_palabra(stage: Stage) -> None:
    stage.simulators["palabra"].kill()


def _restart_palabra(stage: Stage) -> None:
    stage.simulators["palabra"].start(PLAIN)


# --- processes ---


def _kill_worker(stage: Stage) -> None:
    stage.system.transcribers[0].kill()


def _freeze_worker(stage: Stage) -> None:
    stage.system.transcribers[0].freeze()


def _thaw_worker(stage: Stage) -> None:
    stage.system.transcribers[0].thaw()


def _drain_all(stage: Stage) -> None:
    old = list(stage.system.transcribers)
    for _ in old:
        stage.system.add_service("transcriber")
    for service in old:
        service.request_stop()


def _kill_ingest(stage: Stage) -> None:
    stage.system.ingest.kill()


def _kill_ingest_and_worker(stage: Stage) -> None:
    stage.system.ingest.kill()
    stage.system.transcribers[0].kill()


def _restart_nats(stage: Stage) -> None:
    stage.system.nats.kill()
    stage.system.nats.start()


def _kill_leader(stage: Stage) -> None:
    cluster = stage.system.cluster
    assert cluster is not None
    cluster.nodes[cluster.leader_of("TRANSCRIPT")].kill()


def _sleep_beside(stage: Stage) -> None:
    stage.sleepers.append(subscribe_and_sleep(stage.system.nats.url))


def _fill_disk(stage: Stage) -> None:
    asyncio.run(fill_store(stage.system.nats.url))


def _empty_disk(stage: Stage) -> None:
    asyncio.run(empty_store(stage.system.nats.url))


ROWS: Final = (
    Row(name="nothing breaks", seconds=30, scripts={"palabra": PLAIN}),
    *_list_resets(),
    *_list_resets_of_long_segments(),
    *_list_outages(),
    Row(
        name="half-open connection",
        breaks=1,
        scripts={"palabra": _segments(3_000, '{kind = "half_open", session = 1, after_ms = 7400}')},
    ),
    Row(
        name="fail-over to the second provider",
        breaks=3,
        scripts={
            "palabra": _segments(
                3_000,
                '{kind = "reset", session = 1, after_ms = 7400}',
                *(
                    f'{{kind = "refuse", session = {number}, status = 503}}'
                    for number in range(2, 9)
                ),
            ),
            "kotoba": PLAIN,
        },
        route=BOTH,
    ),
    Row(
        name="session limit of the provider, every 8 s",
        breaks=3,
        scripts={"palabra": _segments(3_000, '{kind = "close", after_ms = 8000, code = 1000}')},
    ),
    Row(
        name="planned roll-over before the provider's session limit, every 8 s",
        scripts={"palabra": _segments(3_000, '{kind = "close", after_ms = 8000, code = 1000}')},
        settings={"SESSION_LIMIT_S": "8"},
    ),
    Row(
        name="language change, every 10 s",
        scripts={"palabra": PLAIN},
        changes={501: "ja", 1_001: "fr", 1_501: "ja"},
    ),
    Row(
        name="language change to another provider and back",
        scripts={"palabra": PLAIN, "kotoba": PLAIN},
        route=("kotoba", "palabra"),
        changes={501: "fr", 1_001: "ja", 1_501: "fr"},
    ),
    Row(
        name="429 storm, 100 streams open at a provider with room for 50",
        streams=100,
        seconds=20,
        transcribers=2,
        scripts={"palabra": "sessions_max = 50\n" + PLAIN},
    ),
    Row(
        name="the same, and the pool knows the limit",
        streams=100,
        seconds=20,
        transcribers=2,
        scripts={"palabra": "sessions_max = 50\n" + PLAIN},
        environment={"PALABRA_SESSIONS_MAX": "50"},
    ),
    Row(
        name="worker SIGKILL, 50 streams",
        streams=50,
        transcribers=2,
        scripts={"palabra": PLAIN},
        strikes=((12.0, _kill_worker),),
    ),
    Row(
        name="worker freeze of 4 s and thaw, 50 streams",
        streams=50,
        transcribers=2,
        scripts={"palabra": PLAIN},
        strikes=(
            (12.0, _freeze_worker),
            (16.0, _thaw_worker),
        ),
    ),
    Row(
        name="rolling drain of all workers, 50 streams",
        streams=50,
        transcribers=2,
        scripts={"palabra": PLAIN},
        strikes=((12.0, _drain_all),),
    ),
    Row(
        name="ingest SIGKILL, clients resume at another, 20 streams",
        streams=20,
        ingests=2,
        scripts={"palabra": PLAIN},
        strikes=((12.0, _kill_ingest),),
    ),
    Row(
        name="ingest and worker SIGKILL in the same second, 20 streams",
        streams=20,
        ingests=2,
        transcribers=2,
        scripts={"palabra": PLAIN},
        strikes=((12.0, _kill_ingest_and_worker),),
    ),
    Row(
        name="NATS restart, 20 streams",
        streams=20,
        transcribers=2,
        scripts={"palabra": PLAIN},
        strikes=((12.0, _restart_nats),),
    ),
    Row(
        name="leader kill of three NATS nodes, 20 streams",
        streams=20,
        transcribers=2,
        nodes=3,
        scripts={"palabra": PLAIN},
        strikes=((12.0, _kill_leader),),
    ),
    Row(
        name="slow subscriber, 20 streams",
        streams=20,
        scripts={"palabra": PLAIN},
        strikes=((12.0, _sleep_beside),),
    ),
    Row(
        name="disk of NATS full for 10 s, 20 streams",
        streams=20,
        has_small_store=True,
        scripts={"palabra": PLAIN},
        strikes=(
            (12.0, _fill_disk),
            (22.0, _empty_disk),
        ),
    ),
)
