"""The code that a result was measured with."""

import subprocess

__all__ = ["read_commit"]


def read_commit() -> str:
    """Return the checked-out commit, with a `+` when the tree differs from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"
