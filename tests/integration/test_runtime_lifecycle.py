"""Start, signals and end of real service processes.

Where a process blocks its loop, it sleeps in short pieces: a signal that arrives between Python's
last look for signals and the system call would wait for the end of one long sleep.
"""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

EXIT_TIMEOUT_S = 60.0
"""Beyond every bound in use; only a hang reaches it."""

PROLOGUE = """
import asyncio, sys, time
from speechbus_runtime import lifecycle
from speechbus_runtime.lifecycle import run_service
from speechbus_runtime.logs import configure_logs
from speechbus_runtime.settings import read_settings, SettingsError
import msgspec
patience = dict(stop_within_s=20.0, cancel_within_s=20.0, close_within_s=20.0, margin_s=20.0)
patience.update({name: 0.3 for name in sys.argv[1:]})
lifecycle.CANCEL_WITHIN_S = patience["cancel_within_s"]
lifecycle.CLOSE_WITHIN_S = patience["close_within_s"]
lifecycle.BLOCKED_LOOP_MARGIN_S = patience["margin_s"]
configure_logs(service="pool", json_lines=True)
def say(word):
    print(word, flush=True)
"""
EPILOGUE = """
sys.exit(run_service(serve, service="pool", stop_within_s=patience["stop_within_s"]))
"""


def start(serve: str, *bounds: str) -> "subprocess.Popen[str]":
    """Start a service process with the given source of `serve`.

    The named bounds are short; the others are so long that a busy machine never reaches them.
    """
    return subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + serve + EPILOGUE, *bounds],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Send a line; return exit code, stdout and stderr of a process that is about to end."""
    with process:
        try:
            out, err = process.communicate("\n", timeout=EXIT_TIMEOUT_S)
        finally:
            process.kill()
    return process.returncode, out, err


def signalled(
    serve: str, *numbers: signal.Signals, bounds: tuple[str, ...] = ()
) -> tuple[int, str, str]:
    """Start a service, send it each signal after a line it says, return how it ended."""
    process = start(serve, *bounds)
    assert process.stdout is not None
    for number in numbers:
        assert process.stdout.readline()
        process.send_signal(number)
    return finish(process)


def events_of(err: str) -> list[str]:
    """Return the events of the JSON lines on stderr."""
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in err.splitlines()]
    return [str(line["event"]) for line in lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_service_drain(number: signal.Signals) -> None:
    """What is in hand is handed over before the process ends."""
    serve = """
async def serve(stop):
    say("up")
    await stop.wait()
    await asyncio.sleep(0)
    say(f"drained after {stop.reason} {stop.is_set()}")
"""
    code, out, err = signalled(serve, number)

    assert (code, out) == (0, f"drained after {number.name} True\n")
    assert events_of(err) == ["stop requested"]


def test_a_service_that_returns_by_itself_ends_cleanly() -> None:
    """One-shot services need no signal."""
    assert finish(start("async def serve(stop): say('done')")) == (0, "done\n", "")


def test_a_drain_that_hangs_is_cancelled() -> None:
    """A bus that is away must not keep a process from ending; the farewells still run."""
    serve = """
async def serve(stop):
    say("up")
    try:
        await asyncio.Event().wait()
    finally:
        say("farewell")
"""
    code, out, err = signalled(serve, signal.SIGTERM, bounds=("stop_within_s",))

    assert (code, out) == (1, "farewell\n")
    assert events_of(err) == ["stop requested", "stop took too long, cancelling"]


def test_a_drain_that_was_cut_short_is_no_clean_stop() -> None:
    """Work was left behind, even when the service then returned without an error."""
    serve = """
async def serve(stop):
    say("up")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass
"""
    assert signalled(serve, signal.SIGTERM, bounds=("stop_within_s",))[0] == 1


def test_a_drain_that_ignores_its_cancellation_is_ended() -> None:
    """Even a bug in the farewells costs bounded time."""
    serve = """
async def serve(stop):
    say("up")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            say("not yet")
"""
    bounds = ("stop_within_s", "cancel_within_s")
    code, out, err = signalled(serve, signal.SIGTERM, bounds=bounds)

    assert (code, out) == (1, "not yet\n")
    assert events_of(err)[-1] == "cancelling took too long, exiting"


def test_a_blocked_event_loop_is_ended_and_shows_where() -> None:
    """No timer of the loop runs then; the stack tells what blocked it."""
    serve = """
async def serve(stop):
    say("up")
    block_for_ever()
def block_for_ever():
    while True:
        time.sleep(0.01)
"""
    bounds = ("stop_within_s", "cancel_within_s", "margin_s")
    code, _, err = signalled(serve, signal.SIGTERM, bounds=bounds)

    assert code == 1
    assert "in block_for_ever" in err


def test_an_executor_thread_that_hangs_is_ended() -> None:
    """Closing the loop waits for such threads, without a bound of its own."""
    serve = """
async def serve(stop):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 1000)
"""
    assert finish(start(serve, "close_within_s"))[0] == 1


def test_a_second_interrupt_ends_the_process_at_once() -> None:
    """Whoever presses Ctrl-C twice means it."""
    serve = """
async def serve(stop):
    say("up")
    await stop.wait()
    say("draining")
    while True:
        time.sleep(0.01)
"""
    code, _, err = signalled(serve, signal.SIGINT, signal.SIGINT)

    assert code == 130
    assert events_of(err) == ["stop requested"]


def test_an_interrupt_after_a_termination_lets_the_drain_go_on() -> None:
    """`speechbus dev` terminates its children while the terminal interrupts them."""
    serve = """
async def serve(stop):
    say("up")
    await stop.wait()
    say("draining")
    await asyncio.to_thread(sys.stdin.readline)
    say("drained")
"""
    code, out, _ = signalled(serve, signal.SIGTERM, signal.SIGINT)

    assert (code, out) == (0, "drained\n")


def test_an_error_is_logged_once_with_its_traceback() -> None:
    """A supervisor restarts; a person finds one line with all of it."""
    serve = """
async def serve(stop):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
async def fail():
    raise OSError("no bus at nats://user:hush@bus")
"""
    code, _, err = finish(start(serve))
    (line,) = err.splitlines()
    fields = msgspec.json.decode(line, type=dict[str, object])

    assert code == 1
    assert (fields["event"], fields["level"]) == ("service failed", "ERROR")
    assert "OSError: no bus at nats://[redacted]@bus" in str(fields["traceback"])


def test_wrong_settings_are_told_without_a_traceback() -> None:
    """The reader is the one who deploys; exit code 2 says that a restart does not help."""
    serve = """
class Settings(msgspec.Struct, frozen=True, kw_only=True):
    nats_url: str
    sessions_max: int
async def serve(stop):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
async def read():
    read_settings(Settings, prefix="POOL_", environ={"POOL_SESSIONS_MAX": "many"})
"""
    assert finish(start(serve)) == (
        2,
        "",
        "pool: the settings are wrong\n"
        "POOL_NATS_URL is required and not set; write a text\n"
        "POOL_SESSIONS_MAX is not a whole number; write a whole number\n",
    )
