"""What a transcriber counts and measures; docs/operations.md has the table."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from speechbus_contracts import Gap
from speechbus_runtime.telemetry import Telemetry
from speechbus_transcriber.lag_watch import Lag
from speechbus_transcriber.providers.interface import (
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimitedError,
    ProviderRejectedError,
)

__all__ = ["Measures", "classify_error"]

LAG_BOUNDS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0, 300.0)
"""A sentence is covered some seconds after its beginning; AUDIO forgets after 90 s."""


CLAIM_REASONS: Final = ("opened", "worker_lost", "worker_frozen", "drain")
GAP_REASONS: Final = ("audio_lost", "provider", "lag", "refused")
ERROR_TYPES: Final = ("unavailable", "rate_limited", "rejected", "protocol")
LATENCY_BOUNDS_S: Final = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Providers end a sentence 0.3 to 2 s after its last word; who catches up takes longer."""


class Measures:
    """The instruments of one worker.

    Args:
        telemetry: of the process.
        capacity: streams it can carry.
        providers: that it has.
    """

    def __init__(
        self, telemetry: Telemetry, *, capacity: int, providers: Sequence[str] = ()
    ) -> None:
        meter = telemetry.meter
        self.n_streams = 0
        """Streams carried."""
        self.n_sessions: Counter[str] = Counter(dict.fromkeys(providers, 0))
        """Sessions open at each provider."""
        self._n_partials = 0
        self._n_redelivered = 0
        self._n_behind = 0
        self._lag_max_s = 0.0
        prefix = "speechbus.transcriber"
        for name, read, unit, description in (
            ("streams", lambda: self.n_streams, "{stream}", "Streams carried."),
            ("capacity", lambda: capacity, "{stream}", "Streams that can be carried."),
            (
                "streams.behind",
                lambda: self._n_behind,
                "{stream}",
                "Streams whose audio waits for its provider.",
            ),
            (
                "stream.lag.max",
                lambda: self._lag_max_s,
                "s",
                "Audio received and not covered yet, of the stream that has most of it.",
            ),
        ):
            telemetry.observe(f"{prefix}.{name}", read, unit=unit, description=description)
        telemetry.observe(
            f"{prefix}.sessions",
            lambda: dict(self.n_sessions),
            unit="{session}",
            description="Provider sessions open.",
            label="provider",
        )
        for name, count, unit, description in (
            ("partials", lambda: self._n_partials, "{partial}", "Partials published."),
            (
                "jobs.redelivered",
                lambda: self._n_redelivered,
                "{delivery}",
                "Waiting streams that had been given to a worker before, without a claim.",
            ),
        ):
            telemetry.count(f"{prefix}.{name}", count, unit=unit, description=description)
        self._latency = meter.create_histogram(
            f"{prefix}.final.latency",
            "s",
            "From the end of what was said, as ingest had it, to its final.",
            explicit_bucket_boundaries_advisory=LATENCY_BOUNDS_S,
        )
        self._lag = meter.create_histogram(
            f"{prefix}.stream.lag",
            "s",
            "Audio received and not covered yet, of every stream once a second.",
            explicit_bucket_boundaries_advisory=LAG_BOUNDS_S,
        )
        self._claims = meter.create_counter(
            f"{prefix}.claims", "{claim}", "Streams taken over, by why they were placed."
        )
        self._opened = meter.create_counter(
            f"{prefix}.sessions.opened", "{session}", "Provider sessions opened."
        )
        self._failed = meter.create_counter(
            f"{prefix}.sessions.failed",
            "{session}",
            "Provider sessions that could not be opened, or broke.",
        )
        self._failovers = meter.create_counter(
            f"{prefix}.failovers",
            "{session}",
            "Sessions opened at another provider than that of the failed session before.",
        )
        self._gap = meter.create_counter(
            f"{prefix}.gap.duration", "s", "Audio accepted and not transcribed."
        )
        self._fenced = meter.create_counter(
            f"{prefix}.writes.fenced",
            "{write}",
            "Writes refused because the stream has another owner.",
        )
        self._begin(providers)

    def _begin(self, providers: Sequence[str]) -> None:
        """Count from 0: Prometheus takes a first value for one that has always been there."""
        self._fenced.add(0)
        for reason in CLAIM_REASONS:
            self._claims.add(0, {"reason": reason})
        for reason in GAP_REASONS:
            self._gap.add(0, {"reason": reason})
        for provider in providers:
            self._opened.add(0, {"provider": provider})
            for error_type in ERROR_TYPES:
                self._failed.add(0, {"provider": provider, "error.type": error_type})

    def count_claim(self, reason: str) -> None:
        """A stream was taken over; `reason` is the job's, made by an ingest or a worker."""
        self._claims.add(1, {"reason": reason})

    def count_opened(self, provider: str) -> None:
        """A session was opened."""
        self._opened.add(1, {"provider": provider})

    def count_failed(self, error: ProviderError) -> None:
        """A session could not be opened, or broke."""
        self._failed.add(1, {"provider": error.provider, "error.type": classify_error(error)})

    def count_failover(self, failed: str, provider: str) -> None:
        """A stream has left a provider that failed it, for another one."""
        self._failovers.add(1, {"from_provider": failed, "provider": provider})

    def count_partial(self) -> None:
        """A partial was published; hundreds a second."""
        self._n_partials += 1

    def count_redelivered(self) -> None:
        """A job came that somebody has had before."""
        self._n_redelivered += 1

    def record_final(self, provider: str, *, waited_s: float) -> None:
        """A final was stored."""
        self._latency.record(waited_s, {"provider": provider})

    def count_gap(self, gap: Gap) -> None:
        """A gap was stored."""
        self._gap.add((gap.to_ms - gap.from_ms) / 1000, {"reason": gap.reason})

    def count_fenced(self) -> None:
        """A write was refused: somebody else owns the stream."""
        self._fenced.add(1)

    def note_lags(self, lags: Sequence[Lag]) -> None:
        """What each stream lags, once a second."""
        for lag in lags:
            self._lag.record(lag.uncovered_s)
        self._lag_max_s = max((lag.uncovered_s for lag in lags), default=0.0)
        self._n_behind = sum(lag.is_behind for lag in lags)


def classify_error(error: ProviderError) -> str:
    """Return a word of few for what happened to a session."""
    match error:
        case ProviderRateLimitedError():
            return "rate_limited"
        case ProviderRejectedError():
            return "rejected"
        case ProviderProtocolError():
            return "protocol"
        case _:
            return "unavailable"
