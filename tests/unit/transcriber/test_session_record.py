"""What is counted of a stream's sessions."""

from contextlib import suppress

from speechbus_runtime.telemetry import Telemetry
from speechbus_runtime.tracing import Tracing
from speechbus_transcriber.measures import Measures
from speechbus_transcriber.providers.interface import ProviderUnavailableError
from speechbus_transcriber.session_record import SessionRecord
from tests.support.metrics import parse_metrics

SESSIONS = "speechbus_transcriber_sessions"
FAILOVERS = "speechbus_transcriber_failovers_total"


class Stream:
    """Records the sessions of one stream."""

    def __init__(self) -> None:
        self._telemetry = Telemetry("transcriber")
        self._measures = Measures(self._telemetry, capacity=1)
        self.last: SessionRecord | None = None

    def open(self, provider: str, *, error: ProviderUnavailableError | None = None) -> None:
        """Open the next session, or fail to."""
        record = SessionRecord(
            Tracing(),
            self._measures,
            provider=provider,
            stream_id="s",
            parent="",
            former=self.last,
        )
        self.last = record
        with suppress(ProviderUnavailableError), record.opening():
            if error is not None:
                raise error

    def end(self, error: ProviderUnavailableError | None = None) -> None:
        """End it; twice, as sessions are closed."""
        assert self.last is not None
        self.last.end(error)
        self.last.end(None)

    def read(self, name: str) -> dict[str, float]:
        """Values of a metric, by labels."""
        samples = parse_metrics(self._telemetry.render())
        return {k.removeprefix(name): v for k, v in samples.items() if k.startswith(f"{name}{{")}


def away(provider: str) -> ProviderUnavailableError:
    """How a provider fails."""
    return ProviderUnavailableError("connection_lost", provider=provider)


def test_sessions_are_counted_while_they_are_open() -> None:
    """One that could not be opened never was."""
    stream = Stream()
    stream.open("palabra", error=away("palabra"))
    opened = stream.read(SESSIONS)
    stream.open("palabra")
    during = stream.read(SESSIONS)
    stream.end()

    assert (opened, during) == ({}, {'{provider="palabra"}': 1.0})
    assert stream.read(SESSIONS) == {'{provider="palabra"}': 0.0}


def test_a_failover_is_a_session_elsewhere_after_a_failed_one() -> None:
    """Neither a session that follows another in peace, nor one more at the same provider."""
    stream = Stream()
    stream.open("kotoba")
    stream.end()
    stream.open("palabra")
    stream.end(away("palabra"))
    stream.open("palabra", error=away("palabra"))
    stream.open("kotoba")

    assert stream.read(FAILOVERS) == {'{from_provider="palabra",provider="kotoba"}': 1.0}
