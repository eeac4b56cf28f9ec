"""`speechbus schema`: the contract for other languages, printed or written to files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

import speechbus_contracts
from speechbus_contracts import build_asyncapi, build_json_schema

__all__ = ["schema", "write_schemas"]

_FOLDER: Final = Path(speechbus_contracts.__file__).with_name("schemas")
_DOCUMENTS: Final[Mapping[str, tuple[str, Callable[[], dict[str, Any]]]]] = {
    "json-schema": ("events.schema.json", build_json_schema),
    "asyncapi": ("asyncapi.json", build_asyncapi),
}
_DEFAULT_FORMAT: Final = "json-schema"


def write_schemas(folder: Path) -> tuple[Path, ...]:
    """Write every document into `folder`, which is made if it is missing.

    Args:
        folder: receives `events.schema.json` and `asyncapi.json`; older ones are replaced.

    Returns:
        The files written.

    Raises:
        OSError: the folder or a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, build in _DOCUMENTS.values():
        path = folder / name
        path.write_text(_format_document(build()), encoding="utf-8")
        written.append(path)
    return tuple(written)


@click.command(short_help="Print the contract as JSON Schema or AsyncAPI.")
@click.option(
    "--format",
    "document",
    type=click.Choice(tuple(_DOCUMENTS)),
    help=f"Document to print.  [default: {_DEFAULT_FORMAT}]",
)
@click.option(
    "--write",
    "folder",
    is_flag=False,
    flag_value=str(_FOLDER),
    type=click.Path(file_okay=False, path_type=Path),
    metavar="[DIR]",
    help="Write both documents into DIR instead; without DIR, into the contracts package.",
)
def schema(document: str | None, folder: Path | None) -> None:
    """Print what travels on the bus as JSON Schema 2020-12 or AsyncAPI 3."""
    if folder is None:
        _, build = _DOCUMENTS[document or _DEFAULT_FORMAT]
        click.echo(_format_document(build()), nl=False)
        return
    if document is not None:
        raise click.UsageError("--write writes both documents: leave --format out.")
    try:
        written = write_schemas(folder)
    except OSError as error:
        raise click.FileError(str(folder), hint=error.strerror or "") from None
    for path in written:
        click.echo(path)


def _format_document(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
