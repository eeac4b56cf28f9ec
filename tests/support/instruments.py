"""All instruments of all services in one process, after everything has happened once."""

from typing import Final

from speechbus_contracts import (
    JOBS_STORE,
    CaptionJoined,
    Gap,
    TranslationFinal,
    TranslationMissing,
)
from speechbus_correlator.measures import Measures as CorrelatorMeasures
from speechbus_ingest.measures import Measures as IngestMeasures
from speechbus_runtime.consumer_measures import ConsumerMeasures
from speechbus_runtime.telemetry import Telemetry
from speechbus_transcriber.lag_watch import Lag
from speechbus_transcriber.measures import Measures as TranscriberMeasures
from speechbus_transcriber.providers.interface import (
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from speechbus_translator.measures import Measures as TranslatorMeasures

__all__ = ["expose"]

ERRORS: Final[tuple[type[ProviderError], ...]] = (
    ProviderUnavailableError,
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderProtocolError,
)
GAP: Final = Gap(
    stream_id="s",
    tenant="t",
    epoch=1,
    from_ms=0,
    to_ms=1_500,
    reason="lag",
    next_index=0,
    gap_ms_total=1_500,
    audio_received_at=0,
)
TRANSLATION: Final = TranslationFinal(
    stream_id="s",
    tenant="t",
    transcription_id="s-0",
    language="es",
    text="hola",
    start_ms=0,
    end_ms=500,
    provider="apertium",
    revision=0,
)
MISSING: Final = TranslationMissing(
    stream_id="s",
    tenant="t",
    transcription_id="s-0",
    language="xx",
    revision=0,
    reason="no_engine",
)
CAPTION: Final = CaptionJoined(
    stream_id="s", tenant="t", transcription_id="s-0", revision=1, state="complete", source=None
)


def expose() -> str:
    """What Prometheus reads of them."""
    telemetry = Telemetry("test")
    telemetry.observe_ready(lambda: True)
    telemetry.record_ack(0.001)
    _measure_ingest(IngestMeasures(telemetry, count_streams=lambda: 1, count_refused=lambda: 0))
    _measure_transcriber(TranscriberMeasures(telemetry, capacity=1))
    ConsumerMeasures(telemetry).note({"num_pending": 0, "num_ack_pending": 0})
    translator = TranslatorMeasures(telemetry)
    translator.count(TRANSLATION)
    translator.count(MISSING)
    translator.count_put_off()
    CorrelatorMeasures(telemetry).count(CAPTION)
    return telemetry.render().decode()


def _measure_ingest(measures: IngestMeasures) -> None:
    measures.count_undecodable("damaged")
    measures.count_refusal(401)
    measures.count_gap(GAP)
    state = {"messages": 1, "first_ts": "2026-11-30T06:00:00Z"}
    measures.note_object(JOBS_STORE, {"ts": "2026-11-30T06:00:01.5Z", "state": state})


def _measure_transcriber(measures: TranscriberMeasures) -> None:
    measures.n_sessions["palabra"] = 1
    measures.count_claim("opened")
    measures.count_redelivered()
    measures.count_opened("palabra")
    for error in ERRORS:
        measures.count_failed(error("code", provider="palabra"))
    measures.count_failover("palabra", "kotoba")
    measures.count_partial()
    measures.record_final("palabra", waited_s=0.4)
    measures.count_gap(GAP)
    measures.count_fenced()
    measures.note_lags([Lag(uncovered_s=7.0, waiting_s=4.0, is_behind=True)])
