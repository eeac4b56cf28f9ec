"""Whether a service works: loops that must keep beating, conditions that must hold."""

import asyncio
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Final, Literal

import msgspec

__all__ = [
    "Beat",
    "Condition",
    "Failure",
    "Health",
    "HealthReport",
    "Phase",
    "live_failures",
    "ready_failures",
    "watch_event_loop",
]

Phase = Literal["starting", "serving", "draining"]

LAG_MAX_S: Final = 1.0
"""Audio waits as long as the loop lags; this is ten chunks, and far above what load alone does."""
LAG_MEMORY_S: Final = 10.0
"""One Kubernetes probe interval: each stall is seen by one probe, and three in a row restart."""
LAG_SAMPLE_S: Final = 0.25
"""Four timers a second cost nothing measurable and catch each stall of `LAG_MAX_S`."""


class Beat(msgspec.Struct, frozen=True):
    """The last sign of life of one loop, on the monotonic clock."""

    name: str
    beat_at_s: float
    stale_after_s: float


class Condition(msgspec.Struct, frozen=True):
    """Something without which the service must get no new work."""

    name: str
    is_met: bool
    reason: str


class Failure(msgspec.Struct, frozen=True):
    """What is wrong, for the one who reads the answer of a probe."""

    name: str
    reason: str


class HealthReport(msgspec.Struct, frozen=True):
    """Answer to a probe; `failing` is empty exactly when all is well."""

    service: str
    phase: Phase
    failing: tuple[Failure, ...]

    @property
    def status_code(self) -> int:
        """200, or 503 as long as something fails."""
        return 503 if self.failing else 200

    def encode(self) -> bytes:
        """Return the body as JSON."""
        return msgspec.json.encode(self)


def live_failures(
    beats: Iterable[Beat], *, lag_s: float, lagged_at_s: float, now_s: float
) -> tuple[Failure, ...]:
    """Return why the process should be restarted.

    Args:
        beats: of all loops that should be working.
        lag_s: how late the event loop's last slow timer was.
        lagged_at_s: when that was.
        now_s: on the same clock as all of these.
    """
    stale = [
        Failure(beat.name, f"no sign of life for {now_s - beat.beat_at_s:.1f} s")
        for beat in beats
        if now_s - beat.beat_at_s > beat.stale_after_s
    ]
    if lag_s > LAG_MAX_S and now_s - lagged_at_s <= LAG_MEMORY_S:
        stale.append(Failure("event_loop", f"was blocked for {lag_s:.1f} s"))
    return tuple(stale)


def ready_failures(phase: Phase, conditions: Iterable[Condition]) -> tuple[Failure, ...]:
    """Return why the service should get no new work."""
    unmet = [Failure(each.name, each.reason) for each in conditions if not each.is_met]
    return (*(() if phase == "serving" else (Failure("phase", phase),)), *unmet)


class Health:
    """What one service knows about itself. For the event loop's thread only; bounded by its names.

    Names are written in code, so their number is fixed; never make one from a stream's id.

    Attributes:
        phase: `starting` until `mark_serving`, `draining` after `mark_draining`.
    """

    def __init__(self, service: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin in phase `starting`.

        Args:
            service: named in each answer.
            clock: seconds that never go back.
        """
        self.phase: Phase = "starting"
        self._service = service
        self._clock = clock
        self._stale_after_s: dict[str, float] = {}
        self._beat_at_s: dict[str, float] = {}
        self._conditions: dict[str, Condition] = {}
        self._lag_s = 0.0
        self._lagged_at_s = 0.0

    def register(self, name: str, *, stale_after_s: float) -> None:
        """Expect `beat(name)` at least every `stale_after_s` from now on.

        A loop that waits for work beats while it waits, with a timeout well below this.
        """
        self._stale_after_s[name] = stale_after_s
        self._beat_at_s[name] = self._clock()

    def beat(self, name: str) -> None:
        """Note that the loop works; cheap enough for each turn of it.

        Raises:
            KeyError: the name is not registered (a mistake in the code).
        """
        if name not in self._beat_at_s:
            raise KeyError(name)
        self._beat_at_s[name] = self._clock()

    def retire(self, name: str) -> None:
        """Expect no more beats: the loop ended as it should, for example in a drain.

        Unknown names are ignored.
        """
        self._stale_after_s.pop(name, None)
        self._beat_at_s.pop(name, None)

    def set_ready(self, name: str, *, ok: bool, reason: str = "") -> None:
        """Set a condition of readiness; it counts from its first setting.

        Args:
            name: of the condition.
            ok: whether it holds.
            reason: shown while it does not; no key and no recognized text.
        """
        self._conditions[name] = Condition(name, ok, reason)

    def mark_serving(self) -> None:
        """Say that the start is over; ignored once the service drains."""
        if self.phase == "starting":
            self.phase = "serving"

    def mark_draining(self) -> None:
        """Say that no new work is wanted; there is no way back."""
        self.phase = "draining"

    def record_lag(self, lag_s: float) -> None:
        """Note how late a timer of the event loop was; see `watch_event_loop`."""
        if lag_s > LAG_MAX_S:
            self._lag_s = lag_s
            self._lagged_at_s = self._clock()

    def live_report(self) -> HealthReport:
        """Return the answer of `/healthz`: does the process work, or should it be restarted?"""
        return HealthReport(self._service, self.phase, self._live_failures())

    def ready_report(self) -> HealthReport:
        """Return the answer of `/readyz`: should the service get new work?"""
        unmet = ready_failures(self.phase, self._conditions.values())
        return HealthReport(self._service, self.phase, (*unmet, *self._live_failures()))

    def _live_failures(self) -> tuple[Failure, ...]:
        beats = [
            Beat(name, beat_at_s, self._stale_after_s[name])
            for name, beat_at_s in self._beat_at_s.items()
        ]
        return live_failures(
            beats, lag_s=self._lag_s, lagged_at_s=self._lagged_at_s, now_s=self._clock()
        )


@contextmanager
def watch_event_loop(health: Health) -> Generator[None]:
    """Measure how late the running loop's timers are, as long as the block runs.

    Timers, not a task: nothing to own, nothing to cancel.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def measure(due_s: float) -> None:
        nonlocal timer
        health.record_lag(loop.time() - due_s)
        due_next_s = loop.time() + LAG_SAMPLE_S
        timer = loop.call_at(due_next_s, measure, due_next_s)

    due_first_s = loop.time() + LAG_SAMPLE_S
    timer = loop.call_at(due_first_s, measure, due_first_s)
    try:
        yield
    finally:
        timer.cancel()
