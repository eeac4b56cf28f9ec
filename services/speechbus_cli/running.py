"""Signals for commands: an event for those that end in order, cancellation for the others."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from speechbus_cli.errors import InterruptedCommandError, OutputClosedError

__all__ = ["StopSignals", "run_until_interrupted", "run_until_stopped"]

_T = TypeVar("_T")


class StopSignals:
    """The first SIGINT or SIGTERM asks to stop, the second one cancels.

    Attributes:
        asked: set by the first signal.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.is_impatient = False
        self._on_second: Callable[[], object] | None = None

    def cancel_on_second(self, cancel: Callable[[], object]) -> None:
        """Call `cancel` when a second signal comes."""
        self._on_second = cancel

    def take(self) -> None:
        """Take one signal."""
        if not self.asked.is_set():
            self.asked.set()
        elif not self.is_impatient and self._on_second is not None:
            self.is_impatient = True
            self._on_second()


def run_until_stopped(command: Callable[[StopSignals], Coroutine[Any, Any, _T]]) -> _T:
    """Run a command that ends in order by itself once it is asked to.

    Raises:
        InterruptedCommandError: a second signal cancelled it.
        OutputClosedError: nobody reads what it prints.
    """
    signals = StopSignals()
    return _run(lambda: command(signals), signals)


def run_until_interrupted(command: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a command that the first signal cancels.

    Raises:
        InterruptedCommandError: it did.
        OutputClosedError: nobody reads what it prints.
    """
    signals = StopSignals()
    signals.asked.set()
    return _run(command, signals)


def _run(command: Callable[[], Coroutine[Any, Any, _T]], signals: StopSignals) -> _T:
    async def run() -> _T:
        task = asyncio.current_task()
        assert task is not None
        signals.cancel_on_second(task.cancel)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signals.take)
        try:
            return await command()
        except asyncio.CancelledError:
            if signals.is_impatient:
                raise InterruptedCommandError("Interrupted.") from None
            raise
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    try:
        return asyncio.run(run())
    except BrokenPipeError:
        # Here, because click would make it exit code 1.
        raise OutputClosedError("Nobody reads the output.") from None
