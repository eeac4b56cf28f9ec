"""`speechbus simulate` as a process, with a script."""

import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.support.command_line import build_environment, start_speechbus

__all__ = ["simulator"]


@contextmanager
def simulator(
    folder: Path, script: str = "", *, provider: str = "palabra"
) -> Generator[Mapping[str, str], None, None]:
    """Run a simulator during the block.

    Args:
        folder: gets its script; exists.
        script: TOML.
        provider: whose protocol it speaks.

    Yields:
        The variables that lead a transcriber to it, any key included.
    """
    path = folder / f"{provider}.toml"
    path.write_text(script, encoding="utf-8")
    process = start_speechbus(
        *("simulate", provider, "--listen", "127.0.0.1:0", "--script", str(path)),
        errors=subprocess.DEVNULL,
        environment=build_environment(PYTHONUNBUFFERED="1"),
    )
    assert process.stdout is not None
    with process:
        try:
            key = f"{provider.upper()}_API_KEY"
            yield {key: "any", **_read_variables(process.stdout)}
        finally:
            process.terminate()
            assert process.wait(30) == 0


def _read_variables(lines: IO[bytes]) -> Mapping[str, str]:
    variables: dict[str, str] = {}
    for line in lines:
        text = line.decode().strip()
        if text.startswith("ready"):
            return variables
        name, _, value = text.partition("=")
        variables[name] = value
    raise AssertionError("the simulator ended before it was ready")
