"""What goes wrong in one session, and when. Pure."""

from collections.abc import Sequence

from speechbus_simulator.script import Fault, FaultKind, Script

__all__ = ["SessionFaults", "find_fault"]


def find_fault(faults: Sequence[Fault], kind: FaultKind, number: int) -> Fault | None:
    """Return the fault of this kind that the nth session, or the nth request, has."""
    for fault in faults:
        if fault.kind == kind and fault.session in {0, number}:
            return fault
    return None


class SessionFaults:
    """The faults of one session.

    Args:
        script: all faults.
        session: its number, from 1.
    """

    def __init__(self, script: Script, *, session: int) -> None:
        self._faults = [fault for fault in script.faults if fault.session in {0, session}]
        self._waiting = list(self._faults)

    def find(self, kind: FaultKind, at_ms: int, language: str = "") -> Fault | None:
        """Return the fault that what is said at this place in the audio has.

        Args:
            kind: of the fault.
            at_ms: of the session's audio.
            language: of a translation.
        """
        for fault in self._faults:
            if fault.kind == kind and at_ms >= fault.after_ms and fault.language in {"", language}:
                return fault
        return None

    def take_due(self, heard_ms: int) -> list[Fault]:
        """Return what happens now that so much audio is heard; each fault once."""
        due = [fault for fault in self._waiting if heard_ms >= fault.after_ms]
        self._waiting = [fault for fault in self._waiting if heard_ms < fault.after_ms]
        return due
