"""What a simulated stream does to its connection."""

from typing import Protocol

import msgspec

from speechbus_simulator.script import Fault

__all__ = ["Action", "Close", "HalfOpen", "Reset", "SimulatedStream", "fault_action"]


class Close(msgspec.Struct, frozen=True):
    """Close the WebSocket with a code."""

    code: int


class Reset(msgspec.Struct, frozen=True):
    """Cut the TCP connection (RST)."""


class HalfOpen(msgspec.Struct, frozen=True):
    """Answer nothing any more, not even pings."""


Action = str | Close | Reset | HalfOpen
"""A text message to send, or one of these."""


class SimulatedStream(Protocol):
    """One stream of one client, whatever the provider. Pure: the server brings the clock."""

    def receive(self, message: str | bytes, *, now_s: float) -> None:
        """Take what the client sent."""
        ...

    def next_due_s(self) -> float | None:
        """When `take_due` has something; None: when the client sends something."""
        ...

    def take_due(self, *, now_s: float) -> list[Action]:
        """Return what is to be done now, in order."""
        ...


def fault_action(fault: Fault, *, garbage: str) -> Action | None:
    """Return what a fault does to the connection; None: it does something else.

    Args:
        fault: from the script.
        garbage: a message that is none.
    """
    match fault.kind:
        case "reset":
            return Reset()
        case "half_open":
            return HalfOpen()
        case "close":
            return Close(fault.code)
        case "garbage":
            return garbage
        case _:
            return None
