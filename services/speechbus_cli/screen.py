"""The terminal: lines that stay, and below them what is still being said, replaced in place."""

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol, Self, TextIO

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

__all__ = ["Screen", "write_json_line"]

REPLACED_LINES_MAX: Final = 12
"""Lines below the transcript; more would fill a small terminal and make it scroll."""
_STYLES: Final = {
    "gap": "bold red",
    "correction": "yellow",
    "translation": "cyan",
    "missing": "dim cyan",
    "opened": "dim",
    "claimed": "dim",
    "closed": "dim",
    "note": "dim",
}


class _Writer(Protocol):
    def write(self, data: bytes, /) -> object: ...
    def flush(self) -> None: ...


class Screen:
    """Writes lines to a terminal, or to a pipe (then nothing is ever replaced).

    A context manager: leaving it removes what was replaceable.
    """

    def __init__(self, stream: TextIO) -> None:
        is_terminal = stream.isatty()
        self._console = Console(
            file=stream,
            highlight=False,
            markup=False,
            emoji=False,
            # Said outright, because rich takes FORCE_COLOR in the environment for a terminal.
            force_terminal=is_terminal,
        )
        self.is_terminal = is_terminal and not self._console.is_dumb_terminal
        # No refresh thread: each event redraws once, and there are at most ten a second of each.
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True)
            if self.is_terminal
            else None
        )

    def print_line(self, text: str, *, kind: str = "") -> None:
        """Print a line that stays, above what is replaced."""
        self._console.print(Text(text, style=_STYLES.get(kind, "")), soft_wrap=True)

    def replace(self, lines: Sequence[str]) -> None:
        """Show these lines in the place of the last ones; does nothing on a pipe."""
        if self._live is None:
            return
        shown = [
            Text(line, style="italic dim", no_wrap=True, overflow="ellipsis")
            # The end of a long partial is what changes, so its beginning gives way.
            for line in (self._fit(line) for line in lines[:REPLACED_LINES_MAX])
        ]
        self._live.update(Group(*shown), refresh=True)

    def _fit(self, line: str) -> str:
        width = max(self._console.width - 1, 20)
        return line if len(line) <= width else f"…{line[-(width - 1) :]}"

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(Text(""), refresh=False)
            self._live.stop()


def write_json_line(writer: _Writer, message: bytes) -> None:
    """Write one event as it came; only line breaks between its tokens are removed."""
    line = msgspec.json.format(message, indent=-1) if b"\n" in message else message
    writer.write(line + b"\n")
    writer.flush()
