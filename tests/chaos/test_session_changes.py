"""Sessions that follow each other as planned: before a provider's limit, and with the language."""

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.frame_client import Received, stream_frames
from tests.support.provider_streams import assert_exact, read_failures
from tests.support.simulator import simulator
from tests.support.system import System

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

LIMITED: Final = """
segment_ms = 1000
faults = [{kind = "close", after_ms = 5000, code = 1000}]
"""
"""Sessions end after 5 s of audio, wherever the speaker is."""
N_FRAMES: Final = 600
CHANGES: Final = {181: "fr", 401: "ja"}
STREAMS: Final[tuple[tuple[Mapping[str, Any], Mapping[int, str | None]], ...]] = (
    ({"providers": ["palabra"]}, {}),
    ({"providers": ["kotoba"], "language": "ja"}, {}),
    ({"providers": ["kotoba", "palabra"], "language": "ja"}, CHANGES),
    ({"providers": ["echo"], "language": "ja"}, CHANGES),
)


async def _stream_all(system: System) -> list[Received]:
    async with asyncio.TaskGroup() as tasks:
        streams = [
            tasks.create_task(
                stream_frames(
                    system.ingest.url, system.key, n_frames=N_FRAMES, hello=hello, changes=changes
                )
            )
            for hello, changes in STREAMS
        ]
    return [stream.result() for stream in streams]


def test_sessions_follow_each_other(tmp_path: Path) -> None:
    with ExitStack() as stack:
        variables: dict[str, str] = {}
        for provider in ("palabra", "kotoba"):
            script = LIMITED + ("sessions_per_identity_max = 0\n" if provider == "palabra" else "")
            script = "sessions_per_identity_max = 0\n" + LIMITED
            variables |= stack.enter_context(simulator(tmp_path, script, provider=provider))
        system = stack.enter_context(
            System(
                tmp_path / "system",
                transcriber_settings={
                    "PROVIDERS": "palabra,kotoba,echo",
                    "SESSION_LIMIT_S": "5",
                },
                environment=variables,
            )
        )
        streams = asyncio.run(_stream_all(system))
    for received in streams:
        print([(f.language, f.provider, f.text, f.start_ms, f.end_ms) for f in received.finals])
    print(read_failures(tmp_path))
    print((tmp_path / "system" / "transcriber-1.log").read_text())
    for received in streams:
        assert_exact(received, N_FRAMES)
    assert 0
