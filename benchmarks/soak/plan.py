"""What a soak does, drawn from its seed. Pure: the same seed is the same plan."""

import random
from typing import Final, Literal

import msgspec

from tests.support.conversation import FRAMES_MAX
from tests.support.frame_numbers import FRAME_MS

__all__ = [
    "FRAMES_PER_S",
    "Door",
    "Manner",
    "StreamPlan",
    "Strike",
    "StrikeKind",
    "plan_script",
    "plan_stream",
    "plan_strikes",
]

Door = Literal["native", "palabra", "kotoba"]
Manner = Literal["normal", "fast", "slow", "vanish", "reset"]
"""`fast`: an upload; `slow`: reads its events late; `vanish`, `reset`: goes without a word, by FIN
or by RST."""
StrikeKind = Literal[
    "worker_kill",
    "worker_freeze",
    "worker_drain",
    "workers_kill",
    "ingest_kill",
    "ingest_freeze",
    "ingest_drain",
    "ingest_and_worker_kill",
    "nats_restart",
    "nats_freeze",
    "nats_and_worker",
    "node_kill",
    "node_freeze",
    "node_cut",
    "node_and_worker_kill",
    "leader_step_down",
    "nodes_restart",
    "palabra_kill",
    "kotoba_kill",
]

FRAMES_PER_S: Final = 1000 // FRAME_MS
STRIKE_EVERY_S: Final = 9.0
"""On average: a fault finds the system between recovering from the last and having done so."""
SESSIONS_MAX: Final = 2_500
"""Sessions of one simulator's life that have a fault planned: more than it lives to see."""
_WEIGHTS: Final[dict[StrikeKind, int]] = {
    "worker_kill": 5,
    "worker_freeze": 5,
    "worker_drain": 4,
    "workers_kill": 1,
    "ingest_kill": 2,
    "ingest_freeze": 2,
    "ingest_drain": 1,
    "ingest_and_worker_kill": 2,
    "nats_restart": 2,
    "nats_freeze": 1,
    "nats_and_worker": 2,
    "palabra_kill": 2,
    "kotoba_kill": 2,
}
_OF_ONE_SERVER: Final[tuple[StrikeKind, ...]] = ("nats_restart", "nats_freeze", "nats_and_worker")
_WEIGHTS_OF_NODES: Final[dict[StrikeKind, int]] = {
    "node_kill": 3,
    "node_freeze": 2,
    "node_cut": 2,
    "node_and_worker_kill": 2,
    "leader_step_down": 2,
    "nodes_restart": 1,
}
"""With three NATS nodes, in place of what befalls a single one."""
_AWAY_S: Final[dict[StrikeKind, tuple[float, float]]] = {
    "worker_freeze": (0.3, 8.0),
    "ingest_freeze": (0.3, 6.0),
    "nats_restart": (0.0, 3.0),
    "nats_freeze": (0.3, 5.0),
    "nats_and_worker": (0.0, 3.0),
    "node_kill": (0.0, 15.0),
    "node_freeze": (0.3, 15.0),
    "node_cut": (0.3, 15.0),
    "node_and_worker_kill": (0.0, 8.0),
    "palabra_kill": (0.5, 20.0),
    "kotoba_kill": (0.5, 20.0),
}
"""How long what is struck stays away; others: up to 4 s."""
_ROUTES: Final[tuple[tuple[str, ...], ...]] = (
    ("palabra",),
    ("kotoba",),
    ("palabra", "kotoba"),
    ("kotoba", "palabra"),
    ("kotoba", "palabra", "echo"),
    ("echo",),
)


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One stream and its client."""

    number: int
    door: Door
    route: tuple[str, ...]
    """Empty: the worker's own."""
    manner: Manner
    n_frames: int
    has_pauses: bool
    """Speech with pauses, which may be left out to catch up; else every frame is numbered."""
    frames_per_message: int
    gone_after_frames: int
    """When a client that vanishes does."""
    ingest: int
    """Which one it tries first."""
    pause_s: float
    """Before it comes."""

    def describe(self) -> str:
        """One line for a report."""
        sound = "with pauses" if self.has_pauses else "without pauses"
        return (
            f"stream plan {self.number}: {self.door} door, route {'+'.join(self.route) or 'any'}, "
            f"{self.manner}, {self.n_frames} frames {sound} in messages of "
            f"{self.frames_per_message}"
        )


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of a process."""

    at_s: float
    kind: StrikeKind
    target: float
    """Chooses among those that are there, 0 to 1."""
    away_s: float
    """Until it comes back, or another in its place."""


def plan_stream(seed: int, number: int, *, ingests: int) -> StreamPlan:
    """Draw the nth stream."""
    draw = random.Random(f"{seed}-stream-{number}")
    door: Door = draw.choices(("native", "palabra", "kotoba"), (84, 8, 8))[0]
    manner: Manner = "normal"
    route: tuple[str, ...] = ()
    if door == "native":
        manners: tuple[Manner, ...] = ("normal", "fast", "slow", "vanish", "reset")
        manner = draw.choices(manners, (68, 8, 10, 7, 7))[0]
        route = draw.choices(_ROUTES, (25, 20, 15, 15, 10, 15))[0]
    seconds = draw.choices(
        (draw.uniform(3, 30), draw.uniform(30, 120), draw.uniform(120, 300)), (45, 45, 10)
    )[0]
    if manner == "fast":
        seconds = min(seconds, 60.0)
    # At a provider that hears real time only, speech without a pause never catches up.
    has_pauses = "echo" not in route and not ("palabra" not in route and draw.random() < 0.5)
    n_frames = min(FRAMES_MAX, int(seconds * FRAMES_PER_S))
    return StreamPlan(
        number=number,
        door=door,
        route=route,
        manner=manner,
        n_frames=n_frames,
        has_pauses=has_pauses or not route,
        frames_per_message=draw.choice((1, 5, 5, 5, 10, 16)),
        gone_after_frames=draw.randrange(n_frames // 4, n_frames),
        ingest=draw.randrange(ingests),
        pause_s=draw.uniform(0.0, 2.0),
    )


def plan_strikes(seed: int, *, seconds: float, has_cluster: bool = False) -> list[Strike]:
    """Draw what is done to the processes, from second 5 on."""
    draw = random.Random(f"{seed}-strikes")
    weights = _WEIGHTS
    if has_cluster:
        weights = _WEIGHTS | _WEIGHTS_OF_NODES
        for of_one_server in _OF_ONE_SERVER:
            del weights[of_one_server]
    strikes: list[Strike] = []
    at_s = 5.0
    while True:
        at_s += min(4 * STRIKE_EVERY_S, draw.expovariate(1 / STRIKE_EVERY_S))
        kind: StrikeKind = draw.choices(list(weights), list(weights.values()))[0]
        low_s, high_s = _AWAY_S.get(kind, (0.0, 4.0))
        strike = Strike(
            at_s=at_s, kind=kind, target=draw.random(), away_s=draw.uniform(low_s, high_s)
        )
        if at_s > seconds:
            return strikes
        strikes.append(strike)


def plan_script(seed: int, provider: str, life: int) -> str:
    """Draw what goes wrong at a provider in one life of its simulator, as a script in TOML.

    Args:
        seed: of the soak.
        provider: `palabra` or `kotoba`.
        life: counts its starts, from 1.
    """
    draw = random.Random(f"{seed}-{provider}-{life}")
    faults = ['{kind = "duplicate_final", session = 0}'] if draw.random() < 0.3 else []
    for session in range(1, SESSIONS_MAX + 1):
        if draw.random() < 0.5:
            faults.append(f"{{{_plan_fault(draw, provider)}, session = {session}}}")
    listed = ",\n  ".join(faults)
    return (
        f"segment_ms = {draw.choice((1_000, 3_000, 3_000, 8_000))}\n"
        f"latency_ms = {draw.choice((0, 0, 200, 600))}\n"
        f"faults = [\n  {listed}\n]\n"
    )


_SUDDEN: Final = ("reset", "half_open", "garbage", "unknown_message", "duplicate_final")
_OF_KOTOBA: Final = ("mute", "string_error", "rate_limit_error")
"""A mute Palabra is found by speech, which numbered frames are not."""
_WITH_CODE: Final = ("error", "top_level_error", "fal_error")


def _plan_fault(draw: random.Random, provider: str) -> str:
    after = f"after_ms = {int(draw.triangular(0, 40_000, 4_000))}"
    choices = [f'kind = "{kind}", {after}' for kind in _SUDDEN]
    choices += [f'kind = "close", {after}, code = {draw.choice((1000, 1001, 1011, 1013))}']
    choices += [f'kind = "refuse", status = {draw.choice((429, 500, 503))}'] * 2
    choices += [
        f'kind = "refuse", status = 429, retry_after_s = {draw.randint(1, 5)}',
        'kind = "unanswered"',
    ]
    if provider == "palabra":
        choices += ['kind = "refuse", status = 409', 'kind = "refuse_minting", status = 503']
    else:
        choices += [f'kind = "{kind}", {after}' for kind in (*_OF_KOTOBA, *_WITH_CODE)]
    return draw.choice(choices)
