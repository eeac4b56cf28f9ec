"""Runs one row: a system of its own, its streams, and what breaks."""

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.loss.figures import Figures, read_figures
from benchmarks.loss.rows import FRAMES_PER_S, Row, Stage
from benchmarks.simulators import Simulator
from tests.support.conversation import build_conversation
from tests.support.frame_client import Received, stream_frames
from tests.support.nats_cluster import NatsCluster
from tests.support.nats_server import DEV_CONFIG
from tests.support.nats_strikes import build_small_store
from tests.support.resuming_client import ResumingClient
from tests.support.system import System

__all__ = ["measure"]

FAILED: Final = '"event":"provider session failed"'
"""In the log of a transcriber."""
CREDENTIALS: Final = {
    "palabra": {"PALABRA_CLIENT_ID": "bench", "PALABRA_CLIENT_SECRET": "bench"},
    "kotoba": {"KOTOBA_API_KEY": "bench"},
}
"""At Palabra each stream has a session of its own; a key would have one for all."""


def measure(row: Row) -> Figures:
    """Let it break and read what came of it; blocks as long as the row lasts."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="speechbus-loss-")))
        variables: dict[str, str] = {}
        simulators: dict[str, Simulator] = {}
        for provider, script in row.scripts.items():
            simulator = simulators[provider] = Simulator(provider, folder)
            stack.callback(simulator.end)
            simulator.start(script)
            variables |= CREDENTIALS[provider] | simulator.variables
        system = stack.enter_context(
            System(
                folder / "system",
                nats_config=build_small_store(folder) if row.has_small_store else DEV_CONFIG,
                cluster=NatsCluster(folder / "system" / "nats") if row.nodes > 1 else None,
                bootstrap_settings={
                    "REPLICAS": str(row.nodes),
                    "AUDIO_REPLICAS": str(row.nodes),
                },
                transcribers=row.transcribers,
                ingests=row.ingests,
                transcriber_settings={
                    "PROVIDERS": ",".join(row.scripts),
                    "SESSIONS_MAX": "200",
                    **row.settings,
                },
                ingest_settings={"STREAMS_PER_KEY_MAX": "1000"},
                environment={**variables, **row.environment},
            )
        )
        stage = Stage(system, simulators)
        stack.callback(stage.clear)
        streams, began_s = asyncio.run(_stream_all(stage, row))
        breaks = sum(
            service.log_path.read_text(errors="replace").count(FAILED)
            for service in system.transcribers
        )
    return read_figures(
        streams,
        n_frames=row.seconds * FRAMES_PER_S,
        began_s=began_s,
        breaks=breaks,
        breaks_min=row.breaks,
    )


async def _stream_all(stage: Stage, row: Row) -> tuple[list[Received], float]:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    hello: dict[str, Any] = {"providers": row.route, "skip_silence": True}
    if "kotoba" in row.route:
        hello["language"] = "ja"
    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(_stream(stage.system, row, hello)) for _ in range(row.streams)]
        for after_s, strike in row.strikes:
            await asyncio.sleep(began_s + after_s - loop.time())
            await asyncio.to_thread(strike, stage)
    return [stream.result() for stream in streams], began_s


async def _stream(system: System, row: Row, hello: Mapping[str, Any]) -> Received:
    n_frames = row.seconds * FRAMES_PER_S
    if len(system.ingests) == 1:
        return await stream_frames(
            system.ingest.url,
            system.key,
            n_frames=n_frames,
            hello=hello,
            build=build_conversation,
            changes=row.changes,
        )
    urls = [ingest.url for ingest in system.ingests]
    client = ResumingClient(
        urls, system.key, n_frames=n_frames, hello=hello, build=build_conversation
    )
    return await client.run()
