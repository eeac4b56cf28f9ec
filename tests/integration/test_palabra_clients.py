"""Programs written for Palabra, with only the address changed."""

import asyncio
import signal
import subprocess
import sys
import wave
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import palabra_ai
import pytest
from palabra_ai.client import REGIONS, Region
from palabra_ai.stt import SttTranscript

from tests.support.command_line import build_environment
from tests.support.frame_client import stream_frames
from tests.support.frame_numbers import build_frames
from tests.support.palabra import KEYS, PATIENCE_S, Door, publish_translation
from tests.support.provider_streams import assert_exact
from tests.support.system import System

pytestmark = pytest.mark.nats

PROGRAMS: Final = Path(__file__).parents[1] / "programs"
N_FRAMES: Final = 160
"""Ten chunks of 320 ms; the echo provider makes a final after 150."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {"API_KEYS": KEYS, "PALABRA_SESSIONS_PER_KEY_MAX": "1"}
    with System(tmp_path_factory.mktemp("clients"), ingest_settings=settings) as running:
        yield running


@pytest.fixture
def door(system: System) -> Door:
    return Door(system.ingest)


@pytest.fixture
def palabra(door: Door, monkeypatch: pytest.MonkeyPatch) -> palabra_ai.Palabra:
    """The vendor's SDK as it is published, with another address for its region."""
    monkeypatch.setitem(REGIONS, "eu", Region(stt=door.stream_url))
    return palabra_ai.Palabra(api_key="key-of-acme")


def test_the_documentations_program_prints_what_the_microphone_hears(
    system: System, door: Door, tmp_path: Path
) -> None:
    """Its user changes two addresses, and nothing else."""
    recording = tmp_path / "talk.wav"
    with wave.open(str(recording), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(build_frames(1, N_FRAMES))
    lines: list[str] = []
    name = ""
    with subprocess.Popen(
        [sys.executable, PROGRAMS / "palabra_microphone.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=build_environment(
            PYTHONPATH=str(PROGRAMS / "stand_ins"),
            MICROPHONE_WAV=str(recording),
            PALABRA_CLIENT_ID="acme",
            PALABRA_CLIENT_SECRET="key-of-acme",
            PALABRA_SESSION_URL=f"{door.ingest.url}/session-storage/session",
            PALABRA_STREAM_URL=door.stream_url,
            PALABRA_TRANSLATE_LANGUAGES="es,de",
        ),
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            lines.append(line.strip())
            if line.startswith("[EOS]"):
                name = line.rpartition("[")[2].rstrip("]\n")
                asyncio.run(publish_translation(system, name, "es", "uno"))
            if line.startswith("[es]"):
                program.send_signal(signal.SIGINT)
        errors = program.stderr.read() if program.stderr else ""

    assert (program.returncode, errors) == (0, "")
    assert lines[:2] == ["session created", "connected"]
    assert [line for line in lines if line.startswith("[")] == [
        f"[EOS] 1-150 [{name}]",
        f"[es] uno [{name}]",
    ]
    assert lines[-1] == "stopped"


def test_the_vendors_sdk_transcribes_and_translates(
    system: System, palabra: palabra_ai.Palabra
) -> None:
    """As its documentation shows it: a session is an iterator of events."""

    async def run() -> list[SttTranscript]:
        heard: list[SttTranscript] = []
        async with (
            asyncio.timeout(PATIENCE_S),
            palabra.stt("en", translate_languages=["es", "de"]) as session,
        ):
            await session.send_pcm(build_frames(1, N_FRAMES), realtime=False)
            async for event in session:
                assert isinstance(event, SttTranscript)
                heard.append(event)
                if event.is_eos and not event.is_translation:
                    for language in ("es", "de"):
                        await publish_translation(
                            system, event.transcription_id, language, f"{language}: {event.text}"
                        )
                if event.language == "de":
                    return heard
        return heard

    heard = asyncio.run(run())
    *partials, final, spanish, german = heard

    assert (partials[0].text, partials[0].end_time) == ("1-25", 0.5)
    assert not any(partial.is_eos for partial in partials)
    assert (final.text, final.language, final.start_time, final.end_time) == ("1-150", "en", 0, 3.0)
    assert final.is_eos
    assert {event.transcription_id for event in heard} == {final.transcription_id}
    assert [(event.text, event.is_translation) for event in (spanish, german)] == [
        ("es: 1-150", True),
        ("de: 1-150", True),
    ]


def test_the_vendors_sdk_tells_a_wrong_key_from_a_key_in_use(
    palabra: palabra_ai.Palabra,
) -> None:
    """Its users catch these two; any other refusal has one error for all."""

    async def run() -> None:
        async with palabra.stt("en"):
            with pytest.raises(palabra_ai.SessionError, match="409"):
                await palabra.stt("en").__aenter__()
        palabra.api_key = "key-of-nobody"
        with pytest.raises(palabra_ai.AuthError, match="401"):
            await palabra.stt("en").__aenter__()

    asyncio.run(run())


def test_the_vendors_sdk_sends_every_setting_it_has(palabra: palabra_ai.Palabra) -> None:
    """Formats, rates and the filler filter are its own words; without the filter, deltas append."""
    numbered = array("h", build_frames(1, N_FRAMES, sample_rate_hz=8_000))
    samples = array("i", (sample << 16 for sample in numbered)).tobytes()

    async def run() -> list[SttTranscript]:
        heard: list[SttTranscript] = []
        session = palabra.stt(
            format="pcm_s32le",
            sample_rate=8_000,
            translate_languages="es,fr-ca",
            enable_filler_filter=False,
        )
        async with asyncio.timeout(PATIENCE_S), session:
            await session.send_audio(samples)
            while not heard or not heard[-1].is_eos:
                event = await session.receive()
                assert isinstance(event, SttTranscript)
                heard.append(event)
        return heard

    heard = asyncio.run(run())

    assert (heard[-1].text, heard[-1].language, heard[-1].end_time) == ("1-150", "auto", 3.0)
    assert "".join(event.delta or "" for event in heard) == "1-150"


def test_speechbus_itself_is_a_client_of_the_door(door: Door, tmp_path: Path) -> None:
    """Session, stream, finalize, goodbye: one Speechbus recognizes by another one, exactly."""
    n_frames = 100
    account = {
        "PALABRA_CLIENT_ID": "beta",
        "PALABRA_CLIENT_SECRET": "key-of-beta",
        "PALABRA_API_URL": door.ingest.url,
        "PALABRA_STT_URL": door.stream_url,
    }
    with System(
        tmp_path, transcriber_settings={"PROVIDERS": "palabra"}, environment=account
    ) as front:
        hello = {"providers": ["palabra"]}
        received = asyncio.run(
            stream_frames(front.ingest.url, front.key, n_frames=n_frames, hello=hello)
        )
        front.transcribers[0].stop()

    assert_exact(received, n_frames)
    assert {final.provider for final in received.finals} == {"palabra"}
    assert door.manage("GET", tenant="beta").json()["data"] == []
