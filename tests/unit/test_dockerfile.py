"""Rules of deploy/Dockerfile, and of the locks that it installs."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import pytest

from tests.support.container import IMAGE_USER
from tests.support.dockerfile import DOCKERFILE, REPOSITORY, read_stages

LOCKS: Final = sorted((REPOSITORY / "deploy" / "locks").glob("*.lock"))
_PIN: Final = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)", re.MULTILINE)


def test_the_last_stage_runs_as_a_number_and_says_how_it_is() -> None:
    """`runAsNonRoot` cannot look a name up."""
    last = read_stages()[-1]

    assert last.texts("USER") == [f"{IMAGE_USER}:{IMAGE_USER}"]
    assert [one.name for one in last.instructions[-3:]] == ["USER", "HEALTHCHECK", "CMD"]
    assert all('["' in last.texts(name)[0] for name in ("HEALTHCHECK", "CMD"))


def test_the_last_stage_holds_what_others_have_built_and_no_source() -> None:
    """And dependencies and code in a layer each: a new version pulls kilobytes."""
    *building, last = read_stages()

    assert [stage.name for stage in building] == ["dependencies", "code"]
    assert last.texts("COPY") == [
        "--from=dependencies /opt/speechbus /opt/speechbus",
        "--from=code /code/ /",
    ]
    assert "pip uninstall" in last.texts("RUN")[0]


def test_nothing_is_fetched_but_by_hash_or_from_the_base() -> None:
    """What the image holds is what was tested."""
    text = DOCKERFILE.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    installs = [
        command
        for stage in read_stages()
        for run in stage.texts("RUN")
        for command in re.split("&&|;", run)
        if re.search(r"pip (.* )?(install|wheel|download) ", command) and "uninstall" not in command
    ]

    assert not re.search(r"^# *syntax *=", text, re.IGNORECASE | re.MULTILINE)
    assert re.findall("@sha256:|^ADD |curl|wget|https?://", code, re.MULTILINE) == []
    assert len(installs) == 4
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)


def test_what_is_copied_is_let_through_and_nothing_else() -> None:
    """`.dockerignore` names what goes to a builder, so secrets and caches never do."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    let_through = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source.rstrip("/")
        for stage in read_stages()
        for copy in stage.texts("COPY")
        if not copy.startswith("--from")
        for source in copy.split(" ")[:-1]
    }

    assert rules[0] == "*"
    assert let_through == copied
    assert not any(fnmatch("deploy/secrets/api_key", f"{name}*") for name in let_through)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_images_have_the_versions_that_are_tested(lock: Path) -> None:
    """By hash, and with no registry's address."""
    tested = set(_PIN.findall((REPOSITORY / "requirements-dev.lock").read_text()))
    text = lock.read_text()
    pins = set(_PIN.findall(text))

    assert len(pins) > 3
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text
    if lock.stem != "build":  # the only thing that no test environment has
        assert pins <= tested


def test_every_extra_of_a_service_has_a_lock() -> None:
    """`make lock` writes them; a new extra shall not be forgotten there."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"all", "cli"}

    assert {lock.stem for lock in LOCKS} == {*extras, "build"}
