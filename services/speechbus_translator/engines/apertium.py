"""`apertium`: Apertium's programs as one pipe for each pair, kept running (null flush).

Its wrapper starts everything anew for each text (139 ms), and its own `-z` never answers. So the
pair's mode file is taken apart and each program started with `-z`; a text goes in behind its
escapes with a zero byte, and the translation comes out with one (Apertium 3.8.3, 2026-11-29).
"""

import asyncio
import os
import re
import shlex
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Final

from speechbus_translator.engines.interface import (
    EngineRefusedError,
    EngineUnavailableError,
    primary,
)

__all__ = ["Apertium"]

PAIRS_MAX: Final = 8
"""Pipes kept running, of 40 to 150 MB and 6 to 15 processes each; the one unused for longest
ends."""
ANSWER_BYTES_MAX: Final = 1 << 20
_MODE: Final = re.compile(r"([a-z]{2,3})-([a-z]{2,3})(?:_[A-Z]{2})?\.mode")
_RESERVED: Final = re.compile(r"([\^$\[\]{}/\\@<>])")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_END: Final = "[][\n]"
"""Closes the sentence, as the wrapper's deformatter does."""

_TWO_LETTERS: Final = {
    "afr": "af", "arg": "an", "bel": "be", "bul": "bg", "cat": "ca", "dan": "da", "eng": "en",
    "epo": "eo", "eus": "eu", "fra": "fr", "glg": "gl", "hbs": "sh", "hin": "hi", "ind": "id",
    "isl": "is", "ita": "it", "mkd": "mk", "nld": "nl", "nno": "nn", "nob": "nb", "oci": "oc",
    "por": "pt", "ron": "ro", "rus": "ru", "slv": "sl", "spa": "es", "swe": "sv", "ukr": "uk",
    "urd": "ur", "zlm": "ms",
}  # fmt: skip
"""ISO 639-3 as in the names of modes, to what BCP 47 has for it; others are the same in both."""


class Apertium:
    """The pairs that are installed.

    Args:
        modes: folder of the mode files.
    """

    name = "apertium"

    def __init__(self, modes: Path) -> None:
        self._modes = _find_modes(modes)
        self._pipes: OrderedDict[tuple[str, str], _Pipe] = OrderedDict()

    def serves(self, source: str | None, target: str) -> bool:
        """Whether the pair is installed."""
        return source is not None and (primary(source), primary(target)) in self._modes

    async def translate(self, text: str, *, source: str | None, target: str) -> str:
        """Send a text through the pair's pipe; see `Engine`."""
        if "\0" in text:
            raise EngineRefusedError("zero_byte")
        pair = (primary(source or ""), primary(target))
        pipe = self._pipes.get(pair)
        if pipe is None:
            pipe = self._pipes[pair] = _Pipe(self._modes[pair])
        self._pipes.move_to_end(pair)
        if len(self._pipes) > PAIRS_MAX:
            _, unused = self._pipes.popitem(last=False)
            await unused.close()
        return await pipe.translate(text)

    async def close(self) -> None:
        """End all processes."""
        while self._pipes:
            _, pipe = self._pipes.popitem()
            await pipe.close()


class _Pipe:
    """The programs of one mode; one text at a time."""

    def __init__(self, mode: Path) -> None:
        self._mode = mode
        self._turn = asyncio.Lock()
        self._is_closed = False
        self._processes: list[asyncio.subprocess.Process] = []

    async def translate(self, text: str) -> str:
        async with self._turn:
            if self._is_closed:  # while this text waited: nobody would end new processes
                raise EngineUnavailableError("pipe_closed")
            try:
                if not self._processes:
                    await self._start()
                answer = await self._exchange(_escape(text).encode() + b"\0")
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                self._kill()
                raise EngineUnavailableError("pipe_broke") from None
            except BaseException:
                # Whoever waited is gone: the answer that is on its way must not become the next's.
                self._kill()
                raise
        return _unescape(answer.rstrip(b"\0").decode(errors="replace"))

    async def close(self) -> None:
        self._is_closed = True
        async with self._turn:
            processes = self._processes
            self._kill()
            for process in processes:
                await process.wait()

    async def _exchange(self, message: bytes) -> bytes:
        source, sink = self._processes[0].stdin, self._processes[-1].stdout
        assert source is not None
        assert sink is not None
        source.write(message)
        await source.drain()
        return await sink.readuntil(b"\0")

    async def _start(self) -> None:
        commands = _read_mode(self._mode.read_text(encoding="utf-8"))
        reader: int | None = None
        for number, command in enumerate(commands):
            is_last = number == len(commands) - 1
            following, writer = (None, None) if is_last else os.pipe()
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE if reader is None else reader,
                    stdout=asyncio.subprocess.PIPE if writer is None else writer,
                    stderr=asyncio.subprocess.DEVNULL,
                    limit=ANSWER_BYTES_MAX,
                )
            except BaseException:
                if following is not None:
                    os.close(following)
                raise
            finally:
                for end in (reader, writer):
                    if end is not None:
                        os.close(end)
            self._processes.append(process)
            reader = following

    def _kill(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()
        self._processes = []


def _find_modes(folder: Path) -> dict[tuple[str, str], Path]:
    found: dict[tuple[str, str], Path] = {}
    # Sorted: `eng-spa` comes before a variant such as `eng-spa_US`, and the first one counts.
    for path in sorted(folder.glob("*.mode")):
        name = _MODE.fullmatch(path.name)
        if name is not None:
            source, target = (_TWO_LETTERS.get(code, code) for code in name.groups())
            found.setdefault((source, target), path)
    return found


def _read_mode(text: str) -> list[list[str]]:
    """Return the programs of a mode file, each with `-z`.

    `$1` is the generator's way with words it does not know: `-n` leaves out its marks; `$2` is
    empty.
    """
    commands: list[list[str]] = []
    for part in text.strip().split("|"):
        program, *arguments = shlex.split(part)
        arguments = ["-n" if each == "$1" else each for each in arguments if each != "$2"]
        commands.append([program, "-z", *arguments])
    return commands


def _escape(text: str) -> str:
    return _RESERVED.sub(r"\\\1", text) + _END


def _unescape(answer: str) -> str:
    return _ESCAPED.sub(r"\1", answer.removesuffix(_END))
