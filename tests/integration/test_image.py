"""The smallest image, built by the Dockerfile's own commands, and what runs in it."""

import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from speechbus_cli.embedded_nats import choose_port
from tests.support.container import confine
from tests.support.dockerfile import DOCKERFILE, REPOSITORY, build_environment_of
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    """The correlator's, without anything of ours or of the tests on any path."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield build_environment_of(Path(folder), "correlator")
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)


def run(environment: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the image's command to its end."""
    return subprocess.run(
        confine([str(environment / "bin" / "speechbus"), *arguments], tree=environment.parents[1]),
        env=image_variables(environment, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def image_variables(environment: Path, **variables: str) -> Mapping[str, str]:
    """Return what a container has in its environment."""
    return {
        "PATH": f"{environment / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
        "SPEECHBUS_SERVICE": "correlator",
        **variables,
    }


def test_an_image_bootstraps_serves_and_stops(environment: Path, tmp_path: Path) -> None:
    """As user 10001, on a read-only file system, without a compiler, pip or a checkout."""
    with NatsServer(tmp_path / "nats") as nats:
        done = run(environment, "bootstrap", SPEECHBUS_BOOTSTRAP_NATS_URL=nats.url)
        assert (done.returncode, done.stderr) == (0, "")

        variables = image_variables(
            environment,
            SPEECHBUS_CORRELATOR_NATS_URL=nats.url,
            SPEECHBUS_CORRELATOR_HEALTH_HOST="0.0.0.0",
            SPEECHBUS_CORRELATOR_HEALTH_PORT=str(choose_port("127.0.0.1", 0)),
        )
        command = confine(["sh", "-c", "exec speechbus correlator"], tree=environment.parents[1])
        with (tmp_path / "log").open("wb") as log:
            service = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        try:
            wait = 'while ! speechbus health 2>/dev/null; do kill -0 "$0" || exit 1; done'
            subprocess.run(
                ["sh", "-c", wait, str(service.pid)], env=variables, check=True, timeout=60
            )
            service.terminate()

            assert service.wait(30) == 0, (tmp_path / "log").read_text()
        finally:
            service.kill()


def test_commands_of_other_images_say_what_they_lack(environment: Path) -> None:
    """A traceback would look like a bug; what needs nothing more is there."""
    for name in ("doctor", "watch"):
        done = run(environment, name)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            f"speechbus: `speechbus {name}` needs the Python package rich"
        )
    assert [run(environment, name, "--help").returncode for name in ("purge", "key")] == [0, 0]


def test_an_image_without_a_service_says_which_extra_it_lacks(environment: Path) -> None:
    """Whoever starts ingest from the correlator's image learns what to change."""
    done = run(environment, "ingest", SPEECHBUS_INGEST_API_KEYS="acme:key")

    assert (done.returncode, done.stdout) == (1, "")
    assert "install speechbus[ingest]" in done.stderr


def test_nothing_in_an_image_installs_or_compiles(environment: Path) -> None:
    """What an intruder does not find has to be brought along, onto a disk that takes nothing."""
    found = {path.name for path in (environment / "bin").iterdir()}
    packages = {path.name for path in environment.glob("lib/python*/site-packages/*")}

    assert found & {"pip", "pip3", "uv", "hatch", "hatchling", "cc", "gcc"} == set()
    assert packages & {"pip", "setuptools", "wheel", "hatchling", "nats_server", "numpy"} == set()


def test_nothing_can_be_written_but_tmp(environment: Path) -> None:
    """As `read_only: true` and `readOnlyRootFilesystem` will have it."""
    program = "import pathlib, sys; pathlib.Path(sys.argv[1], 'file').touch()"
    python = str(environment / "bin" / "python")

    def touch(folder: str) -> int:
        command = confine([python, "-c", program, folder], tree=environment.parents[1])
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert (touch("/tmp"), touch(str(environment)), touch("/etc")) == (0, 1, 1)


def test_hadolint_finds_nothing() -> None:
    """The linter that CI systems and registries run over a Dockerfile."""
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([str(hadolint), str(DOCKERFILE)], capture_output=True, check=False)

    assert (done.returncode, done.stdout.decode()) == (0, "")


_IMPORT: Final = """\
import importlib, importlib.abc, importlib.metadata, sys

allowed = set(sys.argv[1].split(","))
owners = importlib.metadata.packages_distributions()


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        owning = {d.lower().replace("_", "-") for d in owners.get(name.partition(".")[0], ())}
        if owning and not owning & allowed and not name.startswith("speechbus"):
            raise ModuleNotFoundError(f"{name} is in no lock of the image", name=name)


sys.meta_path.insert(0, Absent())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


@pytest.mark.parametrize(
    ("locks", "modules"),
    [
        ("ingest", ("speechbus_ingest.service", "speechbus_ingest.formats.decoder_session")),
        ("transcriber", ("speechbus_transcriber.service",)),
        ("transcriber local", ("speechbus_transcriber.local_engine.session",)),
        ("translator", ("speechbus_translator.service",)),
        ("correlator", ("speechbus_correlator.service", "speechbus_cli.bootstrap")),
        ("simulate", ("speechbus_cli.simulate",)),
        ("operator", ("speechbus_cli.doctor", "speechbus_cli.watch", "speechbus_cli.transcribe")),
    ],
)
def test_an_image_has_all_that_its_service_imports(locks: str, modules: tuple[str, ...]) -> None:
    """Here, where everything is installed, what its locks leave out is made to be missing."""
    texts = [
        (REPOSITORY / "deploy" / "locks" / f"{name}.lock").read_text() for name in locks.split()
    ]
    packages = {
        name.lower().replace("_", "-")
        for text in texts
        for name in re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)
    }
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, ",".join(packages), *modules, "speechbus_cli.health"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
