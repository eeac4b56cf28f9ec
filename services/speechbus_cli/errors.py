"""How a command ends: one sentence on stderr that says what to do, and an exit code."""

from enum import IntEnum

__all__ = [
    "CannotConnectError",
    "CommandError",
    "ExitCode",
    "FailedError",
    "InterruptedCommandError",
    "OutputClosedError",
    "SettingsMistakeError",
    "UnauthorizedError",
]


class ExitCode(IntEnum):
    """Exit codes of every command; scripts rely on them."""

    DONE = 0
    FAILED = 1
    SETTINGS = 2
    CANNOT_CONNECT = 3
    UNAUTHORIZED = 4
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot go on; the text is one sentence for the person who typed it."""

    exit_code = ExitCode.FAILED


class FailedError(CommandError):
    """It was tried and went wrong; repeating it unchanged will go wrong again."""


class SettingsMistakeError(CommandError):
    """An argument or a variable is wrong; nothing was tried."""

    exit_code = ExitCode.SETTINGS


class CannotConnectError(CommandError):
    """Nobody answers, or the connection broke: start the server, then repeat the command."""

    exit_code = ExitCode.CANNOT_CONNECT


class UnauthorizedError(CommandError):
    """The server does not know this key or this user: give another one."""

    exit_code = ExitCode.UNAUTHORIZED


class InterruptedCommandError(CommandError):
    """The person wanted it to stop, and it did; there is nothing to say."""

    exit_code = ExitCode.INTERRUPTED


class OutputClosedError(CommandError):
    """Whoever read the output has enough, as in `speechbus watch | head`; that is no failure."""

    exit_code = ExitCode.DONE
