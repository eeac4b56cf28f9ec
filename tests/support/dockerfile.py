"""deploy/Dockerfile without an engine: its instructions; its building stages, run in a folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from speechbus_cli.settings import read_environment

__all__ = [
    "DOCKERFILE",
    "REPOSITORY",
    "Instruction",
    "Stage",
    "build_environment_of",
    "read_stages",
]

REPOSITORY: Final = Path(__file__).parents[2]
DOCKERFILE: Final = REPOSITORY / "deploy" / "Dockerfile"
BUILD_TIMEOUT_S: Final = 600.0
"""Half a minute with a warm cache; a busy machine that fetches FFmpeg needs more."""
_OURS: Final = re.compile(r"(?<![\w/.])/(?=(?:opt|code|build)\b)")
"""The folders that the stages make; everything else is the base image's, here this machine's."""


class Instruction(msgspec.Struct, frozen=True):
    """One instruction, its lines joined."""

    name: str
    text: str


class Stage(msgspec.Struct, frozen=True):
    """From one FROM to the next."""

    base: str
    name: str
    instructions: Sequence[Instruction]

    def texts(self, name: str) -> list[str]:
        """Return what its instructions of one name say."""
        return [one.text for one in self.instructions if one.name == name]


def read_stages(text: str | None = None) -> list[Stage]:
    """Return the stages of the project's Dockerfile, or of another one's text."""
    stages: list[Stage] = []
    for one in _split(DOCKERFILE.read_text(encoding="utf-8") if text is None else text):
        if one.name == "FROM":
            base, _, name = one.text.partition(" AS ")
            stages.append(Stage(base, name, []))
        elif stages:
            stages[-1] = msgspec.structs.replace(
                stages[-1], instructions=[*stages[-1].instructions, one]
            )
    return stages


def _split(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for joined in re.sub(r"\\\s*\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = joined.strip().partition(" ")
        if name:
            yield Instruction(name.upper(), rest.strip())


def build_environment_of(folder: Path, service: str, extras: str = "") -> Path:
    """Run the building stages as an engine would, below a folder; return the environment.

    The base image is this Python. What the last stage copies lies then where it will be: below
    `folder/opt/speechbus`, the folder that is returned.

    Args:
        folder: empty; becomes the root of the image.
        service: the build argument SERVICE.
        extras: the build argument EXTRAS.

    Raises:
        subprocess.CalledProcessError: a RUN failed; its output is in the error's notes.
    """
    base = folder / "base"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(base)], check=True)
    (site_packages,) = base.glob("lib/python*/site-packages")
    shutil.copytree(Path(sysconfig.get_path("purelib")) / "pip", site_packages / "pip")
    arguments = {"SERVICE": service, "EXTRAS": extras}
    *building, last = read_stages()
    for stage in building:
        _run_stage(stage, folder, arguments, base)
    for copy in last.texts("COPY"):
        source, target = copy.split(" ")[-2:]
        if _inside(folder, source) != _inside(folder, target):
            shutil.copytree(
                _inside(folder, source), _inside(folder, target), symlinks=True, dirs_exist_ok=True
            )
    return folder / "opt" / "speechbus"


def _run_stage(stage: Stage, folder: Path, arguments: Mapping[str, str], base: Path) -> None:
    working = folder / "build"
    environment = {**_clean_environment(base), **arguments}
    for one in stage.instructions:
        match one.name:
            case "ENV":
                # Without the cache, each run would fetch everything again.
                pairs = [p.split("=", 1) for p in one.text.split(" ") if "NO_CACHE" not in p]
                environment |= {name: value.strip('"') for name, value in pairs}
            case "WORKDIR":
                working = _inside(folder, one.text)
                working.mkdir(parents=True, exist_ok=True)
            case "COPY":
                *sources, target = one.text.split(" ")
                for source in sources:
                    _copy(REPOSITORY / source, working / target)
            case "RUN":
                _run(_OURS.sub(f"{folder}/", one.text), working, environment)
            case name:
                assert name == "ARG", name


def _run(script: str, working: Path, environment: Mapping[str, str]) -> None:
    try:
        subprocess.run(
            ["sh", "-c", script],
            cwd=working,
            env=environment,
            check=True,
            capture_output=True,
            timeout=BUILD_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        error.add_note(f"{error.stdout.decode()[-2_000:]}\n{error.stderr.decode()[-2_000:]}")
        raise


def _clean_environment(base: Path) -> dict[str, str]:
    """Return what the machine says about packages and paths, and nothing about Python or us."""
    inherited = {
        name: value
        for name, value in read_environment().items()
        if name.startswith(
            ("PIP_INDEX", "PIP_EXTRA", "PIP_TRUSTED", "SSL_", "HTTP", "http", "HOME")
        )
    }
    return {**inherited, "PATH": f"{base / 'bin'}{os.pathsep}{os.defpath}"}


def _inside(folder: Path, path: str) -> Path:
    return folder / path.lstrip("/")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
    else:
        shutil.copy2(source, target)
