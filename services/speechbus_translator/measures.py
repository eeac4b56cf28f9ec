"""What a translator counts and traces; docs/operations.md has the table."""

from typing import Final

from speechbus_contracts import TranslationFinal, TranslationMissing
from speechbus_runtime.telemetry import Telemetry
from speechbus_runtime.tracing import Span, Tracing, followed

__all__ = ["Measures", "start_span"]


MISSING_REASONS: Final = ("no_engine", "refused", "unavailable")


class Measures:
    """The instruments of one translator."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._translations = telemetry.meter.create_counter(
            "speechbus.translator.translations",
            "{translation}",
            "Translations stored, and those that will never come, by why.",
        )
        for reason in MISSING_REASONS:
            self._translations.add(0, {"engine": "none", "result": reason})
        self._put_off = telemetry.meter.create_counter(
            "speechbus.translator.finals.put_off",
            "{final}",
            "Finals that no engine could take now; they are tried again.",
        )
        self._put_off.add(0)

    def count(self, event: TranslationFinal | TranslationMissing) -> None:
        """A translation, or the word that there is none, was stored."""
        if isinstance(event, TranslationFinal):
            self._translations.add(1, {"engine": event.provider, "result": "translated"})
        else:
            self._translations.add(1, {"engine": "none", "result": event.reason})

    def count_put_off(self) -> None:
        """A final will be tried again."""
        self._put_off.add(1)


def start_span(tracing: Tracing, event: TranslationFinal | TranslationMissing) -> Span:
    """Begin the span of storing a translation, from when its final was taken."""
    taken = followed()
    engine, result = (
        (event.provider, "translated")
        if isinstance(event, TranslationFinal)
        else ("none", event.reason)
    )
    return tracing.start(
        "translation",
        kind="producer",
        parent=taken.traceparent,
        started_at_ms=taken.at_ms,
        attributes={
            "speechbus.stream.id": event.stream_id,
            "speechbus.language": event.language,
            "speechbus.engine": engine,
            "speechbus.result": result,
        },
    )
