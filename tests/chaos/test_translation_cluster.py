"""Captions on three nats-servers with three replicas: leaders die, followers lag."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from speechbus_contracts import CAPTION_STORE, TRANSCRIPT_STORE, CaptionJoined, SegmentFinal
from speechbus_correlator.join import Stored
from speechbus_correlator.transcript import Transcript
from speechbus_runtime.bus import BusConnection, connect_bus
from speechbus_runtime.jetstream import JetStreamUnavailableError
from tests.support.caption_check import captions_stored, check_captions, redeliver_soon, settle
from tests.support.caption_world import translation_of
from tests.support.correlator import Bus, final_of
from tests.support.libretranslate import LibreTranslateServer
from tests.support.nats_cluster import NatsCluster
from tests.support.system import System

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

WAIT_MS: Final = 2_000
LANGUAGES: Final = ("es", "pt")
SMALL: Final = {"AUDIO_BYTES_MAX": str(64 << 20), "REPLICAS": "3"}
STORES: Final = (TRANSCRIPT_STORE, CAPTION_STORE)
FINALS_A_TURN: Final = 40
PATIENCE_S: Final = 60.0
"""Only a hang reaches it."""


@pytest.fixture
def cluster(tmp_path: Path) -> NatsCluster:
    return NatsCluster(tmp_path / "nats")


@pytest.fixture
def engine() -> Iterator[LibreTranslateServer]:
    with LibreTranslateServer() as running:
        yield running


def test_every_final_has_its_caption_whichever_server_dies(
    tmp_path: Path, cluster: NatsCluster, engine: LibreTranslateServer
) -> None:
    """The leader of both stores is killed, a follower freezes and comes back with old answers."""
    with System(
        tmp_path,
        ingests=0,
        transcribers=0,
        correlators=2,
        translators=2,
        cluster=cluster,
        bootstrap_settings=SMALL,
        correlator_settings={"DEADLINE_S": str(WAIT_MS / 1_000)},
        translator_settings={"LIBRETRANSLATE_URL": engine.url, "STEP_IN_S": "0.5"},
    ):
        current = asyncio.run(_strike(cluster))

    assert len(current) == 4 * FINALS_A_TURN
    for caption in current.values():
        assert caption.source is not None
        assert caption.translations == {
            language: f"[{language}] {caption.source.text}" for language in LANGUAGES
        }


async def _strike(cluster: NatsCluster) -> dict[str, CaptionJoined]:
    bus = await connect_bus(cluster.url, name="test")
    await redeliver_soon(bus)
    await asyncio.to_thread(cluster.wait_until_current, *STORES)
    leader = await asyncio.to_thread(cluster.leader_of, TRANSCRIPT_STORE)
    await asyncio.to_thread(cluster.step_down, CAPTION_STORE, to=leader)
    await _write_turn(bus, 0)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_write_turn(bus, 1))  # waits for the next leader
        cluster.nodes[leader].kill()
    await asyncio.to_thread(cluster.nodes[leader].start)
    await asyncio.to_thread(cluster.wait_until_current, *STORES)

    leader = await asyncio.to_thread(cluster.leader_of, TRANSCRIPT_STORE)
    at_leader = await connect_bus(cluster.nodes[leader].url, name="test")
    follower = cluster.nodes[(leader + 1) % len(cluster.nodes)].pid
    os.kill(follower, signal.SIGSTOP)
    await asyncio.to_thread(os.waitid, os.P_PID, follower, os.WSTOPPED)
    await _write_turn(at_leader, 2)
    os.kill(follower, signal.SIGCONT)
    await _write_turn(at_leader, 3)
    await at_leader.shut_down()
    await captions_stored(bus, 4 * FINALS_A_TURN)
    await settle(bus)
    await asyncio.to_thread(cluster.wait_until_current, *STORES)
    current = await check_captions(bus, wait_ms=WAIT_MS)
    await bus.shut_down()
    return current


async def _write_turn(bus: BusConnection, number: int) -> None:
    """Write finals; a half of them with a promise, which is kept for a half of those."""
    writer = Bus(bus)
    async with asyncio.TaskGroup() as writes:
        for index in range(FINALS_A_TURN):
            promised = LANGUAGES if index % 2 else ()
            final = final_of(
                number,
                stream_id=f"s{index}",
                text=f"segment {number} of {index}",
                target_languages=LANGUAGES,
                promised_languages=promised,
            )
            writes.create_task(_write(writer, final, is_kept=index % 4 == 1))


async def _write(writer: Bus, final: SegmentFinal, *, is_kept: bool) -> None:
    await writer.write(final)
    if is_kept:
        for language in LANGUAGES:
            text = f"[{language}] {final.text}"
            await writer.write(translation_of(final, language, text=text, source_sequence=None))


def test_an_answer_of_a_follower_that_lags_is_none(tmp_path: Path, cluster: NatsCluster) -> None:
    """What it lacks would be missing in a caption for ever."""
    final = final_of(0, target_languages=LANGUAGES)
    translation = translation_of(final, "es", source_sequence=1)
    with System(tmp_path, ingests=0, transcribers=0, cluster=cluster, bootstrap_settings=SMALL):
        asyncio.run(_read_from_a_follower(cluster, final, Stored(2, 0, translation)))


async def _read_from_a_follower(
    cluster: NatsCluster, final: SegmentFinal, translation: Stored
) -> None:
    leader = await asyncio.to_thread(cluster.leader_of, TRANSCRIPT_STORE)
    follower = (leader + 1) % len(cluster.nodes)
    writing = await connect_bus(cluster.nodes[leader].url, name="test-writer")
    reading = await connect_bus(cluster.nodes[follower].url, name="test-reader")
    log = Transcript(reading)
    writer = Bus(writing)
    await writer.write(final)
    await asyncio.to_thread(cluster.wait_until_current, TRANSCRIPT_STORE)

    cluster.cut(follower)
    assert not isinstance(translation.event, SegmentFinal)
    await writer.write(translation.event)
    with pytest.raises(JetStreamUnavailableError):
        await log.read(translation, from_sequence=1, to_sequence=2)
    with pytest.raises(JetStreamUnavailableError):
        # Asks the leader what is there, who does not answer.
        await log.read(translation, from_sequence=1, to_ms=2**52)

    cluster.heal(follower)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                read = await log.read(translation, from_sequence=1, to_sequence=2)
            except JetStreamUnavailableError:
                await asyncio.sleep(0.05)
            else:
                break
    assert [each.event for each in read] == [final, translation.event]
    await reading.shut_down()
    await writing.shut_down()
