"""Whether anybody may have spoken in what nobody said a word about."""

import random
import wave

import numpy as np
import pytest

from speechbus_cli.speech import Recordings
from speechbus_transcriber.voice_judge import SoundCheck, VoiceJudge
from tests.support.frame_numbers import build_frames

pytest_plugins = ["tests.support.speech"]

RATE_HZ = 16_000
WINDOW = RATE_HZ // 2


def may_have_speech(pcm: bytes, *, n_bytes_at_once: int = 3_200) -> bool:
    check = SoundCheck(sample_rate_hz=RATE_HZ)
    for at in range(0, len(pcm), n_bytes_at_once):
        check.feed(memoryview(pcm)[at : at + n_bytes_at_once])
    return check.may_have_speech


@pytest.mark.parametrize("noise", [0, 10, 30, 100])
@pytest.mark.parametrize("level_db", [-20, -30, -40, -50])
def test_speech_that_stands_out_of_the_room_is_noticed(
    recordings: Recordings, level_db: int, noise: int
) -> None:
    """However quiet: half a second of it is enough."""
    rng = np.random.default_rng(7)
    n_windows = 0
    for recording in recordings.recordings:
        with wave.open(str(recording.path)) as file:
            clean = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        quiet = np.rint(clean * 10 ** (level_db / 20)).astype(np.int32)
        heard = quiet + rng.integers(-noise, noise + 1, quiet.size)
        for at in range(0, quiet.size - WINDOW, WINDOW):
            if np.abs(quiet[at : at + WINDOW]).max() > max(8, 4 * noise):
                n_windows += 1
                assert may_have_speech(heard[at : at + WINDOW].astype("<i2").tobytes())
    assert n_windows > 10 or 10 ** (level_db / 20) * 19_000 < 8 * noise


@pytest.mark.parametrize("offset", [0, 1_000])
def test_what_stands_out_is_noticed_where_the_detector_hears_nothing(
    monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    """Also of a microphone whose zero is none."""

    def hears_nothing(_judge: VoiceJudge, _samples: "memoryview[int]") -> bool:
        return False

    monkeypatch.setattr(VoiceJudge, "hears_voice", hears_nothing)
    rng = random.Random(3)
    room = [offset + rng.randint(-10, 10) for _ in range(RATE_HZ)]
    word = [offset + rng.randint(-60, 60) for _ in range(RATE_HZ // 5)]

    def build(samples: list[int]) -> bytes:
        return np.array(samples, "<i2").tobytes()

    assert not may_have_speech(build(room))
    assert may_have_speech(build([*room, *word, *room]))
    assert may_have_speech(build([*word, *room]))


def test_silence_and_its_dither_are_no_speech() -> None:
    """A stream that ends in silence has lost nothing there."""
    rng = random.Random(5)
    dither = np.array([rng.randint(-1, 1) for _ in range(RATE_HZ)], "<i2").tobytes()
    assert not may_have_speech(bytes(10 * RATE_HZ))
    assert not may_have_speech(dither)
    assert not may_have_speech(dither + bytes(RATE_HZ), n_bytes_at_once=101 * 2)


def test_numbered_frames_are_speech() -> None:
    """Tests count by them what is lost."""
    assert may_have_speech(bytes(RATE_HZ) + build_frames(1, 2))
