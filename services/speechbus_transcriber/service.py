"""The transcriber as a service: settings in, a worker that runs until it is told to stop."""

import asyncio
import math
import os
import secrets
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

from speechbus_contracts import (
    JOBS_CONSUMER,
    JOBS_STORE,
    PROVIDER_STORE,
    TRANSCRIPT_STORE,
    audio_stream_name,
)
from speechbus_runtime.bus import connect_bus
from speechbus_runtime.bus_rights import follow_rights
from speechbus_runtime.health import Health
from speechbus_runtime.health_server import serve_health
from speechbus_runtime.kept_process import KeptProcess
from speechbus_runtime.lifecycle import (
    EXIT_SETTINGS,
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
from speechbus_runtime.volatile_streams import VolatileStreams
from speechbus_transcriber.connections import ProviderConnections
from speechbus_transcriber.governor.governor import Governor
from speechbus_transcriber.measures import Measures
from speechbus_transcriber.providers.registry import build_providers
from speechbus_transcriber.settings import SETTINGS_PREFIX, Settings
from speechbus_transcriber.stream_context import StreamContext
from speechbus_transcriber.worker import Worker

__all__ = ["main"]

SERVICE: Final = "transcriber"
STOP_MARGIN_S: Final = 5.0
"""For closing connections and the engine after the drain."""
LOOP_STALE_S: Final = 5.0
"""A worker whose heartbeat loop stood still this long does no work."""


def main() -> int:
    """Run the service; return the process's exit code."""
    try:
        settings = read_settings(Settings, prefix=SETTINGS_PREFIX)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETTINGS
    configure_logs(
        service=SERVICE, level=settings.log_level, json_lines=settings.log_format == "json"
    )
    return run_service(
        lambda stop: _serve(settings, stop),
        service=SERVICE,
        stop_within_s=settings.drain_s + STOP_MARGIN_S,
    )


async def _serve(settings: Settings, stop: StopSignal) -> None:
    worker_id = settings.worker_id or f"{os.getpid()}-{secrets.token_hex(4)}"
    health = Health(SERVICE)
    health.set_ready("bus", ok=False, reason="not connected to NATS yet")
    telemetry = Telemetry(SERVICE)
    async with AsyncExitStack() as stack:
        stack.enter_context(suppress(StoppedError))
        await stack.enter_async_context(
            serve_health(health, telemetry, host=settings.health_host, port=settings.health_port)
        )
        sockets = await _start_engines(stack, settings)
        audio_bus = await unless_stopped(
            stop,
            connect_bus(
                settings.nats_url,
                name=f"transcriber-{worker_id}-audio",
                login=settings.nats_login,
            ),
        )
        stack.push_async_callback(audio_bus.shut_down)
        control_bus = await unless_stopped(
            stop,
            connect_bus(
                settings.nats_url, name=f"transcriber-{worker_id}", login=settings.nats_login
            ),
        )
        stack.push_async_callback(control_bus.shut_down)
        follow_rights((audio_bus, control_bus), health)
        for bus in (audio_bus, control_bus):
            telemetry.follow(bus)
        stores = VolatileStreams(
            audio_bus, [audio_stream_name(shard) for shard in range(settings.shards)]
        )
        await unless_stopped(stop, stores.learn())
        publisher = AckedPublisher(
            control_bus,
            on_problem=lambda why: health.set_ready("store", ok=not why, reason=why),
        )
        connections = await stack.enter_async_context(ProviderConnections(sockets))
        providers = build_providers(
            settings.route, settings.accounts, session_limit_s=settings.session_limit_s
        )
        governor = Governor(
            control_bus,
            publisher,
            connections,
            providers,
            worker_id=worker_id,
            without_slot=settings.without_slot,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        context = StreamContext(
            worker_id=worker_id,
            audio_bus=audio_bus,
            control_bus=control_bus,
            publisher=publisher,
            connections=connections,
            governor=governor,
            providers=providers,
            lag_max_s=math.inf if settings.lag_max_s is None else settings.lag_max_s,
            may_show=lambda: worker.may_show(),
            now_ns=time.time_ns,
            measures=Measures(telemetry, capacity=settings.capacity),
        )
        health.register("heartbeat", stale_after_s=LOOP_STALE_S)
        worker = Worker(context, capacity=settings.capacity, beat=lambda: health.beat("heartbeat"))

        async def back() -> None:
            await stores.restore()
            health.set_ready("bus", ok=True)

        audio_bus.on_reconnected(back)
        audio_bus.on_disconnected(
            lambda: health.set_ready("bus", ok=False, reason="NATS is away; reconnecting")
        )
        health.set_ready("bus", ok=True)
        health.mark_serving()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(
                watch_objects(
                    control_bus,
                    health,
                    streams=(TRANSCRIPT_STORE, PROVIDER_STORE),
                    consumers=((JOBS_STORE, JOBS_CONSUMER),),
                    volatile=stores,
                ),
                name="objects",
            )
            leaving = tasks.create_task(
                watch_server(
                    (audio_bus, control_bus),
                    store=TRANSCRIPT_STORE,
                    on_silent=worker.excuse_sources,
                ),
                name="server",
            )
            governing = tasks.create_task(governor.run(), name="governor")
            await worker.run(stop, on_drain=health.mark_draining, drain_s=settings.drain_s)
            await governor.stop()
            governing.cancel()
            watching.cancel()
            leaving.cancel()


async def _start_engines(stack: AsyncExitStack, settings: Settings) -> dict[str, Path]:
    """Start the engine processes that this worker's providers need."""
    if "local" not in settings.route:
        return {}
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="speechbus-")))
    engine = KeptProcess(
        "local engine",
        "speechbus_transcriber.local_engine",
        *("--socket", str(folder / "engine")),
        *("--vad", settings.local_vad),
        *("--sessions-max", str(settings.local_sessions_max)),
    )
    await stack.enter_async_context(engine.running())
    return {"local": folder / "engine"}
