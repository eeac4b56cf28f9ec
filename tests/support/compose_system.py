"""What `docker compose up` starts, as processes of this machine: nothing is said but by the file.

Each container has an address of its own on loopback, so ports are those of the file. Names of
services become addresses, paths in a container become folders, and that is all that differs.
"""

import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from speechbus_cli.die_with_parent import build_command
from tests.support.compose_file import ComposeFile, ComposeService
from tests.support.dockerfile import read_stages

__all__ = ["ComposeSystem", "Container", "ContainerError"]

START_TIMEOUT_S: Final = 90.0
"""Seconds on an idle machine."""
POLL_INTERVAL_S: Final = 0.05
LOG_LINES: Final = 15
_WGET: Final = """\
#!{python}
import sys, urllib.request
match sys.argv[1:]:  # what BusyBox's takes, and the file uses
    case ["-q", "-O", "/dev/null", url]:
        urllib.request.urlopen(url, timeout=3).read()
    case other:
        sys.exit(f"wget: {{other}}")
"""


class ContainerError(Exception):
    """A container did not do what the file promises; the text ends with its log."""


class Container:
    """One process, in what it would see as a container."""

    def __init__(
        self, name: str, service: ComposeService, *, file: ComposeFile, folder: Path, address: str
    ) -> None:
        self.name = name
        self.address = address
        self.log_path = folder / f"{name}.log"
        self._service = service
        self._folder = folder
        self._root = folder / name
        self._process: subprocess.Popen[bytes] | None = None
        self._secrets = {use.target: Path(file.secrets[use.source].file) for use in service.secrets}

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self, addresses: Mapping[str, str]) -> None:
        """Mount what the file mounts and run the command."""
        self._mount(addresses)
        command = self._command(self._service.command or self._image_command("CMD"), addresses)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                build_command(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(addresses),
            )

    def is_healthy(self, addresses: Mapping[str, str]) -> bool:
        """Run the health check once.

        Raises:
            ContainerError: the container has ended.
        """
        if not self.is_running:
            raise ContainerError(f"{self.name} has ended\n{self.read_log_end()}")
        check = self._service.healthcheck
        test = check.test if check is not None else self._image_command("HEALTHCHECK")
        assert test[0] == "CMD", test
        command = self._command(test[1:], addresses)
        done = subprocess.run(
            command, env=self._environment(addresses), capture_output=True, timeout=30, check=False
        )
        return done.returncode == 0

    def wait_for_exit(self, timeout_s: float) -> int | None:
        """Return the exit code; None: killed, since it did not end in time."""
        try:
            return self._running().wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def request_stop(self) -> None:
        """Send SIGTERM."""
        self._running().send_signal(signal.SIGTERM)

    def finish_stop(self) -> int | None:
        """Return the exit code; None: killed after the grace period that the file gives."""
        return self.wait_for_exit(self._service.grace_s)

    def kill(self) -> None:
        """End it at once."""
        process = self._running()
        process.kill()
        process.wait()

    def read_log_end(self) -> str:
        """Return the last lines of its log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join([f"end of {self.log_path}:", *lines[-LOG_LINES:]])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    def _mount(self, addresses: Mapping[str, str]) -> None:
        for mount in sorted(self._service.volumes, key=lambda mount: mount.target):
            target = self._inside(mount.target)
            if mount.type == "volume":
                target.mkdir(parents=True, exist_ok=True)
            else:
                self._copy(Path(mount.source), target, addresses)
        for secret, source in self._secrets.items():
            self._copy(source, self._inside(secret), addresses)

    def _copy(self, source: Path, target: Path, addresses: Mapping[str, str]) -> None:
        """Copy a mounted file or folder, its addresses changed."""
        files = [source] if source.is_file() else [f for f in source.rglob("*") if f.is_file()]
        for file in files:
            copy = target if source.is_file() else target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            copy.write_text(self._translate_hosts(file.read_text(), addresses))

    def _environment(self, addresses: Mapping[str, str]) -> dict[str, str]:
        build = self._service.build
        image = {"SPEECHBUS_SERVICE": build.args["SERVICE"]} if build else {}
        given = {
            name: self._translate(value, addresses)
            for name, value in self._service.environment.items()
            if value is not None  # would be the host's
        }
        return {"PATH": self._path(), **image, **given}

    def _command(self, command: Sequence[str], addresses: Mapping[str, str]) -> list[str]:
        program, *arguments = command
        found = shutil.which(program, path=self._path())
        assert found is not None, program
        return [found, *(self._translate(one, addresses) for one in arguments)]

    def _path(self) -> str:
        return f"{self._folder / 'bin'}:{sysconfig.get_path('scripts')}:/usr/bin:/bin"

    def _image_command(self, name: str) -> list[str]:
        """Return what the image's CMD or HEALTHCHECK says, the latter with its own CMD before."""
        assert self._service.build is not None, f"{self.name} has no {name}"
        (text,) = read_stages()[-1].texts(name)
        command = msgspec.json.decode(text[text.index("[") :], type=list[str])
        return ["CMD", *command] if name == "HEALTHCHECK" else command

    def _translate(self, text: str, addresses: Mapping[str, str]) -> str:
        targets = [*(mount.target for mount in self._service.volumes), *self._secrets]
        for target in sorted(targets, key=len, reverse=True):
            inside = re.escape(target)
            text = re.sub(rf"(?<![\w.]){inside}(?=/|$)", str(self._inside(target)), text)
        return self._translate_hosts(text, addresses)

    def _translate_hosts(self, text: str, addresses: Mapping[str, str]) -> str:
        for name, address in addresses.items():
            text = re.sub(rf"(://|@){re.escape(name)}(?=[:/]|$)", rf"\g<1>{address}", text)
        return re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1)\b", self.address, text)

    def _inside(self, path: str) -> Path:
        return self._root / path.lstrip("/")


