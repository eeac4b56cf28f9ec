"""The whole of docker-compose.yml as processes: what it starts, who may do what, how it ends."""

import asyncio
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
from websockets.asyncio.client import connect

from speechbus_cli.speech import Recording
from speechbus_contracts import CaptionJoined, StreamClaimed, decode_event
from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.bus_login import BusLogin
from speechbus_runtime.secret import Secret
from tests.support.bus_log import wait_until
from tests.support.command_line import run_speechbus
from tests.support.compose_file import COMPOSE_FILE, read_compose
from tests.support.compose_system import ComposeSystem, Container, ContainerError
from tests.support.dockerfile import REPOSITORY
from tests.support.frame_numbers import Tiling, build_frames, check_tiling
from tests.support.native_client import PATIENCE_S, NativeClient

pytest_plugins = ["tests.support.speech"]
pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
FRAMES_PER_MESSAGE: Final = 5
SETTINGS: Final[Mapping[str, str]] = {
    "SPEECHBUS_PROVIDERS": "kotoba,echo",
    "SPEECHBUS_SESSIONS_MAX": "10",  # so that one stream more or less counts in the placement
    "SPEECHBUS_NATS_MEMORY_MAX": "3GB",
}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Made as `make secrets` makes them."""
    folder = tmp_path / "secrets"
    script = REPOSITORY / "deploy" / "compose" / "make-secrets.sh"
    subprocess.run(["sh", str(script), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def system(tmp_path: Path, secrets: Path) -> ComposeSystem:
    """`docker compose --env-file deploy/compose/simulators.env up`, not yet started."""
    file = read_compose(
        variables={"SPEECHBUS_SECRETS": str(secrets), **SETTINGS},
        env_files=[REPOSITORY / "deploy" / "compose" / "simulators.env"],
    )
    return ComposeSystem(file, tmp_path)


class Speaker:
    """A client that goes on speaking until it is told to end."""

    def __init__(self, client: NativeClient) -> None:
        self.client = client
        self.n_frames = 0
        self.has_ended = False
        self._should_end = asyncio.Event()

    async def speak(self) -> None:
        """Send frames in real time, then end and hear the rest."""
        while not self._should_end.is_set():
            await self.client.send(build_frames(self.n_frames + 1, FRAMES_PER_MESSAGE))
            self.n_frames += FRAMES_PER_MESSAGE
            await asyncio.sleep(0.1)  # as fast as people speak
        await self.client.end()
        self.has_ended = True

    async def speak_on(self, n_frames: int) -> None:
        """Return when so many more frames are sent."""
        goal = self.n_frames + n_frames
        await wait_until(lambda: self.n_frames >= goal)

    def end(self) -> None:
        """Say that this was all."""
        self._should_end.set()

    @property
    def workers(self) -> set[str]:
        """Those that had its stream."""
        return {e.worker for e in self.client.events if isinstance(e, StreamClaimed)}


@asynccontextmanager
async def watch_captions(system: ComposeSystem, secrets: Path) -> AsyncGenerator[set[str]]:
    """Keep the ids of what was captioned, as the operator sees it."""
    captioned: set[str] = set()

    def take(_subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        caption = decode_event(payload)
        assert isinstance(caption, CaptionJoined)
        captioned.add(caption.transcription_id)

    login = BusLogin(
        user="operator", password=Secret((secrets / "nats_operator_password").read_text().strip())
    )
    bus: BusConnection = await connect_bus(
        f"nats://{system.addresses['nats']}:4222", name="operator-test", login=login
    )
    try:
        bus.subscribe_direct("speech.v1.caption.>", take)
        await bus.flush()
        yield captioned
    finally:
        await bus.shut_down()


async def speak_while_scaling(system: ComposeSystem, secrets: Path) -> list[Speaker]:
    """Speak on eight streams; have one worker, then four, then one again."""
    key = (secrets / "api_key").read_text()
    speakers: list[Speaker] = []

    async def open_stream(**hello: object) -> None:
        connection = await connect(
            f"ws://{system.find_published('ingest')}/v1/streams",
            additional_headers={"Authorization": f"Bearer {key}"},
            compression=None,
            proxy=None,
            max_queue=None,
            open_timeout=PATIENCE_S,
        )
        client = NativeClient(connection)
        await client.open(**hello)
        speaker = Speaker(client)
        speakers.append(speaker)
        speaking.create_task(speaker.speak())
        await client.hear_until("segment.partial")

    async with watch_captions(system, secrets) as captioned, asyncio.TaskGroup() as speaking:
        assert await asyncio.to_thread(system.scale, "transcriber", 1) == {"transcriber-2": 0}
        for _ in range(3):
            await open_stream(providers=["echo"])
        await open_stream(providers=["echo"], target_languages=["es"])
        assert await asyncio.to_thread(system.scale, "transcriber", 4) == {}
        for _ in range(3):
            await open_stream(providers=["echo"])
        await open_stream(providers=["kotoba"], language="ja")
        left = await asyncio.to_thread(system.scale, "transcriber", 1)
        assert left == {f"transcriber-{number}": 0 for number in (2, 3, 4)}
        for speaker in speakers:
            await speaker.speak_on(25)
            speaker.end()
        async with asyncio.timeout(PATIENCE_S):
            while any(not speaker.has_ended for speaker in speakers):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        said = {final.transcription_id for s in speakers for final in s.client.finals}
        await wait_until(lambda: captioned >= said)
    return speakers


def run_once(
    system: ComposeSystem, secrets: Path, folder: Path, name: str, *arguments: str
) -> tuple[int | None, str]:
    """Do `docker compose run --rm NAME speechbus …` beside the running system."""
    file = read_compose(
        variables={"SPEECHBUS_SECRETS": str(secrets), **SETTINGS}, profiles=["tools"]
    )
    service = file.services[name]
    if arguments:
        service = msgspec.structs.replace(service, command=["speechbus", *arguments])
    container = Container(
        f"{name}-run", service, file=file, folder=folder, address=system.addresses["nats"]
    )
    container.start(system.addresses)
    return container.wait_for_exit(60), container.log_path.read_text()


def test_the_compose_file_runs_streams_through_any_number_of_workers(
    system: ComposeSystem, secrets: Path, tmp_path: Path
) -> None:
    """With its own commands, variables, secrets, ports, health checks and users of NATS."""
    with system:
        speakers = asyncio.run(speak_while_scaling(system, secrets))
        doctor = run_once(system, secrets, tmp_path, "operator")
        purge = ("purge", "--tenant", "default", "--yes")
        purged = run_once(system, secrets, tmp_path, "bootstrap", *purge)
        ends = system.stop()

    for speaker in speakers:
        client = speaker.client
        assert check_tiling(client.finals, speaker.n_frames) == EXACT
        assert (client.closed.reason, client.closed.gap_ms) == ("end", 0)
    assert len({worker for speaker in speakers for worker in speaker.workers}) >= 3
    assert doctor[0] == 0, doctor[1]
    assert "1 alive, 0 of 10 streams" in doctor[1]
    assert purged[0] == 0, purged[1]
    assert "CAPTION     0 messages" not in purged[1]
    assert ends == dict.fromkeys(ends, 0)
    assert {name.rpartition("-")[0] for name in ends} == {
        *system.containers.keys() - {"bootstrap"},
    }
    log = (tmp_path / "nats-1.log").read_text()
    assert [line for line in log.splitlines() if "iolation" in line or "[ERR]" in line] == []


@pytest.mark.speech
def test_without_any_account_a_file_becomes_text(
    amiable: Recording, tmp_path: Path, secrets: Path
) -> None:
    """What a newcomer has who types what the page says, and nothing else."""
    file = read_compose(
        variables={"SPEECHBUS_SECRETS": str(secrets), "SPEECHBUS_NATS_MEMORY_MAX": "3GB"}
    )
    with ComposeSystem(file, tmp_path) as system:
        done = run_speechbus(
            *("transcribe", str(amiable.path)),
            *("--url", f"http://{system.find_published('ingest')}"),
            *("--key", (secrets / "api_key").read_text()),
        )
        ends = system.stop()

    assert done.returncode == 0, done.stderr.decode()
    assert "amiable" in done.stdout.decode()
    assert "transcribed by local" in done.stderr.decode()
    assert set(ends.values()) == {0}


def test_a_wrong_password_stops_the_start(tmp_path: Path, secrets: Path) -> None:
    """The server of the test does look at users, and the order of the start is kept."""
    password = secrets / "nats_bootstrap_password"
    password.unlink()
    password.write_text("wrong")
    file = read_compose(variables={"SPEECHBUS_SECRETS": str(secrets)}, file=COMPOSE_FILE)

    with pytest.raises(ContainerError, match="bootstrap-1 ended with 4"):
        ComposeSystem(file, tmp_path).__enter__()


def test_three_servers_of_nats_become_a_cluster(tmp_path: Path, secrets: Path) -> None:
    """`bootstrap` waits for all three and then has three copies of each store."""
    whole = read_compose(
        variables={"SPEECHBUS_SECRETS": str(secrets), "SPEECHBUS_NATS_MEMORY_MAX": "3GB"},
        env_files=[REPOSITORY / "deploy" / "compose" / "cluster.env"],
    )
    names = ("nats", "nats-1", "nats-2", "bootstrap")
    file = msgspec.structs.replace(whole, services={n: whole.services[n] for n in names})

    with ComposeSystem(file, tmp_path) as system:
        (bootstrap,) = system.containers["bootstrap"]
        assert bootstrap.wait_for_exit(60) == 0
        assert system.stop() == {"nats-1": 0, "nats-1-1": 0, "nats-2-1": 0}
    assert "created    TRANSCRIPT" in bootstrap.log_path.read_text()
