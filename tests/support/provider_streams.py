"""Runs streams of numbered frames at simulated providers, and checks what came of them."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling, build_frames
from tests.support.simulator import simulator
from tests.support.system import System

__all__ = ["EXACT", "assert_exact", "play", "read_failures", "read_log"]

EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)


def play(
    folder: Path,
    scripts: Mapping[str, str],
    *hellos: Mapping[str, Any],
    n_frames: int,
    environment: Mapping[str, str] | None = None,
    build: Callable[[int, int], bytes] = build_frames,
    look: Callable[[System], None] | None = None,
) -> list[Received]:
    """Stream numbered frames at the same time, one client for each hello.

    Args:
        folder: gets scripts and logs.
        scripts: TOML of each simulator, by provider.
        hellos: fields that differ from the usual hello.
        n_frames: of each stream.
        environment: variables of the services beside those of the simulators.
        build: PCM of the frames from one on, and how many.
        look: called with the running system when the streams have ended.
    """

    async def stream_all(system: System) -> list[Received]:
        async with asyncio.TaskGroup() as tasks:
            streams = [
                tasks.create_task(
                    stream_frames(
                        system.ingest.url,
                        system.key,
                        n_frames=n_frames,
                        hello=hello,
                        build=build,
                    )
                )
                for hello in hellos
            ]
        return [stream.result() for stream in streams]

    with ExitStack() as stack:
        variables: dict[str, str] = {}
        for provider, script in scripts.items():
            variables |= stack.enter_context(simulator(folder, script, provider=provider))
        system = stack.enter_context(
            System(
                folder / "system",
                transcriber_settings={"PROVIDERS": ",".join([*scripts, "echo"])},
                environment={**variables, **(environment or {})},
            )
        )
        received = asyncio.run(stream_all(system))
        if look is not None:
            look(system)
        return received


def read_log(folder: Path, *events: str) -> list[dict[str, Any]]:
    """Lines of the first worker's log about these events."""
    path = folder / "system" / "transcriber-1.log"
    lines = map(json.loads, path.read_text().splitlines())
    return [line for line in lines if line["event"] in events]


def read_failures(folder: Path, *providers: str) -> list[str]:
    """How sessions of these (all) providers ended before their time, by the first worker's log."""
    failures = read_log(folder, "provider session failed")
    return [f["code"] for f in failures if not providers or f["provider"] in providers]


def assert_exact(received: Received, n_frames: int) -> None:
    """No frame is missing, doubled or mistimed, and ids count on without a hole."""
    assert received.check_tiling(n_frames) == EXACT
    assert received.gaps == []
    assert [final.index for final in received.finals] == list(range(len(received.finals)))
    assert received.closed is not None
    assert (received.closed.reason, received.closed.audio_ms) == ("end", n_frames * 20)
