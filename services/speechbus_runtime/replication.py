"""The servers that hold a JetStream stream: are they enough, and do they hear each other?"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamError, StreamSpec, request_api

__all__ = ["has_quorum", "raise_replicas"]

HEARD_WITHIN_NS: Final = 3_000_000_000
"""Replicas speak with their leader every second; one that is cut off goes on leading for 10 s."""
_NOT_FOUND: Final = 10059


def has_quorum(info: Mapping[str, Any]) -> bool:
    """Tell whether the leader that gave this `STREAM.INFO` can store anything."""
    replicas = info.get("cluster", {}).get("replicas") or ()
    heard = [one for one in replicas if one["current"] and one["active"] < HEARD_WITHIN_NS]
    return 2 * (1 + len(heard)) > 1 + len(replicas)


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
