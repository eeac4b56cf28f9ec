"""Ingest as a service: one port for all doors, supervision of its own streams."""

import asyncio
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

from speechbus_contracts import JOBS_STORE, SESSION_STORE, TRANSCRIPT_STORE, audio_stream_name
from speechbus_ingest.bus_stream import IngestContext
from speechbus_ingest.connections import CONNECTIONS_PER_STREAM, TenantConnections
from speechbus_ingest.doors.client_secrets import ClientSecrets
from speechbus_ingest.doors.kotoba import KotobaDoor
from speechbus_ingest.doors.native import NativeDoor
from speechbus_ingest.doors.palabra import PalabraDoor
from speechbus_ingest.doors.palabra_holds import SessionHolds
from speechbus_ingest.doors.palabra_storage import PalabraStorage
from speechbus_ingest.doors.palabra_store import SessionStore
from speechbus_ingest.formats.decoders import Decoders
from speechbus_ingest.gate.addresses import Proxies
from speechbus_ingest.gate.failures import AuthenticationFailures
from speechbus_ingest.gate.gatekeeper import Gatekeeper
from speechbus_ingest.gate.origins import Origins
from speechbus_ingest.gate.tls import Certificate, CertificateError
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.measures import Measures
from speechbus_ingest.publisher import AudioPublisher
from speechbus_ingest.quotas import Quotas
from speechbus_ingest.registry import AudioNotStoredError, StreamRegistry
from speechbus_ingest.reloading import Reloading, encode_secret
from speechbus_ingest.resume import Resumer
from speechbus_ingest.routes import build_app
from speechbus_ingest.server import build_server, listen
from speechbus_ingest.settings import SETTINGS_PREFIX, Settings
from speechbus_ingest.supervisor import Supervisor
from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_ingest.viewer.routes import Viewer
from speechbus_runtime.bus import connect_bus
from speechbus_runtime.bus_rights import follow_rights
from speechbus_runtime.health import Health, watch_event_loop
from speechbus_runtime.health_routes import health_routes
from speechbus_runtime.health_server import serve_health
from speechbus_runtime.lifecycle import (
    EXIT_FAILED,
    EXIT_SETTINGS,
    ListenError,
    StoppedError,
    StopSignal,
    run_service,
    unless_stopped,
)
from speechbus_runtime.logs import configure_logs
from speechbus_runtime.object_watch import watch_objects
from speechbus_runtime.publisher import AckedPublisher
from speechbus_runtime.server_watch import watch_server
from speechbus_runtime.settings import SettingsError, read_settings
from speechbus_runtime.telemetry import Telemetry
from speechbus_runtime.telemetry_settings import TELEMETRY_PREFIX, TelemetrySettings
from speechbus_runtime.volatile_streams import VolatileStreams

__all__ = ["main"]

SERVICE: Final = "ingest"
STOP_MARGIN_S: Final = 5.0
LOOP_STALE_S: Final = 5.0
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
CONNECTIONS_EXTRA: Final = 500
"""HTTP requests and viewers beside the streams."""


