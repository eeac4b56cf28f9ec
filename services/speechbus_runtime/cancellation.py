"""Cancellation that arrives, whatever a library does with it."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["keeps_cancellation"]


@contextmanager
def keeps_cancellation() -> Generator[None, None, None]:
    """Raise `CancelledError` at the block's end if its task was cancelled meanwhile.

    `asyncio.wait_for` of Python 3.11 returns a result that comes together with a cancellation, and
    forgets the cancellation: a loop around it would go on for ever. nats-py's requests use it.
    """
    task = asyncio.current_task()
    assert task is not None, "only a task can be cancelled"
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError
