"""What the kernel holds a child process to: the death of its parent, and a bound on memory."""

import ctypes
import os
import resource
import signal
import sys

__all__ = ["die_with_parent", "limit_memory"]

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


def limit_memory(data_bytes_max: int) -> None:
    """Bound this process' private writable memory; nothing outside Linux.

    Not its address space: that would count mapped files and libraries, which cost nothing.
    """
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes_max, data_bytes_max))
