"""What an ingest counts and measures; docs/operations.md has the table."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from speechbus_contracts import JOBS_STORE, Gap
from speechbus_ingest.formats.undecodable import PROBLEMS
from speechbus_ingest.gate.gatekeeper import COUNTED
from speechbus_runtime.jetstream import parse_time_ms
from speechbus_runtime.telemetry import Telemetry

__all__ = ["Measures"]

UNSAID_REASON: Final = "audio_lost"
"""Of the gaps that ingest finds."""


class Measures:
    """The instruments of one ingest; all are plain numbers that are read when somebody asks.

    Args:
        telemetry: of the process.
        count_streams: tells how many are open.
        count_refused: tells how many chunks the store has refused.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        count_streams: Callable[[], int],
        count_refused: Callable[[], int],
    ) -> None:
        # From 0: Prometheus takes a first value for one that has always been there.
        self._undecodable = Counter(dict.fromkeys(PROBLEMS, 0))
        self._refused = Counter({str(status): 0 for status in sorted(COUNTED)})
        self._gap_s = {UNSAID_REASON: 0.0}
        self._n_jobs = 0
        self._job_age_s = 0.0
        prefix = "speechbus.ingest"
        telemetry.observe(
            f"{prefix}.streams", count_streams, unit="{stream}", description="Streams open."
        )
        telemetry.count(
            f"{prefix}.chunks.refused",
            count_refused,
            unit="{chunk}",
            description="Chunks that JetStream did not take at once; they are sent again.",
        )
        telemetry.count(
            f"{prefix}.streams.undecodable",
            lambda: dict(self._undecodable),
            unit="{stream}",
            description="Streams ended because their audio could not be decoded.",
            label="problem",
        )
        telemetry.count(
            f"{prefix}.gap.duration",
            lambda: dict(self._gap_s),
            unit="s",
            description="Audio accepted behind the end of a stream whose worker lost sight of it.",
            label="reason",
        )
        telemetry.count(
            f"{prefix}.requests.refused",
            lambda: dict(self._refused),
            unit="{request}",
            description="Requests refused for their key or token (401, 403), or for a limit (429).",
            label="status",
        )
        # Every ingest asks the bus for the same: take the largest, never the sum.
        telemetry.observe(
            "speechbus.jobs.waiting",
            lambda: self._n_jobs,
            unit="{stream}",
            description="Streams that no worker has taken yet, of the whole system.",
        )
        telemetry.observe(
            "speechbus.jobs.oldest.age",
            lambda: self._job_age_s,
            unit="s",
            description="For how long the first of them has waited; 0: none waits.",
        )

    def count_undecodable(self, problem: str) -> None:
        """A stream ended because its audio could not be decoded."""
        self._undecodable[problem] += 1

    def count_gap(self, gap: Gap) -> None:
        """A gap that no worker has told was found."""
        self._gap_s[UNSAID_REASON] += (gap.to_ms - gap.from_ms) / 1000

    def count_refusal(self, status: int) -> None:
        """A request was refused."""
        self._refused[str(status)] += 1

    def note_object(self, name: str, answer: Mapping[str, Any]) -> None:
        """What the server says about a JetStream object."""
        if name == JOBS_STORE:
            state = answer["state"]
            self._n_jobs = state["messages"]
            self._job_age_s = 0.0
            if self._n_jobs and "ts" in answer:
                age_ms = parse_time_ms(answer["ts"]) - parse_time_ms(state["first_ts"])
                self._job_age_s = max(0.0, age_ms / 1000)
