"""What a correlator counts and traces; docs/operations.md has the table."""

from typing import get_args

from speechbus_contracts import CaptionJoined, CaptionState
from speechbus_runtime.telemetry import Telemetry
from speechbus_runtime.tracing import Span, Tracing, followed

__all__ = ["Measures", "start_span"]


class Measures:
    """The instruments of one correlator."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._captions = telemetry.meter.create_counter(
            "speechbus.correlator.captions",
            "{caption}",
            "Captions stored; `incomplete` ones have passed their deadline.",
        )
        for state in get_args(CaptionState):
            self._captions.add(0, {"state": state})

    def count(self, caption: CaptionJoined) -> None:
        """A caption was stored."""
        self._captions.add(1, {"state": caption.state})


def start_span(tracing: Tracing, caption: CaptionJoined) -> Span:
    """Begin the span of storing a caption, from when the event that makes it was taken."""
    taken = followed()
    return tracing.start(
        "caption",
        kind="producer",
        parent=taken.traceparent,
        started_at_ms=taken.at_ms,
        attributes={
            "speechbus.stream.id": caption.stream_id,
            "speechbus.state": caption.state,
            "speechbus.missing": len(caption.missing),
        },
    )
