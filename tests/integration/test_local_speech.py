"""Real speech through the whole system, recognized by the local engine."""

import asyncio
import os
import random
import signal
import sys
import wave
from collections.abc import Iterator, Sequence
from typing import Any, Final

import jiwer
import psutil
import pytest

from speechbus_cli.speech import Recording
from speechbus_contracts import SegmentPartial, TurnStarted
from tests.support.bus_log import wait_until
from tests.support.native_client import PATIENCE_S, NativeClient, connect_native
from tests.support.system import System

pytest_plugins = ["tests.support.speech"]
pytestmark = [pytest.mark.nats, pytest.mark.speech]

WER_MAX: Final = 0.35
"""A system that hands on damaged audio is far above it; PocketSphinx alone makes some mistakes."""
BYTES_PER_MS: Final = 32
CHUNK_MS: Final = 100


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("speech")
    with System(folder, transcriber_settings={"PROVIDERS": "local"}) as running:
        yield running


@pytest.fixture(scope="module")
def pcm(amiable: Recording) -> bytes:
    with wave.open(str(amiable.path)) as file:
        return bytes(file.readframes(file.getnframes()))


@pytest.fixture(scope="module")
def whole(system: System, pcm: bytes) -> NativeClient:
    """The sentence in chunks of 100 ms, nothing going wrong."""
    return asyncio.run(_transcribe(system, _cut(pcm, CHUNK_MS)))


def test_a_sentence_comes_out_as_it_was_read(
    amiable: Recording, whole: NativeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the first user of the demo sees, measured."""
    heard = " ".join(final.text for final in whole.finals)
    rate = jiwer.wer(amiable.transcript, heard)

    with capsys.disabled():
        sys.stdout.write(f"\nword error rate of the demo's sentence: {rate:.3f}\n")
    assert rate <= WER_MAX


def test_words_have_times_inside_their_segment(pcm: bytes, whole: NativeClient) -> None:
    """Subtitles and search jump to words."""
    audio_ms = len(pcm) // BYTES_PER_MS
    for final in whole.finals:
        assert final.words is not None
        assert " ".join(word.text for word in final.words) == final.text
        times = [time for word in final.words for time in (word.start_ms, word.end_ms)]
        assert times == sorted(times)
        assert final.start_ms == times[0]
        assert final.end_ms == times[-1]
    assert whole.finals[0].start_ms >= 0
    assert whole.finals[-1].end_ms <= whole.closed.audio_ms == audio_ms


def test_the_cut_of_the_audio_changes_no_word_and_no_time(
    system: System, pcm: bytes, whole: NativeClient
) -> None:
    """A transcript that depended on the client's buffer size could not be reproduced."""
    dice = random.Random(920)
    anywhere: list[bytes] = []
    at = 0
    while at < len(pcm):
        size = dice.randrange(1, 20_000)
        anywhere.append(pcm[at : at + size])
        at += size

    async def run() -> list[NativeClient]:
        async with asyncio.TaskGroup() as tasks:
            clients = [
                tasks.create_task(_transcribe(system, pieces))
                for pieces in (_cut(pcm, 20), _cut(pcm, 320), anywhere)
            ]
        return [client.result() for client in clients]

    assert [_said(client) for client in asyncio.run(run())] == [_said(whole)] * 3


def test_the_first_partial_needs_two_seconds_of_a_turn(
    system: System, pcm: bytes, whole: NativeClient
) -> None:
    """Who speaks sees words soon. Measured in audio: with no more of it, the partial comes."""
    started = next(event for event in whole.events if isinstance(event, TurnStarted))

    async def run() -> dict[str, Any]:
        async with connect_native(system.ingest, system.key) as client:
            await client.open()
            for piece in _cut(pcm[: (started.at_ms + 2_000) * BYTES_PER_MS], CHUNK_MS):
                await client.send(piece)
            return await client.hear_until("segment.partial")

    partial = asyncio.run(run())

    assert partial["text"]
    assert partial["index"] == 0


@pytest.mark.parametrize("victim", ["session", "engine"])
def test_a_sentence_survives_the_death_of_its_recognizer(
    system: System, pcm: bytes, amiable: Recording, victim: str
) -> None:
    """A crash in native code costs time, no word: the sentence is heard again from its start.

    Killed in mid-sentence: the process of the stream's session, or the engine with all sessions.
    """
    half = len(pcm) // 2 // 2 * 2

    async def run() -> NativeClient:
        engine = _engine_of(system)
        await wait_until(lambda: not engine.children(), within_s=PATIENCE_S)
        async with connect_native(system.ingest, system.key) as client:
            await client.open()
            for piece in _cut(pcm[:half], CHUNK_MS):
                await client.send(piece)
            await client.hear_until("segment.partial")
            if victim == "session":
                (session,) = engine.children()
                os.kill(session.pid, signal.SIGKILL)
            else:
                os.kill(engine.pid, signal.SIGKILL)
            for piece in _cut(pcm[half:], CHUNK_MS):
                await client.send(piece)
            await client.end()
            return client

    client = asyncio.run(run())

    heard = " ".join(final.text for final in client.finals)
    assert jiwer.wer(amiable.transcript, heard) <= WER_MAX
    assert client.finals[0].start_ms < half // BYTES_PER_MS < client.finals[-1].end_ms
    assert [final.index for final in client.finals] == list(range(len(client.finals)))
    partials = [event for event in client.events if isinstance(event, SegmentPartial)]
    assert partials[0].transcription_id == client.finals[0].transcription_id
    closed = client.closed
    assert (closed.reason, closed.audio_ms, closed.gap_ms) == (
        "end",
        len(pcm) // BYTES_PER_MS,
        0,
    )
    assert {event.epoch for event in client.finals} == {1}


def test_the_engine_is_there_again_for_the_next_stream(
    system: System, pcm: bytes, whole: NativeClient
) -> None:
    """After the engine's death above, everything is as before."""

    async def run() -> NativeClient:
        await wait_until(lambda: not _engine_of(system).children(), within_s=PATIENCE_S)
        return await _transcribe(system, _cut(pcm, CHUNK_MS))

    assert _said(asyncio.run(run())) == _said(whole)


def _cut(pcm: bytes, piece_ms: int) -> list[bytes]:
    size = piece_ms * BYTES_PER_MS
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


async def _transcribe(system: System, pieces: Sequence[bytes]) -> NativeClient:
    async with connect_native(system.ingest, system.key) as client:
        await client.open()
        for piece in pieces:
            await client.send(piece)
        await client.end()
        return client


def _said(client: NativeClient) -> list[tuple[object, ...]]:
    return [(f.index, f.text, f.start_ms, f.end_ms, f.words) for f in client.finals]


def _engine_of(system: System) -> psutil.Process:
    (engine,) = psutil.Process(system.transcribers[0].pid).children()
    return engine
