"""What an ingest measures; docs/operations.md has the table."""

from collections.abc import Callable

from speechbus_runtime.telemetry import Telemetry

__all__ = ["measure_ingest"]


def measure_ingest(telemetry: Telemetry, *, count_streams: Callable[[], int]) -> None:
    """Have the instruments of one ingest read."""
    telemetry.observe(
        "speechbus.ingest.streams", count_streams, unit="{stream}", description="Streams open."
    )
