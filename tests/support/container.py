"""A command as a container would run it: another user, nothing writable but /tmp, no capability."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["IMAGE_USER", "confine"]

IMAGE_USER: Final = 10_001
"""USER of deploy/Dockerfile."""
_SCRIPT: Final = """\
set -eu
tree=$1 python=$2; shift 2
mount --bind "$tree" "$tree"
mount -o remount,bind,ro "$tree"
mount -t tmpfs -o size=64m,mode=1777 tmpfs /tmp
case $python in /root/*)  # which the image's user may not enter
  mkdir /tmp/python
  mount --bind "$python" /tmp/python
  mount -t tmpfs -o mode=755 tmpfs /root
  mkdir -p "$python"
  mount --bind /tmp/python "$python"
  umount /tmp/python; rmdir /tmp/python ;;
esac
cd /tmp
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --no-new-privs \\
  --bounding-set=-all --inh-caps=-all -- "$@"
"""


def confine(command: Sequence[str], *, tree: Path) -> list[str]:
    """Return what runs a command as the image's user, on a read-only tree, in a /tmp of its own.

    Without root, which that takes, the tree is made read-only for this user instead.

    Args:
        command: whose program lies in the tree.
        tree: of the image; not below /tmp.
    """
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        for folder, _, files in os.walk(tree):
            Path(folder).chmod(0o555)
            for name in files:
                if not (path := Path(folder) / name).is_symlink():
                    path.chmod(0o555)
        return list(command)
    return [
        *["unshare", "--mount", "env", f"USER_ID={IMAGE_USER}"],
        *["sh", "-c", _SCRIPT, "sh", str(tree), sys.base_prefix, *command],
    ]
