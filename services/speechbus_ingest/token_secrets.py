"""The secrets that tokens are signed with: the one in use, and the one before it."""

__all__ = ["TokenSecrets"]


class TokenSecrets:
    """Signs with one secret; takes tokens of the former one, too, so that it can be changed.

    Args:
        current: signs.
        former: was `current` before.
    """

    def __init__(self, current: bytes, former: bytes | None = None) -> None:
        self._taken: tuple[bytes, ...] = ()
        self.replace(current, former)

    @property
    def current(self) -> bytes:
        """Signs new tokens."""
        return self._taken[0]

    @property
    def taken(self) -> tuple[bytes, ...]:
        """Those that a token may be signed with, the current one first."""
        return self._taken

    def replace(self, current: bytes, former: bytes | None) -> None:
        """Use other secrets from now on."""
        self._taken = (current,) if former is None else (current, former)