class ComposeSystem:
    """All containers of a file; a context manager like `System`."""

    def __init__(self, file: ComposeFile, folder: Path) -> None:
        """Prepare it; nothing runs before `up`.

        Args:
            file: what to start, profiles chosen.
            folder: gets logs, volumes and what is mounted.
        """
        self._file = file
        self._folder = folder
        self._network = f"127.{random.randrange(16, 250)}.{random.randrange(250)}"
        self._n_addresses = 1
        self.containers: dict[str, list[Container]] = {name: [] for name in file.services}
        self.addresses = {name: self._next_address() for name in file.services}

    def find_published(self, name: str) -> str:
        """Return host and port of a service's one published port."""
        (port,) = self._file.services[name].ports
        return f"{self.addresses[name]}:{port.target}"

    def up(self) -> None:
        """Start all, each after what it depends on, and return when all are healthy.

        Raises:
            ContainerError: one did not come up.
        """
        shim = self._folder / "bin" / "wget"
        shim.parent.mkdir(parents=True, exist_ok=True)
        shim.write_text(_WGET.format(python=sys.executable))
        shim.chmod(0o755)
        waiting = dict(self._file.services)
        while waiting:
            ready = {
                name: service
                for name, service in waiting.items()
                if not waiting.keys() & service.depends_on.keys()
            }
            assert ready, f"they wait for each other: {', '.join(waiting)}"
            for name, service in ready.items():
                for needed, dependency in service.depends_on.items():
                    if needed in self._file.services:
                        self._await_condition(needed, dependency.condition)
                for _ in range(service.scale):
                    self._add(name)
                del waiting[name]
        for name in self._file.services:
            self.await_healthy(name)

    def await_healthy(self, name: str) -> None:
        """Return when all containers of a service are healthy, where it has a health check."""
        check = self._file.services[name].healthcheck
        if check is not None and check.disable:
            return
        deadline_s = time.monotonic() + START_TIMEOUT_S
        for container in self.containers[name]:
            while not container.is_healthy(self.addresses):
                if time.monotonic() > deadline_s:
                    raise ContainerError(f"{container.name} not well\n{container.read_log_end()}")
                time.sleep(POLL_INTERVAL_S)

    def scale(self, name: str, count: int) -> dict[str, int | None]:
        """Start or stop containers as `--scale` would; return how those that stopped ended."""
        running = self.containers[name]
        while len(running) < count:
            self._add(name)
        self.await_healthy(name)
        leaving = running[count:]
        del running[count:]
        return _stop(leaving)

    def stop(self, *, without: Sequence[str] = ()) -> dict[str, int | None]:
        """Stop all, dependents first; return each exit code, None: it had to be killed.

        Args:
            without: services that are gone already.
        """
        ends: dict[str, int | None] = {}
        left = [name for name in self._file.services if name not in without]
        while left:
            needed = {need for name in left for need in self._file.services[name].depends_on}
            level = [name for name in left if name not in needed]
            ends |= _stop([c for name in level for c in self.containers[name] if c.is_running])
            left = [name for name in left if name not in level]
        return ends

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
        if error is not None:
            for log in sorted(self._folder.glob("*.log")):
                lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                error.add_note("\n".join([f"end of {log}:", *lines]))

    def _end(self) -> None:
        for container in [c for several in self.containers.values() for c in several]:
            if container.is_running:
                container.kill()

    def _add(self, name: str) -> None:
        number = len(self.containers[name]) + 1
        container = Container(
            f"{name}-{number}",
            self._file.services[name],
            file=self._file,
            folder=self._folder,
            address=self.addresses[name] if number == 1 else self._next_address(),
        )
        self.containers[name].append(container)
        container.start(self.addresses)

    def _await_condition(self, name: str, condition: str) -> None:
        match condition:
            case "service_healthy":
                self.await_healthy(name)
            case "service_completed_successfully":
                for container in self.containers[name]:
                    if code := container.wait_for_exit(START_TIMEOUT_S):
                        end = container.read_log_end()
                        raise ContainerError(f"{container.name} ended with {code}\n{end}")
            case _:
                pass

    def _next_address(self) -> str:
        self._n_addresses += 1
        return f"{self._network}.{self._n_addresses}"


def _stop(containers: Sequence[Container]) -> dict[str, int | None]:
    for container in containers:
        container.request_stop()
    return {container.name: container.finish_stop() for container in containers}
