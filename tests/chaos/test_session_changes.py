"""Sessions that follow each other as planned: before a provider's limit, and with the language."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from speechbus_contracts import StreamReconfigured
from speechbus_runtime.bus import connect_bus
from tests.support.bus_log import BusLog, wait_until
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import FRAME_MS
from tests.support.native_client import PATIENCE_S
from tests.support.provider_streams import assert_exact, read_failures
from tests.support.simulator import simulator
from tests.support.system import System

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

SIMULATED: Final = """
segment_ms = 1000
sessions_per_identity_max = 0
faults = [{kind = "close", after_ms = 7000, code = 1000}]
"""
"""Sessions end after 7 s of audio, wherever the speaker is; the worker is told 5 s, as it may be
slow on a busy machine."""
N_FRAMES: Final = 450
CHANGES: Final = {126: "fr", 276: "ja"}
STREAMS: Final[Sequence[tuple[Mapping[str, Any], Mapping[int, str | None]]]] = (
    ({"providers": ["palabra"]}, {}),
    ({"providers": ["kotoba"], "language": "ja"}, {}),
    ({"providers": ["kotoba", "palabra"], "language": "ja"}, CHANGES),
    ({"providers": ["palabra"], "language": "ja"}, CHANGES),
)


def test_streams_pass_from_session_to_session_and_from_worker_to_worker(tmp_path: Path) -> None:
    """At providers that end sessions after some seconds, and while the language changes.

    No session is cut off: each is followed by another one before. Then their worker is killed in
    the moment of a change of language: the next one finds the change before in the log alone, and
    this one in the audio, and says everything in the right language.
    """
    with ExitStack() as stack:
        variables = {"PALABRA_SESSIONS_MAX": "0"}
        for provider in ("palabra", "kotoba"):
            variables |= stack.enter_context(simulator(tmp_path, SIMULATED, provider=provider))
        system = stack.enter_context(
            System(
                tmp_path / "system",
                transcriber_settings={"PROVIDERS": "palabra,kotoba", "SESSION_LIMIT_S": "5"},
                environment=variables,
            )
        )
        streams, failures = asyncio.run(_change_and_kill(system, tmp_path))

    assert failures == []
    for received, (_, changes) in zip(streams, STREAMS, strict=True):
        assert_exact(received, N_FRAMES)
        assert len({claim.worker for _, claim in received.claims}) == 2
        _assert_languages(received, changes)
    assert {final.provider for final in streams[2].finals if final.language == "fr"} == {"palabra"}
    assert {final.provider for final in streams[2].finals if final.language == "ja"} == {"kotoba"}


async def _change_and_kill(system: System, folder: Path) -> tuple[list[Received], list[str]]:
    bus = await connect_bus(system.nats.url, name="test-log")
    log = BusLog(bus)
    await bus.flush()
    async with asyncio.TaskGroup() as tasks:
        streams = [
            tasks.create_task(
                stream_frames(
                    system.ingest.url, system.key, n_frames=N_FRAMES, hello=hello, changes=changes
                )
            )
            for hello, changes in STREAMS
        ]
        await wait_until(lambda: log.n_with_final == len(STREAMS), within_s=PATIENCE_S)
        await asyncio.to_thread(system.add_service, "transcriber")
        await wait_until(lambda: _count_changes(log) == 2 * len(CHANGES), within_s=PATIENCE_S)
        system.transcribers[0].kill()
        failures = read_failures(folder)
    await bus.shut_down()
    return [stream.result() for stream in streams], failures


def _count_changes(log: BusLog) -> int:
    return sum(
        isinstance(event, StreamReconfigured) for events in log.events.values() for event in events
    )


def _assert_languages(received: Received, changes: Mapping[int, str | None]) -> None:
    """Each final is in the language of all its frames."""
    for final in received.finals:
        marks = {(frame - 1) * FRAME_MS: language for frame, language in changes.items()}
        assert not any(final.start_ms < at_ms < final.end_ms for at_ms in marks)
        before = [language for at_ms, language in marks.items() if at_ms <= final.start_ms]
        if before:
            assert final.language == before[-1]
    assert [
        (event.at_ms, event.language)
        for event in received.events
        if isinstance(event, StreamReconfigured)
    ] == [((frame - 1) * FRAME_MS, language) for frame, language in changes.items()]
