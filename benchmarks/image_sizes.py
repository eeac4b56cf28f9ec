"""How large the environment of each image is: built here by the Dockerfile's own commands."""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from tests.support.dockerfile import build_environment_of

VARIANTS: Final = (
    "correlator",
    "translator",
    "translator ctranslate2",
    "transcriber",
    "transcriber local",
    "ingest",
    "simulate",
    "operator",
)
"""SERVICE, and EXTRAS behind it."""
LARGEST: Final = 3
BYTES_PER_MB: Final = 1_000_000


class Size(msgspec.Struct, frozen=True):
    """One environment."""

    variant: str
    total_bytes: int
    ours_bytes: int
    """Of it, what a new version of Speechbus alone changes."""
    largest: Sequence[tuple[str, int]]
    """Packages, as folders of site-packages."""


def measure(variant: str) -> Size:
    """Build an environment below a new folder, and remove it again."""
    service, _, extras = variant.partition(" ")
    folder = Path(tempfile.mkdtemp(prefix="speechbus-image-", dir="/var/tmp"))
    try:
        environment = build_environment_of(folder, service, extras)
        packages: dict[str, int] = defaultdict(int)
        for file in environment.rglob("*"):
            if file.is_file() and not file.is_symlink():
                packages[_package_of(file)] += file.stat().st_size
    finally:
        shutil.rmtree(folder)
    ours = sum(size for name, size in packages.items() if name.startswith("speechbus"))
    others = [(name, size) for name, size in packages.items() if not name.startswith("speechbus")]
    largest = sorted(others, key=lambda pair: -pair[1])[:LARGEST]
    return Size(variant, sum(packages.values()), ours, largest)


def _package_of(file: Path) -> str:
    parts = file.parts
    if "site-packages" not in parts:
        return "bin"
    return parts[parts.index("site-packages") + 1].partition(".")[0].partition("-")[0]


def _rows(variants: Sequence[str]) -> Iterator[str]:
    yield "| `SERVICE` and `EXTRAS` | environment | of it Speechbus | largest packages |"
    yield "|---|---|---|---|"
    for variant in variants:
        size = measure(variant)
        largest = ", ".join(f"{name} {_megabytes(count)}" for name, count in size.largest)
        yield (
            f"| {size.variant} | {_megabytes(size.total_bytes)} MB"
            f" | {_megabytes(size.ours_bytes)} MB | {largest} |"
        )


def _megabytes(count: int) -> str:
    return (
        f"{count / BYTES_PER_MB:.1f}"
        if count < 10 * BYTES_PER_MB
        else f"{count / BYTES_PER_MB:.0f}"
    )


@click.command()
@click.argument("variants", nargs=-1)
def main(*, variants: tuple[str, ...]) -> None:
    """Print the sizes as a table of docs/deployment.md; the base image comes on top.

    VARIANTS: like `ingest` or `"transcriber local"`; default: all.
    """
    for row in _rows(variants or VARIANTS):
        click.echo(row)


if __name__ == "__main__":
    main()
