"""Cuts a client's bytes into chunks of whole samples."""

__all__ = ["Chunker"]


class Chunker:
    """Coalesces small inputs and splits large ones; never splits a sample.

    Pure. Holds less than one chunk.

    Args:
        sample_rate_hz: of PCM s16le mono.
        chunk_ms: length of a full chunk.
    """

    def __init__(self, *, sample_rate_hz: int, chunk_ms: int) -> None:
        self._chunk_bytes = sample_rate_hz * chunk_ms // 1000 * 2
        self._rest = b""

    @property
    def n_waiting(self) -> int:
        """Bytes that wait for the rest of their chunk."""
        return len(self._rest)

    def split(self, data: bytes) -> list[bytes]:
        """Return the full chunks that `data` completes, in order."""
        size = self._chunk_bytes
        if not self._rest:
            if len(data) == size:
                return [data]  # the usual case: what the client sent is the chunk, uncopied
            if len(data) < size:
                self._rest = data
                return []
        joined = self._rest + data if self._rest else data
        n_full = len(joined) // size * size
        self._rest = joined[n_full:]
        return [joined[start : start + size] for start in range(0, n_full, size)]

    def take_rest(self) -> bytes:
        """Return the whole samples that wait; half a sample goes on waiting."""
        n_whole = len(self._rest) & ~1
        whole, self._rest = self._rest[:n_whole], self._rest[n_whole:]
        return whole

    def drop_rest(self) -> None:
        """Forget half a sample: what follows begins with a whole one."""
        self._rest = b""
