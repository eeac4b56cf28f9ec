"""The real engine on real speech."""

import hashlib
import json
import random
import wave
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soxr  # pyright: ignore[reportMissingTypeStubs]

from speechbus_cli.speech import Recording, Recordings
from speechbus_transcriber.providers import local_wire as wire
from tests.support.local_engine import EngineProcess, chunks_of, finals_of

pytest_plugins = ["tests.support.speech"]
pytestmark = pytest.mark.speech

WER_MAX = 0.35
"""Measured 0.17 with Silero and 0.39 at worst with the decoder's other settings: twice as bad as
today means that something broke, such as the priming."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("engine")) as running:
        yield running


def pcm_of(recording: Recording) -> bytes:
    with wave.open(str(recording.path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return bytes(file.readframes(file.getnframes()))


def resampled(pcm: bytes, sample_rate_hz: int) -> bytes:
    samples = np.frombuffer(pcm, np.int16)
    return bytes(soxr.resample(samples, 16_000, sample_rate_hz).astype("<i2").tobytes())


def word_error_rate(recording: Recording, messages: list[wire.EngineMessage]) -> float:
    heard = " ".join(final.text for final in finals_of(messages))
    return float(jiwer.wer(recording.transcript, heard))


def test_a_sentence_is_recognized_the_same_however_it_is_cut(
    engine: EngineProcess, amiable: Recording
) -> None:
    """A replay after a fault cuts elsewhere; the finals on the bus must be the same."""
    pcm = pcm_of(amiable)
    cuts = sorted(random.Random(20).sample(range(0, len(pcm), 2), 60))
    pieces = [pcm[a:b] for a, b in zip([0, *cuts], [*cuts, len(pcm)], strict=True)]
    with engine.connect() as client:
        straight = client.recognize(chunks_of(pcm))
    with engine.connect() as client:
        cut = client.recognize(pieces)

    assert word_error_rate(amiable, straight) <= WER_MAX
    assert cut == straight


def test_words_lie_in_order_within_their_final(engine: EngineProcess, amiable: Recording) -> None:
    """Captions and players place words by these times."""
    with engine.connect() as client:
        (final,) = finals_of(client.recognize(chunks_of(pcm_of(amiable))))
    times = [at_ms for word in final.words for at_ms in (word.start_ms, word.end_ms)]

    assert times == sorted(times)
    assert (final.start_ms, final.end_ms) == (times[0], times[-1])
    assert final.end_ms <= final.covered_ms == 6_050
    assert final.text == " ".join(word.text for word in final.words)
    assert all(word.text.replace("'", "").isalpha() for word in final.words)
    assert all(0 <= (word.confidence or 0) <= 1 for word in final.words)


@pytest.mark.parametrize("sample_rate_hz", [8_000, 44_100])
def test_other_sample_rates_are_understood(
    engine: EngineProcess, amiable: Recording, sample_rate_hz: int
) -> None:
    """Telephones send 8 kHz and browsers 44.1; times still count the input's own samples."""
    pcm = resampled(pcm_of(amiable), sample_rate_hz)
    with engine.connect() as client:
        messages = client.recognize(
            chunks_of(pcm, sample_rate_hz // 10 * 2), sample_rate_hz=sample_rate_hz
        )
    final = finals_of(messages)[-1]

    assert final.covered_ms == len(pcm) // 2 * 1000 // sample_rate_hz
    # Half the band is gone at 8 kHz, and the model was made for all of it.
    assert word_error_rate(amiable, messages) <= (WER_MAX if sample_rate_hz > 16_000 else 0.7)


def test_the_first_partial_needs_two_seconds_of_speech_at_most(
    engine: EngineProcess, amiable: Recording
) -> None:
    """Whoever speaks wants to see that somebody listens; priming must not eat this up."""
    chunks = chunks_of(pcm_of(amiable))
    with engine.connect() as client:
        client.send(wire.Open(sample_rate_hz=16_000))
        # The detector needs 0.1 s of the speech that starts at 0.35 s.
        client.send(*chunks[:5])
        started = client.receive_until(wire.TurnStarted)[-1]
        assert isinstance(started, wire.TurnStarted)
        client.send(*chunks[5 : (started.at_ms + 2_000) // 100])

        partial = client.receive_until(wire.Partial)[-1]
    assert isinstance(partial, wire.Partial)
    assert partial.text.startswith("had he")


def test_a_flush_inside_a_sentence_gives_a_final_at_once(
    engine: EngineProcess, amiable: Recording
) -> None:
    """A push-to-talk client lets go of the button and wants the text, not the next second."""
    pcm = pcm_of(amiable)
    with engine.connect() as client:
        client.send(wire.Open(sample_rate_hz=16_000), *chunks_of(pcm[:96_000]), wire.Flush())
        before = client.receive_until(wire.Flushed)
        client.send(*chunks_of(pcm[96_000:]), wire.Finish())
        after = client.receive_all()
    (first,), (second,) = finals_of(before), finals_of(after)

    assert first.covered_ms == 3_000
    assert first.text.startswith("had he married")
    assert second.start_ms >= 3_000
    assert second.covered_ms == 6_050


def test_one_session_dies_while_another_goes_on_recognizing(
    engine: EngineProcess, amiable: Recording
) -> None:
    """A crash in the decoder costs one session; its neighbour must not miss a word."""
    chunks = chunks_of(pcm_of(amiable))
    with engine.connect() as alone:
        expected = alone.recognize(chunks)
    with engine.connect() as neighbour, engine.connect() as victim:
        for client in (neighbour, victim):
            client.send(wire.Open(sample_rate_hz=16_000))
        assert neighbour.receive() == victim.receive() == wire.Ready()
        *_, victim_process = engine.children()
        neighbour.send(*chunks[:30])
        victim.send(*chunks[:30])
        assert victim.receive_until(wire.Partial)
        victim_process.kill()
        victim.receive_all()
        neighbour.send(*chunks[30:], wire.Finish())

        assert [wire.Ready(), *neighbour.receive_all()] == expected


def test_a_long_speech_is_cut_at_twenty_seconds_and_goes_on(
    engine: EngineProcess, recordings: Recordings
) -> None:
    """An utterance is bounded in memory and delay, and no word is heard twice for it."""
    pcm = b"".join(map(pcm_of, recordings.recordings))
    with engine.connect() as client:
        messages = client.recognize(chunks_of(pcm), turn_stop_ms=5_000)
    first, second = finals_of(messages)

    assert first.covered_ms <= 20_100
    assert first.end_ms <= first.covered_ms <= second.start_ms
    assert second.covered_ms == len(pcm) // 32


def test_the_light_detector_recognizes_too(tmp_path: Path, amiable: Recording) -> None:
    """`--vad webrtc` is the setting for machines that cannot afford Silero."""
    with EngineProcess(tmp_path, "--vad", "webrtc") as engine, engine.connect() as client:
        messages = client.recognize(chunks_of(pcm_of(amiable)))

    assert word_error_rate(amiable, messages) <= WER_MAX


def test_the_recorded_conversation_is_about_this_recording(amiable: Recording) -> None:
    """The transcripts hold hashes, not audio; this ties them to the sentence they name."""
    path = Path(__file__).parents[1] / "transcripts" / "local" / "one_sentence.jsonl"
    sent = [
        line["binary"]
        for line in map(json.loads, path.read_text().splitlines()[1:])
        if "binary" in line
    ]
    chunks = chunks_of(pcm_of(amiable), 16_000)

    assert sent == [
        {"bytes": len(chunk), "sha256": hashlib.sha256(chunk).hexdigest()} for chunk in chunks
    ]
