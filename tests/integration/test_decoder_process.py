"""Decoder processes: what they survive, what they are held to, and how they end."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import pytest

from speechbus_ingest.formats.decoder_session import DATA_BYTES_MAX
from speechbus_ingest.formats.decoder_wire import HEAD, Job, Kind
from speechbus_ingest.formats.names import CONTAINERS, Container
from tests.support.decoder import ANSWER_TIMEOUT_S, DecoderClient, DecoderProcess
from tests.support.encoded import SAMPLE_RATES_HZ, build_tone, encode
from tests.support.mutations import mutate

MUTATED: Final = 200
"""Each is a process of its own, 20 ms; `benchmarks.fuzz_formats` runs as many as one likes."""
ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DecoderProcess]:
    with DecoderProcess(tmp_path_factory.mktemp("decoders")) as running:
        yield running


def record(container: Container, seconds: float = 0.5) -> bytes:
    """A short recording."""
    rate = SAMPLE_RATES_HZ[container]
    return encode(container, build_tone(rate, seconds), sample_rate_hz=rate)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_recording_is_decoded_under_all_limits(
    decoders: DecoderProcess, container: Container
) -> None:
    """No file, no thread and no process may be needed for it."""
    pcm, problem = decoders.decode(Job(container), record(container))

    assert problem is None
    assert len(pcm) >= SAMPLE_RATES_HZ[container]  # half a second


def test_samples_come_before_more_is_asked_for(decoders: DecoderProcess) -> None:
    """The first message of a live sender is heard at once, and the decoder says when it waits."""
    data = record("webm")
    with decoders.connect(Job("webm")) as client:
        client.send(data[:1_500])
        kinds: list[Kind] = []
        while (frame := client.receive()) != (Kind.IDLE, (1_500).to_bytes(8, "little")):
            assert frame is not None
            kinds.append(frame[0])
        child = max(decoders.children, key=lambda process: process.create_time())
        limits = {
            what: child.rlimit(what)
            for what in (psutil.RLIMIT_NOFILE, psutil.RLIMIT_NPROC, psutil.RLIMIT_FSIZE)
        }
        data_limit = child.rlimit(psutil.RLIMIT_DATA)

    assert kinds[-2:] == [Kind.STARTED, Kind.PCM]
    assert set(limits.values()) == {(0, 0)}
    assert data_limit == (DATA_BYTES_MAX, DATA_BYTES_MAX)


def test_mutated_recordings_neither_crash_nor_hang_nor_grow(decoders: DecoderProcess) -> None:
    """Whatever strangers send: all samples, or some and one word on why not all."""
    seed = random.Random(20261129)
    recordings = {container: record(container, 0.3) for container in CONTAINERS}
    ends: set[str | None] = set()
    for _ in range(MUTATED):
        container = seed.choice(CONTAINERS)
        pcm, end = decoders.decode(Job(container), mutate(recordings[container], seed))
        ends.add(end)
        assert len(pcm) < 1 << 20

    assert (
        ends == {None, "damaged", "truncated", "codec", "sample_rate", "changed", "no_audio"} & ends
    )
    assert {None, "damaged", "truncated"} <= ends
    assert decoders.process.poll() is None


def serve_with(patch: str) -> tuple[int, bytes]:
    """Serve one stream with a decoder that was tampered with; return exit code and last frames."""
    ours, theirs = socket.socketpair()
    program = (
        "import socket, sys, time\n"
        "from speechbus_ingest.formats import containers, decoder_session as session\n"
        "session.prepare()\n"
        f"{patch}\n"
        "session.limit_process()\n"
        "session.serve_stream(socket.socket(fileno=int(sys.argv[1])))\n"
    )
    with ours:
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        job = b'{"container":"webm"}'
        ours.sendall(HEAD.pack(len(job), 0) + job + record("webm"))
        ours.shutdown(socket.SHUT_WR)
        ours.settimeout(ANSWER_TIMEOUT_S)
        received = b""
        with suppress(ConnectionResetError):
            while data := ours.recv(65_536):
                received += data
        return child.wait(ANSWER_TIMEOUT_S), received


@pytest.mark.parametrize(
    "hang",
    ["while True: pass", "time.sleep(999)"],
    ids=["spins", "sleeps"],
)
def test_a_decoder_that_hangs_is_killed(hang: str) -> None:
    """Its stream gets an error, and its place is free again."""
    code, received = serve_with(
        f"session.STEP_S_MAX = 0.1\ndef decode(*_):\n    {hang}\n    yield\nsession.decode = decode"
    )

    assert (code, received) == (-signal.SIGALRM, b"")


def test_audio_that_is_too_costly_is_refused() -> None:
    """A second of audio costs milliseconds; who finds some that costs much more gets no further."""
    _, received = serve_with("session.CPU_START_S = session.CPU_PER_AUDIO_S = 0.0")

    assert received.endswith(b"costly")


def test_a_decoder_that_wants_too_much_memory_is_refused() -> None:
    """By the kernel; the machine goes on."""
    _, received = serve_with("containers._Decoding.run = lambda *_: [bytearray(1 << 30)]")

    assert received.endswith(b"costly")


def test_nothing_but_ingest_keeps_decoders_alive(tmp_path: Path) -> None:
    """An ingest lost to SIGKILL leaves no process behind."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.support.decoder import DecoderProcess\n"
        "decoders = DecoderProcess(Path(sys.argv[1]))\n"
        "print('up', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as ingest:
        assert ingest.stdout is not None
        assert ingest.stdout.readline() == b"up\n"
        with DecoderClient(tmp_path / "decoders", Job("ogg")) as client:
            assert client.receive() == (Kind.IDLE, bytes(8))
            processes = psutil.Process(ingest.pid).children(recursive=True)
            os.kill(ingest.pid, signal.SIGKILL)

            _, alive = psutil.wait_procs(processes, timeout=ANSWER_TIMEOUT_S)
    assert len(processes) == 2
    assert alive == []
