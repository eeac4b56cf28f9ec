"""docker-compose.yml as Compose itself reads it: merged, interpolated, paths made absolute."""

import re
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from tests.support.dockerfile import REPOSITORY

__all__ = [
    "COMPOSE_FILE",
    "ComposeError",
    "ComposeFile",
    "ComposeService",
    "read_compose",
    "read_duration_s",
]

COMPOSE_FILE: Final = REPOSITORY / "docker-compose.yml"
_UNITS: Final[Mapping[str, float]] = {"h": 3_600, "m": 60, "s": 1, "ms": 0.001}

Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]


class ComposeError(Exception):
    """Compose does not take the file; the text is what it says."""


class Dependency(msgspec.Struct, frozen=True):
    """What a service waits for."""

    condition: Condition
    required: bool = True


class HealthCheck(msgspec.Struct, frozen=True):
    """How the engine asks a container."""

    test: list[str] = []
    disable: bool = False


class Build(msgspec.Struct, frozen=True):
    """How the image is made."""

    context: str
    dockerfile: str
    args: dict[str, str]


class SecretUse(msgspec.Struct, frozen=True):
    """Where a secret is seen in a container."""

    source: str
    target: str


class Mount(msgspec.Struct, frozen=True):
    """A folder or file of the host, or a volume."""

    type: Literal["bind", "volume"]
    source: str
    target: str
    read_only: bool = False


class Port(msgspec.Struct, frozen=True):
    """A published port."""

    target: int
    published: str
    host_ip: str = ""


class Limits(msgspec.Struct, frozen=True):
    """What a container may use."""

    memory: str
    pids: int


class Resources(msgspec.Struct, frozen=True):
    """Its limits."""

    limits: Limits


class Deploy(msgspec.Struct, frozen=True):
    """Only the resources of it count here."""

    resources: Resources


class ComposeService(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says of one service; what is missing here is not looked at."""

    image: str
    restart: str
    stop_grace_period: str
    deploy: Deploy
    build: Build | None = None
    command: list[str] | None = None
    environment: dict[str, str | None] = {}
    healthcheck: HealthCheck | None = None
    depends_on: dict[str, Dependency] = {}
    secrets: list[SecretUse] = []
    volumes: list[Mount] = []
    tmpfs: list[str] = []
    ports: list[Port] = []
    networks: dict[str, object] = {}
    scale: int = 1
    container_name: str | None = None
    init: bool = False
    read_only: bool = False
    cap_drop: list[str] = []
    security_opt: list[str] = []

    @property
    def grace_s(self) -> float:
        """How long a stop may take before the engine kills."""
        return read_duration_s(self.stop_grace_period)


class Secret(msgspec.Struct, frozen=True):
    """A secret's file on the host."""

    file: str


class Network(msgspec.Struct, frozen=True):
    """Whether it has a way out."""

    internal: bool = False


class ComposeFile(msgspec.Struct, frozen=True):
    """The whole file."""

    services: dict[str, ComposeService]
    secrets: dict[str, Secret]
    networks: dict[str, Network]


def read_compose(
    *,
    variables: Mapping[str, str],
    profiles: Sequence[str] = (),
    env_files: Sequence[Path] = (),
    file: Path = COMPOSE_FILE,
) -> ComposeFile:
    """Have Compose read the file.

    Args:
        variables: the whole environment of the command, and so all that is interpolated.
        profiles: to include; `*`: all.
        env_files: more variables.
        file: another one than the project's.

    Raises:
        ComposeError: Compose refuses it.
    """
    command = [
        str(Path(sysconfig.get_path("scripts")) / "docker-compose"),
        *["--project-directory", str(REPOSITORY), "--file", str(file)],
        # Without one it would read the .env of whoever runs the tests.
        *(f"--env-file={path}" for path in env_files or (Path("/dev/null"),)),
        *(f"--profile={profile}" for profile in profiles),
        *["config", "--format", "json"],
    ]
    done = subprocess.run(
        command, capture_output=True, env=dict(variables), timeout=60, check=False, text=True
    )
    if done.returncode != 0 or done.stderr:
        raise ComposeError(done.stderr.strip())
    return msgspec.json.decode(done.stdout, type=ComposeFile)


def read_duration_s(text: str) -> float:
    """Return seconds; `1m30s` is 90."""
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", text)
    assert parts, text
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