def main() -> int:
    """Run the service; return the process's exit code."""
    read = partial(read_settings, Settings, prefix=SETTINGS_PREFIX)
    try:
        settings = read()
        certificate = _load_certificate(settings)
    except (SettingsError, CertificateError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETTINGS
    configure_logs(
        service=SERVICE, level=settings.log_level, json_lines=settings.log_format == "json"
    )
    try:
        listener = listen(settings.listen_host, settings.listen_port)
    except ListenError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED
    return run_service(
        lambda stop: _serve(settings, read, certificate, listener, stop),
        service=SERVICE,
        stop_within_s=settings.drain_s + STOP_MARGIN_S,
    )


async def _serve(
    settings: Settings,
    read: Callable[[], Settings],
    certificate: Certificate | None,
    listener: socket.socket,
    stop: StopSignal,
) -> None:
    loop = asyncio.get_running_loop()
    name = f"ingest-{os.getpid()}-{secrets.token_hex(4)}"
    health = Health(SERVICE)
    health.set_ready("bus", ok=False, reason="not connected to NATS yet")
    telemetry = Telemetry(SERVICE, read_settings(TelemetrySettings, prefix=TELEMETRY_PREFIX))
    telemetry.follow_logs()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(telemetry)
        stack.enter_context(suppress(StoppedError))
        stack.enter_context(watch_event_loop(health))
        if settings.health_port is not None:
            await stack.enter_async_context(
                serve_health(
                    health, telemetry, host=settings.health_host, port=settings.health_port
                )
            )
        login = settings.nats_login
        audio_bus = await unless_stopped(
            stop, connect_bus(settings.nats_url, name=f"{name}-audio", login=login)
        )
        stack.push_async_callback(audio_bus.shut_down)
        control_bus = await unless_stopped(
            stop, connect_bus(settings.nats_url, name=name, login=login)
        )
        stack.push_async_callback(control_bus.shut_down)
        follow_rights((audio_bus, control_bus), health)
        for bus in (audio_bus, control_bus):
            telemetry.follow(bus)
        supervisor = Supervisor(
            control_bus, now_s=loop.time, beat=lambda: health.beat("supervisor")
        )
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="speechbus-")))
        decoders = Decoders(folder, streams_max=settings.decoders_max)
        audio = AudioPublisher(audio_bus, now_s=loop.time)
        measures = Measures(
            telemetry,
            count_streams=lambda: registry.n_streams,
            count_refused=lambda: audio.refused,
        )
        context = IngestContext(
            control_bus=control_bus,
            publisher=AckedPublisher(
                control_bus,
                on_problem=lambda why: health.set_ready("store", ok=not why, reason=why),
                on_acked=telemetry.record_ack,
            ),
            audio=audio,
            supervisor=supervisor,
            decoders=decoders,
            chunk_ms=settings.chunk_ms,
            shards=settings.shards,
            now_ns=time.time_ns,
            ingest_id=name,
            tracing=telemetry.tracing,
            count_undecodable=measures.count_undecodable,
            count_gap=measures.count_gap,
        )
        registry = StreamRegistry(
            context,
            streams_max=settings.streams_max,
            streams_per_key_max=settings.streams_per_key_max,
            beat=lambda: health.beat("streams"),
            resume_s=settings.resume_s,
            quotas=Quotas(
                streams_per_minute=settings.streams_per_key_per_minute_max,
                bytes_per_s=settings.bytes_per_s_per_key_max,
                now_s=loop.time,
            ),
        )
        keys = KeyRing((tenant, key.reveal()) for tenant, key in settings.api_keys)
        connections = TenantConnections(CONNECTIONS_PER_STREAM * settings.streams_per_key_max)
        native = NativeDoor(
            keys,
            registry,
            Resumer(registry),
            connections=connections,
            idle_s=settings.idle_s,
            duration_s=settings.duration_s,
        )
        sessions = SessionStore(control_bus, context.publisher, now_ms=_now_ms)
        token_secrets = _build_token_secrets(settings)
        storage = PalabraStorage(keys, sessions, token_secrets=token_secrets, now_ms=_now_ms)
        palabra = PalabraDoor(
            keys,
            registry,
            SessionHolds(
                control_bus,
                sessions,
                ingest_id=name,
                per_key_max=settings.palabra_sessions_per_key_max,
                now_ms=_now_ms,
            ),
            token_secrets=token_secrets,
            idle_s=settings.idle_s,
            duration_s=settings.duration_s,
            now_s=lambda: time.time_ns() / 1e9,
        )

        kotoba = KotobaDoor(
            keys,
            registry,
            ClientSecrets(keys, token_secrets, control_bus, now_ns=time.time_ns),
            connections=connections,
            idle_s=settings.idle_s,
            duration_s=settings.duration_s,
        )
        viewer = Viewer(control_bus, keys, token_secrets, mode=settings.viewer, now_ns=time.time_ns)

        stores = VolatileStreams(
            audio_bus, [audio_stream_name(shard) for shard in range(settings.shards)]
        )
        await unless_stopped(stop, stores.learn())

        async def restore() -> None:
            await stores.restore()
            context.audio.distrust_store()
            health.set_ready("bus", ok=True)

        audio_bus.on_reconnected(restore)
        audio_bus.on_disconnected(
            lambda: health.set_ready("bus", ok=False, reason="NATS is away; reconnecting")
        )
        app = build_app(
            native=native,
            storage=storage,
            palabra=palabra,
            kotoba=kotoba,
            viewer=viewer,
            health=health_routes(health),
        )
        gatekeeper = Gatekeeper(
            keys,
            token_secrets,
            failures=AuthenticationFailures(settings.failures_per_address_max),
            proxies=Proxies(settings.trusted_proxies),
            origins=Origins(settings.allowed_origins),
            is_rebindable=settings.viewer == "open" and settings.listen_host in LOOPBACK,
            now_s=loop.time,
            count_refusal=measures.count_refusal,
        )
        server = build_server(
            app,
            gatekeeper,
            connections_max=settings.streams_max + CONNECTIONS_EXTRA,
            tls=None if certificate is None else certificate.context,
        )
        reloading = Reloading(
            settings, read, keys=keys, secrets=token_secrets, certificate=certificate
        )
        # Not before: who waits for NATS is well, and need not be started again.
        health.register("supervisor", stale_after_s=LOOP_STALE_S)
        health.register("streams", stale_after_s=LOOP_STALE_S)
        async with asyncio.TaskGroup() as tasks:
            supervising = tasks.create_task(supervisor.run(), name="supervisor")
            tending = tasks.create_task(registry.run(), name="streams")
            watching = tasks.create_task(
                watch_objects(
                    control_bus,
                    health,
                    streams=(JOBS_STORE, TRANSCRIPT_STORE, SESSION_STORE),
                    consumers=(),
                    volatile=stores,
                    on_restored=context.audio.distrust_store,
                    on_answer=measures.note_object,
                ),
                name="objects",
            )
            leaving = tasks.create_task(
                watch_server((audio_bus, control_bus), store=TRANSCRIPT_STORE), name="server"
            )
            decoding = tasks.create_task(decoders.run(), name="decoders")
            changing = tasks.create_task(reloading.run(), name="changes")
            serving = tasks.create_task(server.serve(sockets=[listener]), name="server")
            health.set_ready("bus", ok=True)
            health.mark_serving()
            await stop.wait()
            health.mark_draining()
            not_stored: AudioNotStoredError | None = None
            try:
                await registry.drain(within_s=settings.drain_s)
            except AudioNotStoredError as error:
                not_stored = error  # clients get their goodbye all the same
            viewer.close()  # after the drain: viewers see the last finals, too
            server.should_exit = True
            await serving
            supervising.cancel()
            watching.cancel()
            leaving.cancel()
            tending.cancel()
            decoding.cancel()
            changing.cancel()
            if not_stored is not None:
                raise not_stored


def _load_certificate(settings: Settings) -> Certificate | None:
    if settings.tls_certificate_path is None or settings.tls_key_path is None:
        return None
    return Certificate(settings.tls_certificate_path, settings.tls_key_path)


def _build_token_secrets(settings: Settings) -> TokenSecrets:
    return TokenSecrets(
        encode_secret(settings.token_secret) or secrets.token_bytes(32),
        encode_secret(settings.token_secret_former),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
