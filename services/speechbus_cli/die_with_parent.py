"""Becomes another program that the kernel kills when its parent dies (Linux; elsewhere just runs).

`python -m speechbus_cli.die_with_parent PARENT_PID PROGRAM ARGUMENT...`. A process of its own does
this rather than code between fork and exec, where another thread's locks may be held.
"""

import ctypes
import os
import signal
import sys
from typing import Final

__all__ = ["build_command", "main"]

_PR_SET_PDEATHSIG: Final = 1


def build_command(command: list[str]) -> list[str]:
    """Return the command line that runs `command` bound to the life of this process."""
    return [sys.executable, "-m", "speechbus_cli.die_with_parent", str(os.getpid()), *command]


def main() -> None:
    """Bind this process to its parent and become the program."""
    parent_pid, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before the request reached the kernel.
        if os.getppid() != parent_pid:
            sys.exit(1)
    os.execv(program, sys.argv[2:])  # noqa: S606  (no shell is the point)


if __name__ == "__main__":
    main()
