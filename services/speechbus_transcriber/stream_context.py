"""What all streams of a worker share."""

from collections.abc import Callable, Mapping

import msgspec

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.tracing import Tracing
from speechbus_transcriber.driver import Connections
from speechbus_transcriber.governor.governor import Governor
from speechbus_transcriber.measures import Measures
from speechbus_transcriber.providers.registry import Provider

__all__ = ["StreamContext"]


class StreamContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all streams of a worker share."""

    worker_id: str
    audio_bus: BusConnection
    """Bulk: audio in, nothing else."""
    control_bus: BusConnection
    """Everything small, so that audio never delays it."""
    publisher: AckedPublisher
    connections: Connections
    governor: Governor
    providers: Mapping[str, Provider]
    """Providers this worker has, in its own order."""
    lag_max_s: float
    """Audio that waits for longer than this is left out; infinite: never."""
    may_show: Callable[[], bool]
    """False while this worker cannot be sure that it still owns its streams."""
    now_ns: Callable[[], int]
    """Wall clock, ns since 1970."""
    measures: Measures
    tracing: Tracing = msgspec.field(default_factory=Tracing)
