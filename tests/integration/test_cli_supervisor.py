import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from speechbus_cli.errors import FailedError
from speechbus_cli.supervisor import RESTARTS_MAX, ChildSpec, Supervisor
from tests.support.command_line import build_environment

NOTE_SIGTERM = """
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[1])
def stop(*_):
    with out.open("a") as file: file.write(sys.argv[2] + " ended\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
with out.open("a") as file: file.write(sys.argv[2] + " started\\n")
while True: signal.pause()
"""


def child(folder: Path, name: str, script: str, *arguments: str, stop_order: int = 0) -> ChildSpec:
    return ChildSpec(
        name=name,
        command=(sys.executable, "-c", script, *arguments),
        environment=build_environment(),
        log_path=folder / f"{name}.log",
        stop_order=stop_order,
    )


async def until(claim: Callable[[], bool]) -> None:
    """Return when the claim holds; pytest's own timeout is the bound."""
    while not claim():  # noqa: ASYNC110  (other processes write it)
        await asyncio.sleep(0.01)


def test_children_end_in_their_order(tmp_path: Path) -> None:
    """Ingest must stop taking audio before those go who work on it, and NATS goes last."""
    out = tmp_path / "out"
    out.touch()

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            supervisor = Supervisor(group, say=print)
            for order, name in ((2, "nats"), (0, "ingest"), (1, "worker")):
                supervisor.start(
                    child(tmp_path, name, NOTE_SIGTERM, str(out), name, stop_order=order)
                )
            await until(lambda: out.read_text().count("started") == 3)
            await supervisor.stop()

    asyncio.run(run())
    ended = [line for line in out.read_text().splitlines() if line.endswith("ended")]
    assert ended == ["ingest ended", "worker ended", "nats ended"]


def test_a_child_that_dies_is_started_again_and_said_so(tmp_path: Path) -> None:
    """Killing a worker is the first thing that somebody tries."""
    out = tmp_path / "out"
    out.touch()
    said: list[str] = []

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            supervisor = Supervisor(group, say=said.append)
            script = f"import os\nprint(os.getpid(), flush=True)\n{NOTE_SIGTERM}"
            supervisor.start(child(tmp_path, "worker", script, str(out), "worker"))
            await until(lambda: out.read_text().count("started") == 1)
            os.kill(int((tmp_path / "worker.log").read_text()), signal.SIGKILL)
            await until(lambda: out.read_text().count("started") == 2)
            await supervisor.stop()

    asyncio.run(run())
    assert said == [
        f"worker ended (SIGKILL); starting it again in 0.25 s; its log: {tmp_path / 'worker.log'}"
    ]


def test_a_child_that_cannot_live_fails_the_whole_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restarting for ever would hide the reason."""
    monkeypatch.setattr("speechbus_cli.supervisor.BACKOFF_FIRST_S", 0.0)
    said: list[str] = []

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            supervisor = Supervisor(group, say=said.append)
            supervisor.start(child(tmp_path, "worker", "raise SystemExit(7)"))

    with pytest.raises(ExceptionGroup) as failed:
        asyncio.run(run())
    (error,) = failed.value.exceptions
    assert isinstance(error, FailedError)
    assert str(error).endswith(f"last with exit code 7: read its log, {tmp_path / 'worker.log'}.")
    assert len(said) == RESTARTS_MAX


def test_wrong_settings_are_not_tried_again(tmp_path: Path) -> None:
    """Exit code 2 says that a restart does not help, and the log says which setting."""

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            supervisor = Supervisor(group, say=print)
            script = "import sys; sys.stderr.write('X_PORT is no number\\n'); sys.exit(2)"
            supervisor.start(child(tmp_path, "ingest", script))

    with pytest.raises(ExceptionGroup) as failed:
        asyncio.run(run())
    assert "ingest has wrong settings: X_PORT is no number" in str(failed.value.exceptions[0])


def test_a_child_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C must end in bounded time whatever a service does."""
    monkeypatch.setattr("speechbus_cli.supervisor.STOP_TIMEOUT_S", 0.2)
    said: list[str] = []
    log = tmp_path / "stubborn.log"
    script = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "while True: signal.pause()"
    )

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            supervisor = Supervisor(group, say=said.append)
            supervisor.start(child(tmp_path, "stubborn", script))
            await until(lambda: log.exists() and log.read_text() == "deaf\n")
            await supervisor.stop()

    asyncio.run(run())
    assert said == [f"stubborn did not end within 0 s and was killed; its log: {log}"]


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals exist on Linux only")
def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    """`kill -9` of `speechbus dev` must leave no servers that hold ports."""
    script = (
        "import asyncio, os, sys, pathlib\n"
        "from speechbus_cli.supervisor import ChildSpec, Supervisor\n"
        "code = 'import os, signal; print(os.getpid(), flush=True); signal.pause()'\n"
        "async def run():\n"
        "    async with asyncio.TaskGroup() as group:\n"
        "        Supervisor(group, say=print).start(ChildSpec(name='a', stop_order=0,\n"
        "            command=(sys.executable, '-c', code), environment=dict(os.environ),\n"
        "            log_path=pathlib.Path('/dev/stdout')))\n"
        "asyncio.run(run())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        watch = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()

    try:
        assert select.select([watch], [], [], 10.0)[0]
    finally:
        os.close(watch)
