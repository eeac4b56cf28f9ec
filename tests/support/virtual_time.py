"""An event loop whose clock jumps: waiting takes no time, and timers fire in their order."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["VirtualTimeLoop", "run_virtual"]

_Outcome = TypeVar("_Outcome")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Begins at 0 s; when nothing is ready, the clock moves to the next timer at once.

    For code that waits for nothing outside the process: a wait without any timer is an error.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now_s

    def jump(self, seconds: float) -> None:
        """Move the clock; for the selector."""
        self._now_s += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits, and no timer is set: a deadlock")
            self._loop.jump(max(0.0, timeout))
        return ready


def run_virtual(main: Coroutine[Any, Any, _Outcome]) -> _Outcome:
    """Run a coroutine to its end, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
