"""What a service that takes messages from a durable consumer counts and measures."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from nats.aio.msg import Msg

from speechbus_runtime.telemetry import Telemetry
from speechbus_runtime.tracing import following

__all__ = ["ConsumerMeasures"]


class ConsumerMeasures:
    """The instruments of one such service."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._n_pending = self._n_unacknowledged = 0
        self._n_handled = self._n_redelivered = 0
        prefix = "speechbus.consumer"
        telemetry.observe(
            f"{prefix}.pending",
            lambda: self._n_pending,
            unit="{message}",
            description="Messages that no instance of the service has got yet.",
        )
        telemetry.observe(
            f"{prefix}.unacknowledged",
            lambda: self._n_unacknowledged,
            unit="{message}",
            description="Messages in hand, or put off until later, in all instances.",
        )
        telemetry.count(
            f"{prefix}.messages",
            lambda: self._n_handled,
            unit="{message}",
            description="Messages taken, each time that one is delivered.",
        )
        telemetry.count(
            f"{prefix}.messages.redelivered",
            lambda: self._n_redelivered,
            unit="{message}",
            description="Of these, such as had been delivered before: put off, or not finished.",
        )

    def note(self, info: Mapping[str, Any]) -> None:
        """What the server says about the consumer."""
        self._n_pending = info["num_pending"]
        self._n_unacknowledged = info["num_ack_pending"]

    def taking(self, raw: Msg) -> AbstractContextManager[None]:
        """Count a delivered message, and follow its trace while it is handled."""
        self._n_handled += 1
        if (raw.metadata.num_delivered or 1) > 1:
            self._n_redelivered += 1
        return following((raw.headers or {}).get("traceparent", ""))
