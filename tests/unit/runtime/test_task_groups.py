"""Errors of task groups, unwrapped."""

import asyncio

import pytest

from speechbus_runtime.task_groups import plain_errors


async def _fail(*errors: Exception) -> None:
    async def fail(error: Exception) -> None:
        raise error

    async with asyncio.TaskGroup() as tasks:
        for error in errors:
            tasks.create_task(fail(error))


def test_the_error_of_a_task_reaches_the_caller_plain() -> None:
    """Callers catch the error they know; also on Python 3.11.2, where `except*` wraps it again."""

    async def run() -> None:
        with plain_errors(KeyError):
            await _fail(KeyError("a"))

    with pytest.raises(KeyError):
        asyncio.run(run())


def test_of_several_errors_the_kind_named_first_is_raised() -> None:
    """A time-out says more than the connection that broke because of it."""

    async def run() -> None:
        with plain_errors(TimeoutError, OSError):
            await _fail(ConnectionError(), TimeoutError())

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_a_bug_beside_an_expected_error_stays_visible() -> None:
    """Hidden bugs are the worst ones."""

    async def run() -> None:
        with plain_errors(KeyError):
            await _fail(KeyError("a"), ZeroDivisionError())

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(run())

    assert raised.group_contains(ZeroDivisionError)


def test_without_an_error_nothing_happens() -> None:
    """And what is no group passes through."""
    with plain_errors(KeyError):
        pass
    with pytest.raises(ValueError, match="plain"), plain_errors(KeyError):
        raise ValueError("plain")
