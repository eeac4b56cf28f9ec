"""The programs that newcomers copy, run against the real system."""

import re
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import build_environment
from tests.support.frame_numbers import build_frames
from tests.support.stand_in_door import KEY, StandInDoor, build_final
from tests.support.system import System

pytestmark = pytest.mark.nats

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
N_FRAMES = 200
"""4 s: the echo provider makes a final after 3 s, and one of the rest."""
TIMEOUT_S = 60.0
"""A hang should fail its own test, before pytest's limit ends the whole run."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("examples")) as running:
        yield running


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(build_frames(1, N_FRAMES))
    return path


def door_url(system: System) -> str:
    return f"ws://127.0.0.1:{system.ingest_port}"


def run_python(
    *arguments: str | Path, folder: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=build_environment(),
        timeout=TIMEOUT_S,
        check=False,
    )


def test_the_sender_prints_each_final_of_its_file(system: System, recording: Path) -> None:
    """It is the template of other teams' clients: it must show all that was heard, and end."""
    done = run_python(
        EXAMPLES / "send_audio.py", recording, "--url", door_url(system), "--key", system.key
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "    0.0 s  1-150\n    3.0 s  151-200\n"


def test_the_sender_says_why_it_was_refused(system: System, recording: Path) -> None:
    """A wrong key is everybody's first mistake."""
    done = run_python(
        EXAMPLES / "send_audio.py", recording, "--url", door_url(system), "--key", "wrong"
    )

    assert done.returncode == 1
    assert done.stderr.startswith("HTTP 401: ")
    assert "Bearer KEY" in done.stderr


def test_the_sender_says_what_to_start(recording: Path) -> None:
    """Nobody there is the second mistake."""
    done = run_python(EXAMPLES / "send_audio.py", recording, "--url", "ws://127.0.0.1:9")

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "start it with `speechbus dev`" in done.stderr


def test_the_sender_says_that_the_connection_broke(recording: Path) -> None:
    """A transcript of a half must not end like one of the whole."""
    with StandInDoor(after=[build_final("half")], breaks_off=True) as door:
        done = run_python(EXAMPLES / "send_audio.py", recording, "--url", door.url, "--key", KEY)

    assert (done.returncode, done.stdout) == (1, "    0.0 s  half\n")
    assert done.stderr == (
        "The connection broke before the end (close code 1012): send the file again.\n"
    )


def test_the_subscriber_says_what_to_start() -> None:
    """One line; nats-py logs a traceback for each of its tries."""
    done = run_python(EXAMPLES / "subscribe.py", "dev", "--nats-url", "nats://127.0.0.1:9")

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No NATS server answers" in done.stderr


def test_the_subscriber_prints_the_finals_of_its_tenant(system: System, recording: Path) -> None:
    """It is the template of other teams' services."""
    with subprocess.Popen(
        [
            *(sys.executable, EXAMPLES / "subscribe.py", system.tenant),
            *("--nats-url", system.nats.url),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=build_environment(),
    ) as subscriber:
        assert subscriber.stdout is not None
        listening = subscriber.stdout.readline()
        run_python(
            EXAMPLES / "send_audio.py", recording, "--url", door_url(system), "--key", system.key
        )
        heard = [subscriber.stdout.readline().split(maxsplit=1)[1] for _ in range(2)]
        subscriber.send_signal(signal.SIGINT)
        rest, errors = subscriber.communicate(timeout=TIMEOUT_S)

    assert listening == "listening\n"
    assert heard == ["0.0 s  1-150\n", "3.0 s  151-200\n"]
    assert (subscriber.returncode, rest, errors) == (0, "", "")


def test_the_client_in_the_readme_runs(system: System, recording: Path) -> None:
    """It is the first code that is copied, beside a file called talk.wav."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "ws://127.0.0.1:8080/v1/streams?token=dev" in code
    here = code.replace("ws://127.0.0.1:8080", door_url(system)).replace(
        "token=dev", f"token={system.key}"
    )

    done = run_python("-c", here, folder=recording.parent)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1-150\n151-200\n"
