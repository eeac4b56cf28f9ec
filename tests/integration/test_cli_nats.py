import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import nats
import pytest

from speechbus_contracts import LiveSubject, TranscriptSubject, WorkerHeartbeat, encode_event
from tests.support.command_line import run_speechbus, start_speechbus
from tests.support.nats_server import NatsServer
from tests.support.stand_in_door import STREAM_ID, build_final, build_partial

pytestmark = pytest.mark.nats

OTHER_STREAM = "0198c0de-0000-7000-8000-000000000002"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


def test_bootstrap_creates_everything_once(server: NatsServer) -> None:
    """It runs at every deployment, so the second time must change nothing."""
    first = run_speechbus("bootstrap", "--nats-url", server.url)
    second = run_speechbus("bootstrap", SPEECHBUS_NATS_URL=server.url)

    names = [line.split()[1] for line in first.stdout.decode().splitlines()]
    assert names == [
        *[f"AUDIO_{shard}" for shard in range(4)],
        *[
            "JOBS",
            "TRANSCRIPT",
            "CAPTION",
            "SESSION",
            "PROVIDER",
            "JOBS/pool",
            "TRANSCRIPT/correlator-segments",
            "TRANSCRIPT/translator-segments",
        ],
    ]
    assert {line.split()[0] for line in first.stdout.decode().splitlines()} == {"created"}
    assert {line.split()[0] for line in second.stdout.decode().splitlines()} == {"unchanged"}
    assert (first.returncode, second.returncode) == (0, 0)


def test_bootstrap_reports_what_differs_and_overwrites_nothing(server: NatsServer) -> None:
    """An operator changed it on purpose, or by mistake: that is for a person to decide."""
    run_speechbus("bootstrap", "--nats-url", server.url)

    done = run_speechbus(
        "bootstrap", "--nats-url", server.url, SPEECHBUS_BOOTSTRAP_RETENTION_S="7200"
    )

    assert done.returncode == 1
    assert b"max_age: is 86400000000000, should be 7200000000000" in done.stdout
    assert b"TRANSCRIPT, CAPTION differ" in done.stderr


def test_bootstrap_says_when_there_are_fewer_servers_than_replicas(server: NatsServer) -> None:
    """The server's own words name neither the setting nor the number."""
    done = run_speechbus("bootstrap", "--nats-url", server.url, SPEECHBUS_BOOTSTRAP_REPLICAS="3")

    assert done.returncode == 1
    assert b"too few servers for so many replicas (1 here)" in done.stderr


def test_bootstrap_without_a_server_ends_with_3_and_hides_the_password() -> None:
    """The error text goes to logs of deployments."""
    done = run_speechbus("bootstrap", "--nats-url", "nats://me:s3cr3t@127.0.0.1:9")

    assert done.returncode == 3
    assert b"nats://127.0.0.1:9" in done.stderr
    assert (done.stderr.count(b"\n"), b"s3cr3t" in done.stderr) == (1, False)


def test_bootstrap_with_a_wrong_user_ends_with_4(tmp_path: Path) -> None:
    """Waiting would not help."""
    config = tmp_path / "nats.conf"
    config.write_text("authorization { user: me, password: right }\n")
    with NatsServer(tmp_path / "nats", config=config) as server:
        url = server.url.replace("nats://", "nats://me:wr0ng@")

        done = run_speechbus("bootstrap", "--nats-url", url)

    assert done.returncode == 4
    assert (done.stderr.count(b"\n"), b"wr0ng" in done.stderr) == (1, False)


def test_wrong_bootstrap_settings_are_all_named(server: NatsServer) -> None:
    """One run must be enough to mend them."""
    done = run_speechbus(
        "bootstrap",
        "--nats-url",
        server.url,
        SPEECHBUS_BOOTSTRAP_SHARDS="none",
        SPEECHBUS_BOOTSTRAP_REPLICAS="9",
    )

    assert done.returncode == 2
    assert b"SPEECHBUS_BOOTSTRAP_SHARDS" in done.stderr
    assert b"SPEECHBUS_BOOTSTRAP_REPLICAS" in done.stderr


def test_doctor_names_what_is_missing_and_what_to_do(server: NatsServer) -> None:
    """Each finding comes with the command that mends it."""
    done = run_speechbus(
        *("doctor", "--nats-url", server.url, "--url", "ws://127.0.0.1:9"),
        SPEECHBUS_BOOTSTRAP_REPLICAS="3",
        KOTOBA_API_KEY="the-key",
        PALABRA_CLIENT_ID="me",
        SPEECHBUS_CORRELATOR_DEADLINE_S="2",
    )

    text = done.stdout.decode()
    assert done.returncode == 1
    assert "PALABRA_CLIENT_ID and PALABRA_CLIENT_SECRET come together" in text
    assert "the-key" not in text
    assert "3 replicas need as many servers" in text
    assert "STEP_IN_S to less than SPEECHBUS_CORRELATOR_DEADLINE_S" in text
    assert text.count("Create it: `speechbus bootstrap`.") == 12
    assert "speechbus transcriber" in text
    assert "speechbus ingest" in text


