"""Memory of a soak's processes, and what their logs say."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

__all__ = ["LogReport", "Memory", "read_logs"]


class Memory:
    """Proportional set size of processes by name, in kB: early, late, and the most ever."""

    def __init__(self) -> None:
        self.early: dict[str, int] = {}
        self.late: dict[str, int] = {}
        self.most: dict[str, int] = {}

    def sample(self, pids: Mapping[str, int], *, is_early: bool) -> None:
        """Look at all of them once.

        Args:
            pids: of those that run.
            is_early: this is what later growth is measured from.
        """
        for name, pid in pids.items():
            with suppress(psutil.Error):
                pss_kb = psutil.Process(pid).memory_full_info().pss >> 10
                self.late[name] = pss_kb
                self.most[name] = max(pss_kb, self.most.get(name, 0))
                if is_early:
                    self.early[name] = pss_kb


class LogReport(msgspec.Struct, kw_only=True):
    """What services have written."""

    errors: Counter[str]
    """Events of level ERROR."""
    tracebacks: list[str]
    """With the log's name; lines that are no JSON among them."""


def read_logs(folder: Path) -> LogReport:
    """Read the logs of all services."""
    report = LogReport(errors=Counter(), tracebacks=[])
    for path in sorted(folder.glob("*.log")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                _read_line(line, path.stem, report)
    return report


def _read_line(line: str, name: str, report: LogReport) -> None:
    try:
        fields = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError:
        report.tracebacks.append(f"{name}: {line.strip()}")
        return
    if fields.get("level") == "ERROR":
        report.errors[str(fields.get("event"))] += 1
    if "traceback" in fields:
        report.tracebacks.append(f"{name}: {fields.get('event')}\n{fields['traceback']}")
