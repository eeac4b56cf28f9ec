"""The translator as a service: finals in by a durable consumer, translations out."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from speechbus_contracts import (
    TRANSCRIPT_STORE,
    TRANSLATOR_CONSUMER,
    ContractError,
    LiveSubject,
    TranslationFinal,
    TranslationMissing,
    TranslationPartial,
    WriteSubject,
    build_dedup_headers,
    build_translator_consumer,
    encode_event,
    translation_dedup_id,
    translation_missing_dedup_id,
)
from speechbus_contracts.subjects import ROOT
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.lifecycle import EXIT_SETTINGS
from speechbus_runtime.logs import configure_logs
from speechbus_runtime.publisher import AckedPublisher, PublishRefusedError
from speechbus_runtime.pull_service import Delivery, Handle, PullService, run_pulls
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_runtime.telemetry import Telemetry
from speechbus_translator.engines.apertium import Apertium
from speechbus_translator.engines.ctranslate import CTranslate2, ModelFolderError
from speechbus_translator.engines.interface import Engine
from speechbus_translator.engines.libretranslate import LibreTranslate
from speechbus_translator.measures import Measures, start_span
from speechbus_translator.partials import PartialTranslator, parse_partial
from speechbus_translator.pool import EnginePool
from speechbus_translator.settings import SETTINGS_PREFIX, Settings
from speechbus_translator.transcript import Transcript
from speechbus_translator.translator import HANDLE_WITHIN_S, StoredFinal, Translator, parse_final

__all__ = ["main"]

logger = logging.getLogger(__name__)

SERVICE: Final = "translator"
FINALS_IN_HAND_MAX: Final = 8
"""Of one pull: as many as one engine takes at the same time by default."""
PARTIALS: Final = f"{ROOT}.live.*.*.partial"
PARTIALS_QUEUE: Final = "translators"
"""Each partial is translated by one of them."""
PULLS: Final = 4
"""One text that an engine holds for its whole time-out holds up a quarter."""


def main() -> int:
    """Run the service; return the process's exit code."""
    try:
        settings = read_settings(Settings, prefix=SETTINGS_PREFIX)
        ctranslate2 = _load_ctranslate2(settings)
    except (SettingsError, ModelFolderError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETTINGS
    configure_logs(
        service=SERVICE, level=settings.log_level, json_lines=settings.log_format == "json"
    )
    spec = PullService(
        service=SERVICE,
        nats_url=settings.nats_url,
        nats_login=settings.nats_login,
        health_host=settings.health_host,
        health_port=settings.health_port,
        jetstream_name=TRANSCRIPT_STORE,
        consumer=TRANSLATOR_CONSUMER,
        subject=build_translator_consumer()["filter_subject"],
        stores=(),
        in_hand_max=FINALS_IN_HAND_MAX,
        pulls=PULLS,
        handle_within_s=HANDLE_WITHIN_S,
        drops_on=(ContractError, PublishRefusedError),
        repeats_on=(JetStreamUnavailableError,),
    )
    return run_pulls(
        spec,
        lambda bus, publisher, telemetry: _prepare(
            bus, publisher, telemetry, settings, ctranslate2
        ),
    )


def _load_ctranslate2(settings: Settings) -> CTranslate2 | None:
    if not settings.ctranslate2_dir or "ctranslate2" not in settings.engines:
        return None
    return CTranslate2(Path(settings.ctranslate2_dir), threads=settings.concurrency)


@asynccontextmanager
async def _prepare(
    bus: BusConnection,
    publisher: AckedPublisher,
    telemetry: Telemetry,
    settings: Settings,
    ctranslate2: CTranslate2 | None,
) -> AsyncGenerator[Handle]:
    engines = _open_engines(settings, ctranslate2)
    logger.info("engines", extra={"engines": [engine.name for engine in engines]})
    pool = EnginePool(
        engines,
        timeout_s=settings.timeout_s,
        concurrency=settings.concurrency,
        now_s=asyncio.get_running_loop().time,
    )

    measures = Measures(telemetry)

    async def publish(event: TranslationFinal | TranslationMissing) -> None:
        subject = WriteSubject(event.tenant, event.stream_id, "translation", event.language)
        build_id = (
            translation_dedup_id
            if isinstance(event, TranslationFinal)
            else translation_missing_dedup_id
        )
        dedup_id = build_id(event.transcription_id, event.language, event.revision)
        with start_span(telemetry.tracing, event) as span:
            headers = encode_headers(build_dedup_headers(dedup_id) | span.headers)
            await publisher.publish(str(subject), encode_event(event), headers=headers)
        measures.count(event)

    partials = _open_partials(bus, pool) if settings.partials else None
    translator = Translator(
        pool,
        Transcript(bus),
        publish,
        retry_for_s=settings.retry_for_s,
        step_in_s=settings.step_in_s,
    )

    async def handle(delivery: Delivery) -> float | None:
        final = StoredFinal(
            delivery.sequence,
            delivery.stored_at_ms,
            delivery.n_delivered,
            parse_final(delivery.subject, delivery.payload),
        )
        again_s = await translator.handle(final, now_ms=time.time_ns() // 1_000_000)
        if again_s is not None:
            measures.count_put_off()
        return again_s

    try:
        yield handle
    finally:
        if partials is not None:
            await partials.close()
        for engine in engines:
            await engine.close()


def _open_partials(bus: BusConnection, pool: EnginePool) -> PartialTranslator:
    def publish(event: TranslationPartial) -> None:
        subject = str(LiveSubject(event.tenant, event.stream_id, "partial_translation"))
        payload = encode_event(event)
        if len(payload) <= bus.max_payload:
            bus.publish_nowait(subject.encode(), payload)

    partials = PartialTranslator(
        lambda text, source, target: pool.translate_passing(text, source=source, target=target),
        publish,
    )

    def receive(subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        with suppress(ContractError):  # garbage; a partial is not worth a line in the log
            partials.take(parse_partial(subject.decode(), payload))

    bus.subscribe_direct(PARTIALS, receive, queue=PARTIALS_QUEUE)
    return partials


def _open_engines(settings: Settings, ctranslate2: CTranslate2 | None) -> list[Engine]:
    """Return the engines that are set up, in the order to try them."""
    engines: list[Engine] = []
    for name in dict.fromkeys(settings.engines):
        if name == "ctranslate2" and ctranslate2 is not None:
            engines.append(ctranslate2)
        elif name == "libretranslate" and settings.libretranslate_url:
            key = settings.libretranslate_api_key
            engines.append(
                LibreTranslate(
                    settings.libretranslate_url,
                    api_key="" if key is None else key.reveal(),
                    connections_max=settings.concurrency,
                )
            )
        elif name == "apertium":
            engines.append(Apertium(Path(settings.apertium_modes)))
    return engines
