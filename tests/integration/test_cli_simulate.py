"""`speechbus simulate` as a person and a script meet it."""

import asyncio
from pathlib import Path

import httpx
import msgspec
import pytest
import websockets

from tests.support.command_line import run_speechbus
from tests.support.frame_numbers import build_frames
from tests.support.simulator import simulator

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


@pytest.mark.parametrize(
    ("content", "hint"), [("mode = 3", b"$.mode"), ('faults = [{kind = "x"}]', b"$.faults[0]")]
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
