"""Bytes that come as they will, for parsers that are generators and yield when they need more."""

from collections.abc import Generator

__all__ = ["ByteFeed"]


class ByteFeed:
    """What has come and was not used yet."""

    def __init__(self) -> None:
        self._buffer = b""
        self.n_used = 0
        """Bytes taken and skipped so far."""

    @property
    def n_waiting(self) -> int:
        """Bytes that were put and not used."""
        return len(self._buffer)

    def put(self, data: bytes) -> None:
        """Add what has come."""
        self._buffer += data

    def take(self, n: int) -> Generator[None, None, bytes]:
        """Return exactly `n` bytes."""
        while len(self._buffer) < n:
            yield
        return self.take_some(n)

    def take_some(self, n: int | None) -> bytes:
        """Return what is there, at most `n` bytes."""
        taken = self._buffer[:n]
        self._buffer = self._buffer[len(taken) :]
        self.n_used += len(taken)
        return taken

    def skip_zeros(self) -> Generator[None, None, None]:
        """Drop zeros up to the next other byte."""
        while not (others := self._buffer.lstrip(b"\0")):
            self.take_some(None)
            yield
        self.take_some(len(self._buffer) - len(others))

    def skip(self, n: int) -> Generator[None, None, None]:
        """Drop exactly `n` bytes."""
        n -= len(self.take_some(n))
        while n:
            yield
            n -= len(self.take_some(n))
