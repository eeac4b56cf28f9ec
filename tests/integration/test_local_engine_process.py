"""The engine's processes: their sockets, limits and deaths. No speech needed."""

import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from speechbus_transcriber.providers import local_wire as wire
from tests.support.local_engine import ANSWER_TIMEOUT_S, EngineClient, EngineProcess, chunks_of

OPEN = wire.Open(sample_rate_hz=16_000)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("engine")) as running:
        yield running


def open_session(engine: EngineProcess) -> EngineClient:
    client = engine.connect()
    client.send(OPEN)
    assert client.receive() == wire.Ready()
    return client


def test_silence_is_covered_and_gives_no_final(engine: EngineProcess) -> None:
    """The worker frees the audio it kept, and nobody sees an empty segment."""
    with engine.connect() as client:
        messages = client.recognize(chunks_of(bytes(3 * 32_000)))

    assert messages == [
        wire.Ready(),
        wire.Covered(covered_ms=1_024),
        wire.Covered(covered_ms=2_048),
        wire.Covered(covered_ms=3_000),
        wire.Finished(),
    ]


def test_a_flush_of_nothing_is_answered(engine: EngineProcess) -> None:
    """The worker waits for `flushed`, whether there was anything to say or not."""
    with open_session(engine) as client:
        client.send(b"", wire.Flush(), b"", wire.Flush(), wire.Finish())

        assert client.receive_all() == [wire.Flushed(), wire.Flushed(), wire.Finished()]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (wire.encode_frame(wire.encode_message(wire.Flush())), "bad_message"),
        (wire.encode_frame(bytes(2)), "bad_message"),
        (wire.encode_frame('{"type":"sing"}'), "bad_message"),
        (b"\xff\xff\xff\xff\x01", "bad_message"),
        (wire.encode_frame(wire.encode_message(wire.Open(sample_rate_hz=7_999))), "bad_request"),
        (
            wire.encode_frame('{"type":"open","sample_rate_hz":16000,"turn_stop_ms":1}'),
            "bad_request",
        ),
    ],
    ids=[
        "flush before open",
        "audio before open",
        "unknown message",
        "endless frame",
        "sample rate",
        "turn stop",
    ],
)
def test_a_session_that_begins_wrongly_is_told_why(
    engine: EngineProcess, data: bytes, code: str
) -> None:
    """The error must arrive although the engine hangs up at once and the client still sends."""
    with engine.connect() as client:
        client.send_raw(data)
        client.send_raw(bytes(4))
        answer = client.receive()
        client.hang_up()

        assert isinstance(answer, wire.Error)
        assert answer.code == code
        assert client.receive() is None


@pytest.mark.parametrize(
    "message",
    [bytes(3), OPEN],
    ids=["half a sample", "second open"],
)
def test_a_session_that_goes_on_wrongly_ends(
    engine: EngineProcess, message: bytes | wire.Open
) -> None:
    """Half a sample would turn all later audio into noise."""
    with open_session(engine) as client:
        client.send(message)
        client.hang_up()

        assert client.receive_all() == [wire.Error(code="bad_message")]


def test_beyond_the_limit_sessions_are_refused_until_one_ends(tmp_path: Path) -> None:
    """One session too many would make all of them fall behind."""
    with (
        EngineProcess(tmp_path, "--sessions-max", "2") as engine,
        open_session(engine) as first,
        open_session(engine),
    ):
        with engine.connect() as third:
            third.send(OPEN, bytes(2))
            assert third.receive() == wire.Error(code="engine_full")
            assert third.receive() is None

        process, _ = engine.children()
        first.send(wire.Finish())
        assert first.receive_all() == [wire.Finished()]
        psutil.wait_procs([process], timeout=ANSWER_TIMEOUT_S)
        with open_session(engine):
            assert len(engine.children()) == 2


def test_a_killed_session_is_seen_by_its_client_and_by_nobody_else(engine: EngineProcess) -> None:
    """A crash of the C code costs one session; the worker replays its audio in another."""
    with open_session(engine) as victim, open_session(engine) as neighbour:
        *_, victim_process, _ = engine.children()
        victim.send(bytes(32_000))
        victim_process.kill()

        assert victim.receive_all() == []
        neighbour.send(bytes(64_000), wire.Finish())
        assert neighbour.receive_all()[-1] == wire.Finished()
    assert engine.process.poll() is None


def test_a_client_that_hangs_up_frees_its_session(engine: EngineProcess) -> None:
    """Workers drop sessions at any moment; none may stay behind."""
    with open_session(engine):
        *_, process = engine.children()

    _, alive = psutil.wait_procs([process], timeout=ANSWER_TIMEOUT_S)
    assert alive == []


def test_only_the_owner_may_connect(engine: EngineProcess) -> None:
    """What is spoken in a session is nobody else's business."""
    assert stat.S_IMODE(engine.socket_path.stat().st_mode) == 0o600


def test_the_engine_runs_without_threads(engine: EngineProcess) -> None:
    """A fork copies the locks other threads hold; and Silero's threads cost ten times its work."""
    with open_session(engine) as client:
        noise = random.Random(1).randbytes(32_000)
        client.send(noise, wire.Flush())
        client.receive_until(wire.Flushed)
        *_, process = engine.children()

        assert process.num_threads() == 1
    assert psutil.Process(engine.process.pid).num_threads() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits are Linux's")
def test_a_session_has_bounded_memory(engine: EngineProcess) -> None:
    """A search gone wide must not bring the machine to swap."""
    with open_session(engine):
        *_, process = engine.children()
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max data size"))

    assert line.split()[3:5] == [str(512 << 20), str(512 << 20)]


def test_sigterm_lets_sessions_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    """A rolling update must not cost a sentence."""
    with EngineProcess(tmp_path) as engine, open_session(engine) as client:
        engine.process.terminate()
        client.send(bytes(64_000), wire.Finish())

        assert client.receive_all()[-1] == wire.Finished()
        assert engine.process.wait(ANSWER_TIMEOUT_S) == 0
        assert not engine.socket_path.exists()
        with pytest.raises(OSError, match="No such file"):
            engine.connect()


def test_the_socket_of_a_dead_engine_is_taken_over(tmp_path: Path) -> None:
    """After a SIGKILL the file stays; the next start must not fail over it."""
    with EngineProcess(tmp_path) as killed:
        killed.process.kill()
        killed.process.wait()
    with EngineProcess(tmp_path) as engine, open_session(engine) as client:
        client.send(wire.Finish())
        assert client.receive_all() == [wire.Finished()]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to pass the parent's death on")
def test_zygote_and_sessions_die_with_the_worker(tmp_path: Path) -> None:
    """A worker lost to SIGKILL must not leave 100 MB and open microphones behind."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.support.local_engine import EngineProcess\n"
        "engine = EngineProcess(Path(sys.argv[1]))\n"
        "print('up', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"up\n"
        with EngineClient(tmp_path / "engine.sock") as client:
            client.send(OPEN)
            assert client.receive() == wire.Ready()
            engines = psutil.Process(worker.pid).children(recursive=True)
            os.kill(worker.pid, signal.SIGKILL)

            _, alive = psutil.wait_procs(engines, timeout=ANSWER_TIMEOUT_S)
    assert len(engines) == 2
    assert alive == []
