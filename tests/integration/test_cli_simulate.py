"""`speechbus simulate` as a person and a script meet it."""

import asyncio
import base64
import json
import subprocess
from pathlib import Path

import httpx
import msgspec
import pytest
import websockets
from websockets.typing import Subprotocol

from tests.support.command_line import build_environment, run_speechbus, start_speechbus
from tests.support.frame_numbers import build_frames
from tests.support.simulator import simulator

EXAMPLES = Path(__file__).parents[2] / "examples" / "simulators"
SCRIPT = """
is_real_time = false
sessions_max = 1
keys = ["right"]
client_id = "me"
client_secret = "secret"
faults = [{kind = "refuse", session = 1, status = 503, retry_after_s = 7}]
"""


def test_a_client_meets_the_protocol_it_was_written_for(tmp_path: Path) -> None:
    """Minting, refusals, a stream, and the end of the session."""
    with simulator(tmp_path, SCRIPT) as variables:
        api, stt = variables["PALABRA_API_URL"], variables["PALABRA_STT_URL"]
        credentials = {"ClientId": "me", "ClientSecret": "secret"}
        wrong = httpx.post(f"{api}/session-storage/session", json={"data": {}})
        bad = httpx.post(f"{api}/session-storage/session", content=b"{", headers=credentials)
        minted = httpx.post(
            f"{api}/session-storage/session", json={"data": {}}, headers=credentials
        )
        session = minted.json()["data"]
        nothing = httpx.get(f"{api}/nothing", headers=credentials)
        query = f"format=pcm_s16le&language=en&token={session['publisher']}"
        statuses, answers = asyncio.run(_talk(stt, query))
        gone = [
            httpx.delete(f"{api}/session-storage/sessions/{session['id']}", headers=credentials)
            for _ in range(2)
        ]

    assert (wrong.status_code, bad.status_code, minted.status_code) == (401, 400, 201)
    assert (nothing.status_code, [answer.status_code for answer in gone]) == (404, [204, 404])
    # As scripted; a wrong token; a wrong format; a second session at once.
    assert statuses == [(503, "7"), (401, None), (400, None), (409, None)]
    assert answers[-1]["segment"]["text"] == "1-100<fin>"


async def _talk(
    url: str, query: str
) -> tuple[list[tuple[int, str | None]], list[dict[str, dict[str, str]]]]:
    statuses = [
        await _refusal(f"{url}?{query}"),
        await _refusal(f"{url}?format=pcm_s16le&token=wrong"),
        await _refusal(f"{url}?{query.replace('pcm_s16le', 'mp3')}"),
    ]
    answers: list[dict[str, dict[str, str]]] = []
    async with websockets.connect(f"{url}?{query}", compression=None) as socket:
        statuses.append(await _refusal(f"{url}?format=pcm_s16le&token=right"))
        await socket.send(build_frames(1, 100))
        await socket.send('{"message_type":"finalize"}')
        async for message in socket:
            answers.append(msgspec.json.decode(message))
            if "<fin>" in answers[-1]["segment"]["text"]:
                break
    return statuses, answers


async def _refusal(url: str) -> tuple[int, str | None]:
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(url)
    response = caught.value.response
    return response.status_code, response.headers.get("Retry-After")


def test_the_end_is_said_to_clients_and_without_a_traceback(tmp_path: Path) -> None:
    """SIGTERM is how a CI job ends it."""
    errors = tmp_path / "errors"

    async def wait_for_the_end(url: str, process: "subprocess.Popen[bytes]") -> int | None:
        async with websockets.connect(f"{url}?format=pcm_s16le&token=key") as socket:
            process.terminate()
            await socket.wait_closed()
            return socket.close_code

    with errors.open("wb") as file:
        process = start_speechbus(
            *("simulate", "palabra"),
            errors=file.fileno(),
            environment=build_environment(PYTHONUNBUFFERED="1"),
        )
        with process:
            assert process.stdout is not None
            variables = [process.stdout.readline().decode() for _ in range(3)]
            url = variables[0].strip().partition("=")[2]
            code = asyncio.run(wait_for_the_end(url, process))
            status = process.wait(30)

    assert (code, status, errors.read_text()) == (1001, 0, "")


def test_an_example_script_runs_against_a_real_client(tmp_path: Path) -> None:
    """A page's secret, the limit of two sessions, and the text that the example says."""
    script = (EXAMPLES / "kotoba_browser_limits.toml").read_text()
    with simulator(tmp_path, script, provider="kotoba") as variables:
        url = variables["KOTOBA_ASR_URL"]
        mint = f"{url.replace('ws', 'http', 1)}/transcription_sessions"
        key = {"Authorization": "Bearer backend-key"}
        secrets = [httpx.post(mint, json={}, headers=key).json() for _ in range(3)]
        texts, refused = asyncio.run(_browse(url, [s["client_secret"]["value"] for s in secrets]))

    assert texts == ["hello from the browser"] * 2
    assert refused == "rate_limit_error"


async def _browse(url: str, secrets: list[str]) -> tuple[list[str], str]:
    def offer(secret: str) -> list[Subprotocol]:
        return [Subprotocol("realtime"), Subprotocol(f"kotoba-insecure-api-key.{secret}")]

    first, second, third = secrets
    texts: list[str] = []
    async with (
        websockets.connect(url, subprotocols=offer(first)) as one,
        websockets.connect(url, subprotocols=offer(second)) as two,
    ):
        async with websockets.connect(url, subprotocols=offer(third)) as three:
            await three.recv()
            refused: str = json.loads(await three.recv())["error"]["code"]
        for socket in (one, two):
            session = {
                "input_audio_transcription": {"language": "en", "target_language": "en"},
                "turn_detection": {"type": "server_vad"},
            }
            update = {"type": "transcription_session.update", "session": session}
            await socket.send(json.dumps(update))
            audio = base64.b64encode(bytes(96_000)).decode()  # 2 s of silence at 24 kHz
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            event: dict[str, str] = {"type": ""}
            while not event["type"].endswith("completed"):
                event = json.loads(await socket.recv())
            texts.append(event["transcript"])
    return texts, refused


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("mode = 3", b"$.mode"),
        ('faults = [{kind = "x"}]', b"$.faults[0]"),
        ('faults = [{kind = "reset", code = 1000}]', b"`code` means nothing"),
        ('faults = [{kind = "other_id"}]', b"for palabra"),
    ],
)
def test_a_wrong_script_is_named_before_anything_listens(
    tmp_path: Path, content: str, hint: bytes
) -> None:
    """With the place in it, and without a traceback."""
    path = tmp_path / "script.toml"
    path.write_text(content)
    done = run_speechbus("simulate", "palabra", "--script", str(path))

    assert done.returncode == 2
    assert hint in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_address_that_is_taken_is_said(tmp_path: Path) -> None:
    """The exit code is that of a failure."""
    with simulator(tmp_path) as variables:
        place = variables["PALABRA_API_URL"].removeprefix("http://")
        done = run_speechbus("simulate", "palabra", "--listen", place)

    assert done.returncode == 1
    assert b"cannot listen" in done.stderr
