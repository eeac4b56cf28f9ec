"""What of a simulator is one provider's: its addresses, who may come in, and its streams."""

import hmac
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from speechbus_simulator.actions import SimulatedStream
from speechbus_simulator.http_head import Asked, RefusedError

__all__ = ["Admission", "SimulatedProvider", "is_same"]


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Who may open a stream."""

    identity: str
    """Whose session it is."""
    subprotocol: str | None = None
    """What a browser's offer is answered with."""
    open_refusal: Callable[[], SimulatedStream] | None = None
    """Begins a stream that only says that there are too many, for a browser, which cannot read
    the status of a refused upgrade; None: the client reads it."""


class SimulatedProvider(Protocol):
    """What of a simulator is one provider's."""

    @property
    def stream_path(self) -> str:
        """Where streams are opened."""
        ...

    @property
    def busy_status(self) -> int:
        """Says that there are too many sessions."""
        ...

    @property
    def sessions_per_identity_max(self) -> int:
        """Sessions at once where the script says nothing; 0: no limit."""
        ...

    def answer(self, asked: Asked, body: bytes) -> bytes:
        """Answer a request that is no upgrade.

        Raises:
            RefusedError: with the status.
        """
        ...

    def admit(self, asked: Asked, *, session: int, now_s: float) -> Admission:
        """Check who asks for a stream.

        Args:
            asked: the upgrade.
            session: the stream's number.
            now_s: on the loop's clock.

        Raises:
            RefusedError: not this one.
        """
        ...

    def open_stream(self, asked: Asked, *, session: int, now_s: float) -> SimulatedStream:
        """Begin a stream.

        Raises:
            RefusedError: its parameters are wrong.
        """
        ...

    def note_live(self, identity: str, change: int) -> None:
        """Take note that a stream of this identity began (1) or ended (-1)."""
        ...

    def spell_refusal(self, error: RefusedError, path: str) -> Any:  # noqa: ANN401 (any JSON)
        """Return the vendor's error body."""
        ...


def is_same(text: str, wanted: str) -> bool:
    """Compare a secret in constant time."""
    return hmac.compare_digest(text.encode(errors="replace"), wanted.encode(errors="replace"))
