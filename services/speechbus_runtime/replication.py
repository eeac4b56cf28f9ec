"""How many servers hold a JetStream stream: raised where it is too few, never lowered."""

from collections.abc import Sequence

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamError, StreamSpec, request_api

__all__ = ["raise_replicas"]

_NOT_FOUND = 10059


async def raise_replicas(bus: BusConnection, streams: Sequence[StreamSpec]) -> set[str]:
    """Have more servers hold what exists already; they copy it while it is used.

    Fewer replicas than there are may be a run with the wrong settings: those stay.

    Returns:
        Names of the streams that were changed.

    Raises:
        JetStreamError: the server refuses: it has no peers, or they have no room.
        JetStreamUnavailableError: no answer.
    """
    raised: set[str] = set()
    for stream in streams:
        try:
            found = (await request_api(bus, f"STREAM.INFO.{stream.name}", {}))["config"]
        except JetStreamError as error:
            if error.err_code != _NOT_FOUND:
                raise
            continue
        replicas = stream.config["num_replicas"]
        if found["num_replicas"] < replicas:
            config = {**found, "num_replicas": replicas}
            await request_api(bus, f"STREAM.UPDATE.{stream.name}", config)
            raised.add(stream.name)
    return raised
