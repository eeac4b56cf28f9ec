"""What the kernel holds an engine process to: the death of its parent, and a bound on memory."""

import ctypes
import os
import resource
import signal
import sys
from typing import Final

__all__ = ["DATA_BYTES_MAX", "die_with_parent", "limit_memory"]

DATA_BYTES_MAX: Final = 512 << 20
"""Private writable memory of one session, twice what one needs: the kernel counts 160 MB after the
models are loaded, Silero reserves 90 MB and hardly touches them, an utterance of 20 s adds 7 MB.
Beyond the limit PocketSphinx aborts: one session ends instead of the machine swapping. Not address
space: that would count mapped model files and libraries, which cost nothing."""

_PR_SET_PDEATHSIG = 1
_LIBC: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to SIGKILL this process when its parent dies; nothing outside Linux.

    Args:
        parent_pid: The parent as it was at the start; if it is gone by now, the process ends here.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the request reached the kernel.
    if os.getppid() != parent_pid:
        os._exit(1)


def limit_memory() -> None:
    """Hold this process to `DATA_BYTES_MAX`; nothing outside Linux."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES_MAX, DATA_BYTES_MAX))
