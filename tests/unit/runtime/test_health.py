import asyncio

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from speechbus_runtime.health import (
    Beat,
    Condition,
    Failure,
    Health,
    HealthReport,
    live_failures,
    ready_failures,
)
from speechbus_runtime.health_routes import health_routes


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def test_a_loop_that_stopped_beating_fails_the_service() -> None:
    """A worker that reads no audio although its process lives must be restarted."""
    clock = Clock()
    health = Health("pool", clock=clock)
    health.register("audio", stale_after_s=5)
    health.register("claims", stale_after_s=60)
    clock.now_s += 5
    report_in_time = health.live_report()
    clock.now_s += 0.5
    report_late = health.live_report()

    assert report_in_time == HealthReport("pool", "starting", ())
    assert report_late.failing == (Failure("audio", "no sign of life for 5.5 s"),)
    assert (report_in_time.status_code, report_late.status_code) == (200, 503)


def test_a_beat_makes_the_service_healthy_again() -> None:
    """A stall that is over needs no restart."""
    clock = Clock()
    health = Health("pool", clock=clock)
    health.register("audio", stale_after_s=5)
    clock.now_s += 50
    health.beat("audio")

    assert health.live_report().failing == ()


def test_a_loop_that_ended_as_it_should_is_not_missed() -> None:
    """A drain must not look like a failure, or it would be cut short by a restart."""
    clock = Clock()
    health = Health("pool", clock=clock)
    health.register("audio", stale_after_s=5)
    health.retire("audio")
    clock.now_s += 50

    assert health.live_report().failing == ()


def test_a_beat_without_a_name_is_a_bug() -> None:
    """A loop whose beats go nowhere would never be watched."""
    with pytest.raises(KeyError, match="audio"):
        Health("pool").beat("audio")


def test_a_blocked_event_loop_fails_the_service_for_a_while() -> None:
    """The block is over when a probe can be answered at all, so it must be remembered."""
    clock = Clock()
    health = Health("pool", clock=clock)
    health.record_lag(1.0)
    report_before = health.live_report()
    health.record_lag(1.5)
    clock.now_s += 10
    report_during = health.live_report()
    clock.now_s += 1

    assert report_before.failing == ()
    assert report_during.failing == (Failure("event_loop", "was blocked for 1.5 s"),)
    assert health.live_report().failing == ()


def test_a_service_is_ready_only_between_start_and_drain() -> None:
    """New streams go to processes that can serve them to the end."""
    health = Health("pool")
    phases = [health.ready_report()]
    health.mark_serving()
    phases.append(health.ready_report())
    health.mark_draining()
    health.mark_serving()
    phases.append(health.ready_report())

    assert [report.failing for report in phases] == [
        (Failure("phase", "starting"),),
        (),
        (Failure("phase", "draining"),),
    ]


def test_a_condition_that_does_not_hold_makes_the_service_not_ready_but_alive() -> None:
    """Restarting a worker does not bring the bus back."""
    health = Health("pool")
    health.mark_serving()
    health.set_ready("bus", ok=False, reason="not connected")
    report = health.ready_report()
    health.set_ready("bus", ok=True)

    assert report.failing == (Failure("bus", "not connected"),)
    assert health.live_report().failing == ()
    assert health.ready_report().failing == ()


def test_a_service_that_should_be_restarted_is_not_ready() -> None:
    """It would only collect work that it does not do."""
    clock = Clock()
    health = Health("pool", clock=clock)
    health.mark_serving()
    health.register("audio", stale_after_s=5)
    clock.now_s += 6

    assert [each.name for each in health.ready_report().failing] == ["audio"]


@given(
    ages_s=st.lists(st.floats(0, 100)),
    stale_after_s=st.floats(0, 100),
    conditions=st.lists(st.booleans()),
)
def test_each_stale_loop_and_each_unmet_condition_is_named(
    ages_s: list[float], stale_after_s: float, conditions: list[bool]
) -> None:
    """One failure must not hide another."""
    beats = [Beat(str(i), -age_s, stale_after_s) for i, age_s in enumerate(ages_s)]
    live = live_failures(beats, lag_s=0, lagged_at_s=0, now_s=0)
    ready = ready_failures(
        "serving", [Condition(str(i), is_met, "") for i, is_met in enumerate(conditions)]
    )

    assert [each.name for each in live] == [
        str(i) for i, age_s in enumerate(ages_s) if age_s > stale_after_s
    ]
    assert [each.name for each in ready] == [
        str(i) for i, is_met in enumerate(conditions) if not is_met
    ]


def test_the_routes_answer_like_the_server() -> None:
    """Ingest answers on the port it has; probes must not notice a difference."""
    health = Health("ingest")
    application = Starlette(routes=list(health_routes(health)))

    async def probe(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
            return await client.get(path)

    live, ready = asyncio.run(probe("/healthz")), asyncio.run(probe("/readyz"))

    assert (live.status_code, live.json()) == (
        200,
        {"service": "ingest", "phase": "starting", "failing": []},
    )
    assert (ready.status_code, ready.json()) == (
        503,
        {
            "service": "ingest",
            "phase": "starting",
            "failing": [{"name": "phase", "reason": "starting"}],
        },
    )