def test_doctor_hears_a_transcriber(server: NatsServer) -> None:
    """Heartbeats tell whether anybody would take a stream."""
    run_speechbus("bootstrap", "--nats-url", server.url)
    beat = WorkerHeartbeat(worker="w1", sessions=1, capacity=10)

    async def beat_while_doctor_looks() -> str:
        async with await nats.connect(server.url) as connection:  # pyright: ignore[reportUnknownMemberType]
            doctor = await asyncio.to_thread(
                start_speechbus, "doctor", "--nats-url", server.url, "--url", "ws://127.0.0.1:9"
            )
            looking = asyncio.get_running_loop().run_in_executor(None, doctor.communicate)
            while not looking.done():
                await connection.publish("speech.v1.worker.w1.heartbeat", encode_event(beat))
                await asyncio.wait([looking], timeout=0.1)
            return (await looking)[0].decode()

    text = asyncio.run(beat_while_doctor_looks())
    assert "route from here: local (no account in this environment: palabra, kotoba)" in text
    assert "made up for after 2.5 s, captions wait 5 s" in text
    assert "1 alive, 1 of 10 streams" in text
    assert text.count("present") == 12


def test_watch_shows_one_streams_events_as_json(server: NatsServer) -> None:
    """Other programs start from `speechbus watch STREAM --json`."""
    final = encode_event(build_final("good morning"))
    subject = str(TranscriptSubject("dev", STREAM_ID, "final"))
    other = str(TranscriptSubject("dev", OTHER_STREAM, "final"))

    lines = watch_until(
        server.url, "--json", STREAM_ID, messages=[(other, b"{}"), (subject, final)]
    )

    assert set(lines) == {final}


def test_watch_on_a_pipe_prints_what_stays(server: NatsServer) -> None:
    """Partials are for terminals; a pipe gets lines that are true for good."""
    partial = str(LiveSubject("dev", STREAM_ID, "partial")), encode_event(build_partial("good"))
    final = (
        str(TranscriptSubject("dev", STREAM_ID, "final")),
        encode_event(build_final("good morning")),
    )

    lines = watch_until(server.url, messages=[partial, final])

    assert lines == [f"{STREAM_ID}  [0:00.0 - 0:00.8] good morning".encode()]


def test_watch_goes_on_after_the_server_came_back(server: NatsServer) -> None:
    """A restart of NATS should not end a tail that somebody left running."""
    final = encode_event(build_final("good morning"))
    subject = str(TranscriptSubject("dev", STREAM_ID, "final"))

    with start_speechbus("watch", "--json", "--nats-url", server.url) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        asyncio.run(repeat_until_line(server.url, [(subject, final)], watching.stdout))
        server.kill()
        assert b"connection to NATS lost" in watching.stderr.readline()
        server.start()
        line = asyncio.run(repeat_until_line(server.url, [(subject, final)], watching.stdout))
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=30)

    assert json.loads(line)["text"] == "good morning"
    assert watching.returncode == 130


def watch_until(url: str, *arguments: str, messages: list[tuple[str, bytes]]) -> list[bytes]:
    """Repeat messages until `speechbus watch` shows one; return all lines it shows."""
    with start_speechbus("watch", "--nats-url", url, *arguments) as watching:
        assert watching.stdout is not None
        line = asyncio.run(repeat_until_line(url, messages, watching.stdout))
        watching.send_signal(signal.SIGINT)
        rest, _ = watching.communicate(timeout=30)
    assert watching.returncode == 130
    return [line.rstrip(b"\n"), *rest.splitlines()]


async def repeat_until_line(
    url: str, messages: list[tuple[str, bytes]], output: IO[bytes]
) -> bytes:
    """Publish the messages again and again until a line comes out: core NATS keeps nothing."""
    async with await nats.connect(url) as connection:  # pyright: ignore[reportUnknownMemberType]
        reading = asyncio.get_running_loop().run_in_executor(None, output.readline)
        while not reading.done():
            for subject, payload in messages:
                await connection.publish(subject, payload)
            await connection.flush()
            await asyncio.wait([reading], timeout=0.1)
        return await reading
