"""The `speechbus` command as a process."""

import subprocess
import sys
from collections.abc import Mapping

from speechbus_cli.settings import read_environment

__all__ = ["COMMAND", "build_environment", "run_speechbus", "start_speechbus"]

COMMAND = (sys.executable, "-m", "speechbus_cli.main")
TIMEOUT_S = 60.0
"""A hang should fail its own test, before pytest's limit ends the whole run."""


def build_environment(**variables: str) -> Mapping[str, str]:
    """Return this environment without the variables that services read, plus those given."""
    ours = ("SPEECHBUS_", "KOTOBA_", "PALABRA_", "OTEL_")
    inherited = {k: v for k, v in read_environment().items() if not k.startswith(ours)}
    return {**inherited, "COLUMNS": "100", **variables}


def run_speechbus(
    *arguments: str, input_bytes: bytes = b"", **variables: str
) -> "subprocess.CompletedProcess[bytes]":
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=input_bytes,
        capture_output=True,
        env=build_environment(**variables),
        timeout=TIMEOUT_S,
        check=False,
    )


def start_speechbus(
    *arguments: str,
    output: int = subprocess.PIPE,
    errors: int = subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start the command.

    Args:
        arguments: of the command.
        output: file descriptor for its output.
        errors: file descriptor for its errors.
        environment: as `build_environment` makes it, which is the default.
    """
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        env=environment or build_environment(),
    )
