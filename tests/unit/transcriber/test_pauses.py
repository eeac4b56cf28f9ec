"""Pauses in speech, where a session may change without cutting a word."""

import math
import wave
from array import array

import pytest

from speechbus_cli.speech import Recording
from speechbus_transcriber.pauses import PAUSE_MS, PauseFinder

pytest_plugins = ["tests.support.speech"]
CHUNK_MS = 50


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_sound_is_no_pause_and_silence_is_one_after_a_while(rate_hz: int) -> None:
    """At every rate."""
    chunk = rate_hz * CHUNK_MS // 1000
    tone = array("h", (round(9_000 * math.sin(440 * math.pi * n / rate_hz)) for n in range(chunk)))
    finder = PauseFinder(sample_rate_hz=rate_hz)

    assert not any(finder.feed(memoryview(tone).cast("B")) for _ in range(20))
    heard = [finder.feed(memoryview(bytes(2 * chunk))) for _ in range(20)]
    first = heard.index(True)
    assert first - PAUSE_MS // CHUNK_MS in {-1, 0}
    assert all(heard[first:])


def test_speech_has_pauses_and_most_of_it_is_none(amiable: Recording) -> None:
    """A sentence read aloud, with the silence around it."""
    with wave.open(str(amiable.path)) as file:
        rate_hz = file.getframerate()
        pcm: bytes = file.readframes(file.getnframes())
    finder = PauseFinder(sample_rate_hz=rate_hz)
    step = 2 * rate_hz * CHUNK_MS // 1000
    heard = [finder.feed(memoryview(pcm)[at : at + step]) for at in range(0, len(pcm), step)]

    assert 0 < sum(heard) < len(heard) / 2
