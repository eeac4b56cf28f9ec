"""A real Prometheus beside real services: what it scrapes, and an alert about a real loss."""

import asyncio
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from speechbus_cli.embedded_nats import choose_port
from tests.support.frame_client import stream_frames
from tests.support.prometheus import Prometheus
from tests.support.system import System

PROMETHEUS: Final = shutil.which("prometheus")
pytestmark = [
    pytest.mark.nats,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus is missing: install Debian's package `prometheus`"
    ),
]
N_FRAMES: Final = 100


def test_an_alert_fires_when_audio_is_lost(tmp_path: Path) -> None:
    """A stream whose route names no provider that a worker has: its audio becomes a gap."""
    assert PROMETHEUS is not None
    ingest_port = choose_port("127.0.0.1", 0)
    with System(
        tmp_path / "system",
        correlators=1,
        translators=1,
        ingest_settings={"HEALTH_PORT": str(ingest_port)},
    ) as system:
        ports = {
            "ingest": ingest_port,
            "transcriber": system.transcribers[0].port,
            "correlator": system.correlators[0].port,
            "translator": system.translators[0].port,
        }
        with Prometheus(PROMETHEUS, tmp_path, ports) as prometheus:
            targets = prometheus.wait_for("targets", _are_up)["activeTargets"]
            groups = prometheus.wait_for("rules", _are_evaluated)["groups"]
            before = prometheus.ask("alerts")["alerts"]
            received = asyncio.run(
                stream_frames(
                    system.ingest.url,
                    system.key,
                    n_frames=N_FRAMES,
                    is_paced=False,
                    hello={"providers": ["nobody"]},
                )
            )
            alerts = prometheus.wait_for("alerts", lambda answer: bool(_find_lost(answer)))

    assert {target["labels"]["job"]: target["health"] for target in targets} == dict.fromkeys(
        ports, "up"
    )
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    assert [alert["labels"]["alertname"] for alert in before if alert["state"] == "firing"] == []
    assert sum(gap.to_ms - gap.from_ms for gap in received.gaps) == 20 * N_FRAMES
    # What was accepted before the worker closed the stream, and what after that.
    reasons = {gap.reason for gap in received.gaps}
    assert reasons <= {"provider", "audio_lost"}
    lost = _find_lost(alerts)
    assert {alert["state"] for alert in lost} == {"firing"}
    assert {alert["labels"]["reason"] for alert in lost} <= reasons


def _are_up(answer: Any) -> bool:  # noqa: ANN401 (JSON)
    return [target["health"] for target in answer["activeTargets"]] == ["up"] * 4


def _are_evaluated(answer: Any) -> bool:  # noqa: ANN401
    health = [rule["health"] for group in answer["groups"] for rule in group["rules"]]
    return bool(health) and set(health) == {"ok"}


def _find_lost(answer: Any) -> list[Any]:  # noqa: ANN401
    return [a for a in answer["alerts"] if a["labels"]["alertname"] == "SpeechbusAudioLost"]
