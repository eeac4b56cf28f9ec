"""Child processes that are restarted when they die and end in a given order."""

import asyncio
import itertools
import signal
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from speechbus_cli.die_with_parent import build_command
from speechbus_cli.errors import ExitCode, FailedError

__all__ = ["ChildSpec", "Supervisor"]

RESTARTS_MAX: Final = 5
RESTART_WINDOW_S: Final = 60.0
"""A process that dies more often than `RESTARTS_MAX` times in this span will not recover alone."""
BACKOFF_FIRST_S: Final = 0.25
"""Doubles with each restart within the window: all five take 8 s."""
STOP_TIMEOUT_S: Final = 15.0
"""More than a service's own drain takes; past this it hangs."""
LOG_TAIL_BYTES: Final = 4_096


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A process to keep running."""

    name: str
    command: tuple[str, ...]
    """Program with its full path, and arguments."""
    environment: Mapping[str, str]
    log_path: Path
    """Receives both outputs; appended to."""
    stop_order: int
    """Lower ends earlier; equal ones end together."""


class _Child:
    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.process: Process | None = None

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """Runs child processes in tasks of its owner's group.

    Args:
        group: owns the tasks; a child that cannot be kept alive fails it with `FailedError`.
        say: told, in a sentence, what a person should know.
    """

    def __init__(self, group: asyncio.TaskGroup, *, say: Callable[[str], None]) -> None:
        self._group = group
        self._say = say
        self._children: list[_Child] = []
        self._stopping = asyncio.Event()

    def start(self, spec: ChildSpec) -> None:
        """Start a child and keep it running until `stop`."""
        child = _Child(spec)
        self._children.append(child)
        self._group.create_task(self._keep_running(child), name=f"child:{spec.name}")

    async def stop(self) -> None:
        """End all children in their order; a cancelled stop kills what is left at once."""
        self._stopping.set()
        try:
            ordered = sorted(self._children, key=lambda child: child.spec.stop_order)
            for _, together in itertools.groupby(ordered, lambda child: child.spec.stop_order):
                await self._stop_together(list(together))
        finally:
            for child in self._children:
                child.send(signal.SIGKILL)

    async def _stop_together(self, children: list[_Child]) -> None:
        for child in children:
            # A frozen process would not see SIGTERM otherwise.
            child.send(signal.SIGCONT)
            child.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                for child in children:
                    if child.process is not None:
                        await child.process.wait()
        except TimeoutError:
            for child in children:
                if child.process is not None and child.process.returncode is None:
                    self._say(
                        f"{child.spec.name} did not end within {STOP_TIMEOUT_S:.0f} s and was"
                        f" killed; its log: {child.spec.log_path}"
                    )
                    child.send(signal.SIGKILL)
                    await child.process.wait()

    async def _keep_running(self, child: _Child) -> None:
        clock = asyncio.get_running_loop().time
        deaths: deque[float] = deque(maxlen=RESTARTS_MAX + 1)
        while not self._stopping.is_set():
            code = await self._run_once(child)
            if self._stopping.is_set():
                return
            deaths.append(clock())
            recent = sum(1 for at_s in deaths if at_s > clock() - RESTART_WINDOW_S)
            self._give_up_if_hopeless(child.spec, code, recent)
            backoff_s = BACKOFF_FIRST_S * 2 ** (recent - 1)
            self._say(
                f"{child.spec.name} ended ({_describe_code(code)}); starting it again in"
                f" {backoff_s:g} s; its log: {child.spec.log_path}"
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await self._stopping.wait()

    async def _run_once(self, child: _Child) -> int:
        spec = child.spec
        with spec.log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *build_command(list(spec.command)),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(spec.environment),
                # A group of its own, so that Ctrl-C reaches only the parent, which knows the order.
                process_group=0,
            )
        child.process = process
        if self._stopping.is_set():  # `stop` did not see this process
            child.send(signal.SIGKILL)
        return await process.wait()

    def _give_up_if_hopeless(self, spec: ChildSpec, code: int, recent: int) -> None:
        if code == ExitCode.SETTINGS:
            raise FailedError(
                f"{spec.name} has wrong settings: {_last_line(spec.log_path)} (all of its log:"
                f" {spec.log_path})"
            )
        if recent > RESTARTS_MAX:
            raise FailedError(
                f"{spec.name} ended {recent} times within {RESTART_WINDOW_S:.0f} s, last with"
                f" {_describe_code(code)}: read its log, {spec.log_path}."
            )


def _describe_code(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _last_line(path: Path) -> str:
    with path.open("rb") as log:
        log.seek(max(path.stat().st_size - LOG_TAIL_BYTES, 0))
        lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
