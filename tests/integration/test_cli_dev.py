import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.command_line import build_environment, run_speechbus, start_speechbus
from tests.support.libretranslate import LibreTranslateServer
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats


class RunningDev(msgspec.Struct):
    """A `speechbus dev` that has said it is ready."""

    process: "subprocess.Popen[bytes]"
    lines: list[str]

    def address(self, name: str) -> str:
        """Return what it printed under this name."""
        return next(line for line in self.lines if line.startswith(f"{name} ")).split()[1]

    def family(self) -> dict[int, str]:
        """Return the command lines of all processes below it, by process id."""
        listed = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="],
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[int, str] = {}
        for line in listed.stdout.splitlines():  # parents have lower ids than their children
            pid, parent, arguments = line.split(maxsplit=2)
            if int(parent) == self.process.pid or int(parent) in found:
                found[int(pid)] = arguments
        return found

    def kill(self, service: str) -> None:
        """Kill its child process that runs a service."""
        pid = next(pid for pid, arguments in self.family().items() if service in arguments)
        os.kill(pid, signal.SIGKILL)

    def read_until(self, word: str) -> str:
        """Return the next line that holds a word."""
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            if word in (line := raw.decode()):
                return line
        raise AssertionError(f"it ended without a line with {word!r}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def start_dev(folder: Path, *arguments: str, **variables: str) -> RunningDev:
    process = start_speechbus(
        *["dev", "--listen", "127.0.0.1:0", "--workers", "1", "--providers", "echo"],
        *["--data", str(folder), *arguments],
        errors=subprocess.STDOUT,
        # Four stores of 512 MB each are reserved by default; tests share the machine.
        environment=build_environment(
            SPEECHBUS_BOOTSTRAP_AUDIO_BYTES_MAX=str(16 << 20), **variables
        ),
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("ready"):
        line = process.stdout.readline().decode()
        assert line, f"it ended before it was ready: {lines}"
        lines.append(line.rstrip("\n"))
    return RunningDev(process=process, lines=lines)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningDev]:
    started = start_dev(tmp_path / "data")
    with started.process:
        try:
            yield started
        finally:
            started.process.kill()


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """4 s of frame-numbered audio: every sample of the 20 ms frame k is k, from 1."""
    path = tmp_path / "numbered.wav"
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        for number in range(1, 201):
            writer.writeframes(struct.pack("<h", number) * 320)
    return path


def test_what_is_sent_comes_back_through_the_whole_system(
    running: RunningDev, numbered: Path
) -> None:
    """Every service does its part: the finals name each frame exactly once."""
    done = run_speechbus(
        "transcribe", "--fast", "--json", "--url", running.address("page"), str(numbered)
    )

    events = [json.loads(line) for line in done.stdout.splitlines()]
    texts = [event["text"] for event in events if event["type"] == "segment.final"]
    assert (done.returncode, texts) == (0, ["1-150", "151-200"])


def test_source_and_translations_are_shown_together(tmp_path: Path, numbered: Path) -> None:
    """`dev --translate` runs a translator, `transcribe --translate` says which is of what."""
    with LibreTranslateServer() as engine:
        started = start_dev(
            tmp_path / "data", "--translate", SPEECHBUS_TRANSLATOR_LIBRETRANSLATE_URL=engine.url
        )
        with started.process:
            try:
                done = run_speechbus(
                    *("transcribe", "--fast", "--language", "en", "--translate", "es,pt"),
                    *("--url", started.address("page"), str(numbered)),
                )
            finally:
                started.process.kill()

    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"transcribed by echo\n")
    finals = {"1-150": "0:00.0", "151-200": "0:03.0"}
    assert [line for line in lines if not line.startswith("    ")] == [
        "[0:00.0 - 0:03.0] 1-150",
        "[0:03.0 - 0:04.0] 151-200",
    ]
    # One that stands below another sentence than its own says where that began.
    told = {line.strip().replace(f" [{at}]", "") for line in lines for at in finals.values()}
    for text in finals:
        assert {f"{language}: [{language}] {text}" for language in ("es", "pt")} <= told


def test_the_demo_plays_a_passage_and_compares_said_with_heard(tmp_path: Path) -> None:
    """It is the first thing that anybody runs; here with five recordings of 0.1 s, by the echo."""
    folder = tmp_path / "speech" / "librivox-austen"
    folder.mkdir(parents=True)
    names = [f"sense_and_sensibility_01_austen_64kb-0{n}" for n in (870, 880, 890, 920, 930)]
    for name in names:
        with wave.open(str(folder / f"{name}.wav"), "wb") as writer:
            writer.setparams((1, 2, 16_000, 0, "NONE", ""))
            writer.writeframes(struct.pack("<h", 7) * 1_600)
    lines = [f"<s> text of {name[-4:]} </s> ({name})\n" for name in names]
    (folder / "transcription").write_text("".join(lines))

    done = run_speechbus(
        *["dev", "--demo", "--once", "--listen", "127.0.0.1:0", "--workers", "1"],
        *["--providers", "echo", "--speech", str(tmp_path / "speech")],
        SPEECHBUS_BOOTSTRAP_AUDIO_BYTES_MAX=str(16 << 20),
    )

    output = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    said = [line.split()[-1] for line in output.splitlines() if line.startswith("  said")]
    assert said == ["0920", "0930", "0870", "0880", "0890"]
    assert "Playing a LibriVox reader of Jane Austen" in output
    assert "Word error rate of the passage: " in output
    assert "after the first speech" in output
    assert "PocketSphinx" not in output  # it did not take part


