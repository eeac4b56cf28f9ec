"""The `speechbus` command: its subcommands, and how all of them end."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from speechbus_cli.errors import (
    CommandError,
    ExitCode,
    FailedError,
    InterruptedCommandError,
    OutputClosedError,
)

__all__ = ["main"]

_COMMANDS: Final[Mapping[str, str]] = {
    "dev": "speechbus_cli.dev:dev",
    "transcribe": "speechbus_cli.transcribe:transcribe",
    "watch": "speechbus_cli.watch:watch",
    "doctor": "speechbus_cli.doctor:doctor",
    "key": "speechbus_cli.key:key",
    "purge": "speechbus_cli.purge:purge",
    "bootstrap": "speechbus_cli.bootstrap:bootstrap",
    "ingest": "speechbus_cli.services:ingest",
    "transcriber": "speechbus_cli.services:transcriber",
    "correlator": "speechbus_cli.services:correlator",
    "translator": "speechbus_cli.services:translator",
    "health": "speechbus_cli.health:health",
    "simulate": "speechbus_cli.simulate:simulate",
    "schema": "speechbus_cli.schema:schema",
}
"""In the order in which a newcomer needs them."""


class _Commands(click.Group):
    """Imports a command only when it is named: a service should not load a terminal library."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = _COMMANDS.get(cmd_name)
        if where is None:
            return None
        module, _, name = where.partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            raise FailedError(
                f"`speechbus {cmd_name}` needs the Python package {error.name}: install"
                " speechbus[cli] (`make setup` in a checkout)."
            ) from None
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Start here:
  speechbus dev --demo            see it work, with real speech, on this machine
  speechbus dev                   the same without the demo; then, in another terminal:
  speechbus transcribe talk.wav
\b
Exit codes of all commands:
    0  done
    1  failed
    2  wrong arguments or settings
    3  cannot connect
    4  key or user not accepted
  130  interrupted
\b
`speechbus COMMAND --help` names a command's environment variables.
""",
)
@click.version_option(package_name="speechbus", message="%(prog)s %(version)s")
def speechbus() -> None:
    """Live audio in, transcripts out, as events on NATS."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Args:
        arguments: without the program's name; None: those of this process.
    """
    try:
        code = speechbus.main(
            args=list(arguments) if arguments is not None else None,
            prog_name="speechbus",
            standalone_mode=False,
        )
    except OutputClosedError as closed:
        # Without this, the interpreter's own last flush would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return closed.exit_code
    except CommandError as error:
        if not isinstance(error, InterruptedCommandError):
            _complain(str(error))
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return code if isinstance(code, int) else ExitCode.DONE


def _complain(text: str) -> None:
    click.echo(f"speechbus: {text}", err=True)


if __name__ == "__main__":
    sys.exit(main())
