"""What a simulated stream does to its connection, and when. Pure."""

import heapq
from typing import Protocol

import msgspec

from speechbus_simulator.script import Fault

__all__ = ["Action", "Agenda", "Close", "HalfOpen", "Reset", "SimulatedStream", "fault_action"]


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


class Agenda:
    """Actions in the order of their times; at one time, in the order in which they were added."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._n_added = 0

    def add(self, at_s: float, action: Action) -> None:
        """Plan an action."""
        self._n_added += 1
        heapq.heappush(self._heap, (at_s, self._n_added, action))

    def next_s(self) -> float | None:
        """When the next is due; None: there is none."""
        return self._heap[0][0] if self._heap else None

    def take(self, now_s: float) -> list[Action]:
        """Return what is due."""
        actions: list[Action] = []
        while self._heap and self._heap[0][0] <= now_s:
            actions.append(heapq.heappop(self._heap)[2])
        return actions


def fault_action(fault: Fault, *, garbage: str, unknown: str) -> Action | None:
    """Return what a fault does to the connection; None: it does something else.

    Args:
        fault: from the script.
        garbage: a message that is none.
        unknown: a message of a type that nobody knows.
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
        case "unknown_message":
            return unknown
        case _:
            return None
