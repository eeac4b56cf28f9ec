"""A text that must never be shown."""

import hmac
from typing import Final, NoReturn

__all__ = ["HIDDEN", "Secret"]

HIDDEN: Final = "***"
"""What a secret looks like wherever it is printed."""
FILE_CHARS_MAX: Final = 65_536
"""Passwords are far smaller; a path to a device would never end."""


class Secret:
    """A password, key or token; `reveal` is the only way to read it.

    Two secrets are compared in constant time. `bool(secret)` tells whether it holds anything.
    It is no str and no struct on purpose: formatting, JSON and tracebacks find nothing to show.
    """

    __slots__ = ("_path", "_value")
    _path: str
    _value: str

    def __init__(self, value: str, *, path: str = "") -> None:
        """Keep a text.

        Args:
            value: the secret.
            path: of the file that it was read from.
        """
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_path", path)

    def reveal(self) -> str:
        """Return the text; hand it to the call that needs it and keep it nowhere."""
        return self._value

    def reveal_current(self) -> str:
        """Return what its file holds by now: who rotates a secret replaces the file.

        As it was read first, when there is no file, or none that can be read at the moment.
        """
        try:
            with open(self._path, encoding="utf-8") as file:
                return file.read(FILE_CHARS_MAX).strip() or self._value
        except (OSError, ValueError):
            return self._value

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a secret cannot be changed")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "Secret":
        return self

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # The environment may hold bytes that are no UTF-8; Python marks them with surrogates.
        mine, theirs = (s.encode(errors="surrogatepass") for s in (self._value, other._value))
        return hmac.compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return HIDDEN

    def __format__(self, format_spec: str) -> str:
        return format(HIDDEN, format_spec)
