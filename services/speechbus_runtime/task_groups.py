"""What a TaskGroup raises, as the plain error that its caller expects."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

__all__ = ["plain_errors"]


@contextmanager
def plain_errors(*kinds: type[Exception]) -> Generator[None, None, None]:
    """Raise the first error of these kinds in place of the group it came in.

    Not `except*`: before Python 3.11.4 an error raised inside it is wrapped in a group again.

    Args:
        kinds: errors to look for, the most telling kind first. A group that holds errors of
            other kinds is raised as it is: those are bugs, and must not be hidden.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        _, others = group.split(kinds)
        if others is not None:
            raise
        error = next(found for kind in kinds if (found := _find(group, kind)) is not None)
    else:
        return
    raise error from None


def _find(error: BaseException, kind: type[Exception]) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        found = (_find(inner, kind) for inner in group.exceptions)
        return next((inner for inner in found if inner is not None), None)
    return error if isinstance(error, kind) else None