def test_doctor_finds_it_well(running: RunningDev) -> None:
    """Both commands must agree on how things should be."""
    done = run_speechbus(
        *["doctor", "--nats-url", running.address("nats"), "--url", running.address("page")],
        SPEECHBUS_BOOTSTRAP_AUDIO_BYTES_MAX=str(16 << 20),
    )

    assert done.returncode == 0, done.stdout.decode()


def test_sigterm_ends_every_process(running: RunningDev) -> None:
    """Nothing of it may hold ports or memory afterwards, and a supervisor sees a clean end."""
    family = running.family()
    assert len(family) == 5  # NATS, correlator, transcriber, ingest and its decoders

    running.process.send_signal(signal.SIGTERM)

    assert running.process.wait(60) == 0
    assert [arguments for pid, arguments in family.items() if is_alive(pid)] == []


def test_sigterm_ends_every_process_also_when_nats_is_gone(tmp_path: Path) -> None:
    """A server of somebody else's, which went first: there was no stream, so nothing is lost."""
    with NatsServer(tmp_path / "nats") as nats:
        running = start_dev(tmp_path / "data", "--nats-url", nats.url)
        with running.process:
            family = running.family()
            nats.kill()
            running.process.send_signal(signal.SIGTERM)

            assert running.process.wait(60) == 0
    assert [arguments for pid, arguments in family.items() if is_alive(pid)] == []


def test_a_killed_service_comes_back(running: RunningDev, numbered: Path) -> None:
    """Somebody who kills a worker to see what happens finds a system that works."""
    running.kill("main transcriber")
    assert "transcriber-1 ended (SIGKILL)" in running.read_until("ended")

    done = run_speechbus("transcribe", "--fast", "--url", running.address("page"), str(numbered))

    assert done.returncode == 0
    assert [line.split("] ")[1] for line in done.stdout.decode().splitlines()] == [
        "1-150",
        "151-200",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals exist on Linux only")
def test_nothing_outlives_a_killed_dev(running: RunningDev) -> None:
    """The next start must find its ports free."""
    watches = [os.pidfd_open(pid) for pid in running.family()]

    running.process.kill()

    try:
        assert [bool(select.select([watch], [], [], 30.0)[0]) for watch in watches] == [True] * 5
    finally:
        for watch in watches:
            os.close(watch)


def test_a_second_one_finds_another_port_for_nats_and_says_so(
    running: RunningDev, tmp_path: Path
) -> None:
    """A NATS server on 4222 is common on a developer's machine."""
    second = start_dev(tmp_path / "second")
    with second.process:
        second.process.terminate()
        assert second.process.wait(60) == 0

    assert second.address("nats") not in {running.address("nats"), "nats://127.0.0.1:4222"}
    port = second.address("nats").rpartition(":")[2]
    assert f"port 4222 is taken; NATS listens on {port}" in second.lines


def test_two_cannot_share_a_data_folder(running: RunningDev, tmp_path: Path) -> None:
    """Two servers would destroy each other's store."""
    done = run_speechbus("dev", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"))

    assert done.returncode == 1
    assert b"Another `speechbus dev` uses" in done.stderr


def test_a_taken_address_is_said_before_anything_starts() -> None:
    """The remedy stands in the sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"

        done = run_speechbus("dev", "--listen", listen)

    assert (done.returncode, done.stdout) == (1, b"")
    assert f"{listen} is taken".encode() in done.stderr


@pytest.mark.parametrize(
    ("providers", "hint"),
    [
        ("foo", b"speechbus: --providers takes only palabra, kotoba, local, echo\n"),
        ("palabra", b"speechbus: --providers with palabra needs PALABRA_API_KEY, or PALABRA_CLI"),
    ],
)
def test_wrong_settings_of_a_service_are_said_before_anything_starts(
    tmp_path: Path, providers: str, hint: bytes
) -> None:
    """A wrong variable of one service is a sentence here, not a puzzle in a log."""
    arguments = ["dev", "--listen", "127.0.0.1:0", "--providers", providers]
    done = run_speechbus(*arguments, TMPDIR=str(tmp_path), SPEECHBUS_INGEST_CHUNK_MS="7")

    assert (done.returncode, done.stdout) == (2, b"")
    assert hint in done.stderr
    assert b"SPEECHBUS_INGEST_CHUNK_MS is outside" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_leaves_no_folder(tmp_path: Path) -> None:
    """Who mistypes an address three times should not have to tidy up."""
    done = run_speechbus(
        *["dev", "--listen", "127.0.0.1:0", "--nats-url", "nats://127.0.0.1:9"],
        TMPDIR=str(tmp_path),
    )

    assert (done.returncode, list(tmp_path.iterdir())) == (3, [])


def test_it_works_with_a_server_of_ones_own(tmp_path: Path, numbered: Path) -> None:
    """Then it starts no NATS, and leaves that one running."""
    with NatsServer(tmp_path / "nats") as server:
        started = start_dev(tmp_path / "data", "--nats-url", server.url)
        with started.process:
            done = run_speechbus(
                "transcribe", "--fast", "--url", started.address("page"), str(numbered)
            )
            started.process.send_signal(signal.SIGINT)
            assert started.process.wait(60) == 0

        assert done.returncode == 0
        assert started.address("nats") == server.url
        os.kill(server.pid, 0)
