"""The backup of docs/operations.md: the server's folder, copied while it is stopped."""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from speechbus_contracts import TRANSCRIPT_STORE, SegmentFinal, decode_event
from speechbus_contracts.subjects import WRITE_ROOT
from speechbus_runtime.bus import connect_bus
from speechbus_runtime.jetstream import JetStreamUnavailableError, StoredMessage, fetch_stored
from tests.support.frame_client import stream_frames
from tests.support.nats_server import NatsServer
from tests.support.secured_nats import build_secured_nats
from tests.support.system import System

pytestmark = pytest.mark.nats

PATIENCE_S: Final = 30.0


def test_a_copy_of_the_folder_has_every_transcript_under_its_sequence(tmp_path: Path) -> None:
    """Captions and clients that resume refer to sequences."""
    with System(tmp_path / "system") as system:
        asyncio.run(stream_frames(system.ingest.url, system.key, n_frames=200, is_paced=False))
        before = asyncio.run(_read(system.nats))
        for service in system.services:
            service.stop()
        system.nats.stop()
        shutil.copytree(tmp_path / "system" / "nats", tmp_path / "restored")
    restored = build_secured_nats(tmp_path / "restored", has_guest=True)
    restored.start()
    try:
        after = asyncio.run(_read(restored))
    finally:
        restored.kill()

    finals = [m for m in before if isinstance(decode_event(m.payload), SegmentFinal)]
    assert len(finals) == 2
    assert after == before


async def _read(server: NatsServer) -> list[StoredMessage]:
    bus = await connect_bus(server.url, name="test")
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(JetStreamUnavailableError):  # a server recovers its stores first
                    return await fetch_stored(bus, TRANSCRIPT_STORE, f"{WRITE_ROOT}.>")
                await asyncio.sleep(0.05)
    finally:
        await bus.shut_down()
