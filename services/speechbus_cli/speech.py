"""Fetches recordings of real speech for the demo and the tests: `python -m speechbus_cli.speech`.

They travel inside the source package of pocketsphinx, the one place where pip, which every machine
has, finds public domain speech with its transcript. Only the recordings are kept.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

import click
import msgspec

from speechbus_cli.errors import CommandError, FailedError

__all__ = ["DEFAULT_CACHE", "READER", "Recording", "Recordings", "fetch_recordings", "main"]

DEFAULT_CACHE: Final = Path(".cache/speech")
"""Below the working directory, and ignored by git."""

READER: Final = "a LibriVox reader of Jane Austen's Sense and Sensibility, public domain"

_REQUIREMENT: Final = (
    "pocketsphinx==5.1.1"
    " --hash=sha256:675778b309a22dfc9b7d37f7621976bba491d2a5f8c59696bd77fd6d07271355\n"
)
"""pip checks the hash before it runs anything of the package (read from the package 2026-11-20)."""

_PIP_TIMEOUT_S: Final = 600.0
"""34 MB, and the build tools that pip wants before it names a source package: 6 s on a good line,
and ten minutes are 0.5 Mbit/s."""

_SOURCE: Final = "pocketsphinx-5.1.1/test/data/librivox/"
_NAMES: Final = tuple(
    f"sense_and_sensibility_01_austen_64kb-{number}"
    for number in ("0870", "0880", "0890", "0920", "0930")
)
_TRANSCRIPTION: Final = "transcription"
_FILES: Final = frozenset({_TRANSCRIPTION, *(f"{name}.wav" for name in _NAMES)})
_TRANSCRIPTION_LINE: Final = re.compile(r"<s> (?P<text>.+) </s> \((?P<name>\S+)\)")


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence, read aloud."""

    path: Path
    """WAV, mono, 16 kHz, 16 bit."""
    transcript: str
    """What is read, in lower case without punctuation."""


class Recordings(msgspec.Struct, frozen=True, kw_only=True):
    """Sentences of one reader, in the order of the book."""

    recordings: tuple[Recording, ...]
    reader: str


def fetch_recordings(cache: Path) -> Recordings:
    """Return the recordings; download them first (34 MB, some seconds) if `cache` lacks them.

    Several processes may do so at once: each downloads, one of the results is kept.

    Args:
        cache: Folder for them, created when missing.

    Raises:
        FailedError: pip could not get the package, or the package is not what it was.
    """
    folder = cache / "librivox-austen"
    if not _is_complete(folder):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as temporary:
                fresh = Path(temporary) / "fresh"
                _extract(_download(Path(temporary)), fresh)
                _move_into_place(fresh, folder)
        except OSError as error:
            raise FailedError(
                f"The speech recordings cannot be kept in {cache}: {error.strerror or error}."
            ) from None
    return _read(folder)


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(_REQUIREMENT, encoding="utf-8")
    # A source package, since the wheels leave the test data out.
    command = [
        *[sys.executable, "-m", "pip", "download", "--quiet", "--no-input"],
        *["--disable-pip-version-check", "--no-deps", "--no-binary", "pocketsphinx"],
        *["--require-hashes", "-r", str(requirements), "-d", str(folder)],
    ]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments only
            command, capture_output=True, text=True, check=False, timeout=_PIP_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise FailedError(
            "The speech recordings did not arrive within ten minutes: check the network, repeat."
        ) from None
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise FailedError(
            "The speech recordings could not be downloaded (pip: "
            f"{reasons[-1].strip() if reasons else f'exit code {done.returncode}'}): "
            "check the network and that `python -m pip` works, then repeat."
        )
    return folder / "pocketsphinx-5.1.1.tar.gz"


def _extract(package: Path, folder: Path) -> None:
    folder.mkdir()
    wanted = {f"{_SOURCE}{name}": folder / name for name in _FILES}
    with tarfile.open(package) as archive:
        for member in archive:
            target = wanted.get(member.name)
            content = archive.extractfile(member) if target else None
            if target and content:
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
    if not _is_complete(folder):
        raise FailedError("The package that holds the speech recordings lacks some of them.")


def _move_into_place(fresh: Path, folder: Path) -> None:
    """Rename the whole folder, so that nobody ever sees half of it."""
    try:
        fresh.rename(folder)
    except OSError:
        if _is_complete(folder):
            return  # another process was faster
        shutil.rmtree(folder)  # somebody took files out of it
        fresh.rename(folder)


def _read(folder: Path) -> Recordings:
    transcription = (folder / _TRANSCRIPTION).read_text(encoding="utf-8")
    transcripts = {
        match["name"]: match["text"] for match in _TRANSCRIPTION_LINE.finditer(transcription)
    }
    return Recordings(
        recordings=tuple(
            # One transcript says "a more a amiable woman"; book and reader have one "a" less.
            Recording(
                path=folder / f"{name}.wav",
                transcript=transcripts[name].replace("a more a amiable", "a more amiable"),
            )
            for name in _NAMES
        ),
        reader=READER,
    )


@click.command()
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_CACHE,
    show_default=True,
    help="Folder that keeps the recordings.",
)
def main(cache: Path) -> None:
    """Fetch the recordings of real speech that the demo and the tests play."""
    try:
        found = fetch_recordings(cache)
    except CommandError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    click.echo(f"{len(found.recordings)} recordings of {found.reader}, in {cache}")


if __name__ == "__main__":
    main()
