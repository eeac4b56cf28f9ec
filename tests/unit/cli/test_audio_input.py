import asyncio
import struct
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from speechbus_cli.audio_input import AudioFile, open_wav, pace_chunks, read_wav
from speechbus_cli.errors import FailedError


def write_wav(path: Path, samples: list[int], *, channels: int = 1, rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


def read_all(audio: AudioFile) -> bytes:
    async def collect() -> bytes:
        return b"".join([chunk async for chunk in read_wav(audio)])

    return asyncio.run(collect())


def test_a_file_is_read_sample_for_sample(tmp_path: Path) -> None:
    """Frame-numbered audio goes this way in measurements: not one sample may change."""
    samples = list(range(-2_000, 2_000))
    audio = open_wav(write_wav(tmp_path / "a.wav", samples))

    assert read_all(audio) == struct.pack(f"<{len(samples)}h", *samples)
    assert (audio.seconds, audio.sample_rate_hz) == (0.25, 16_000)


def test_channels_are_averaged(tmp_path: Path) -> None:
    """A stereo recording of one speaker should simply work."""
    audio = open_wav(write_wav(tmp_path / "a.wav", [100, 300, -32_768, -32_768], channels=2))

    assert read_all(audio) == struct.pack("<2h", 200, -32_768)


def test_a_cut_off_file_gives_what_is_there(tmp_path: Path) -> None:
    """Recordings end when a machine does; their header then promises too much."""
    path = write_wav(tmp_path / "a.wav", [1, 2, 3, 4], channels=2)
    path.write_bytes(path.read_bytes()[:-1])

    assert read_all(open_wav(path)) == struct.pack("<h", 1)


@pytest.mark.parametrize("content", [b"", b"ID3\x04\x00", b"RIFF\x10\x00\x00\x00WAVEfmt "])
def test_another_format_is_refused_with_what_works(tmp_path: Path, content: bytes) -> None:
    """The sentence must help somebody with an MP3."""
    path = tmp_path / "a.mp3"
    path.write_bytes(content)

    with pytest.raises(FailedError, match="what works today is WAV with PCM of 16 bit"):
        open_wav(path)


def test_a_rate_the_door_refuses_is_refused_before_connecting(tmp_path: Path) -> None:
    """The person learns it at once, with the command that mends it."""
    with pytest.raises(FailedError, match="96000 Hz: resample it"):
        open_wav(write_wav(tmp_path / "a.wav", [0], rate=96_000))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With several files it must be clear which."""
    with pytest.raises(FailedError, match=r"nowhere.wav: No such file"):
        open_wav(tmp_path / "nowhere.wav")


def test_the_pace_follows_a_schedule_and_does_not_drift() -> None:
    """A late chunk must not delay all chunks after it: live audio does not wait either."""
    asked_s: list[float] = []

    class Clock(asyncio.SelectorEventLoop):
        """Time passes only by sleeping, and by a reader that takes 0.3 s for the second chunk."""

        now_s = 100.0

        def time(self) -> float:
            return self.now_s

    async def chunks(loop: Clock) -> AsyncIterator[bytes]:
        for number in range(5):
            if number == 1:
                loop.now_s += 0.3
            yield bytes(3_200)

    async def play(loop: Clock) -> list[float]:
        handed_s: list[float] = []
        paced = pace_chunks(chunks(loop), sample_rate_hz=16_000, on_start=asked_s.append)
        async for _ in paced:
            handed_s.append(round(loop.now_s - 100.0, 3))
        return handed_s

    async def skip_ahead(seconds: float) -> None:
        loop.now_s += seconds

    loop = Clock()
    with pytest.MonkeyPatch.context() as patched, asyncio.Runner(loop_factory=lambda: loop) as run:
        patched.setattr("speechbus_cli.audio_input.asyncio.sleep", skip_ahead)
        handed_s = run.run(play(loop))

    # 0.1 s each; the second one is late by 0.2 s, the third and fourth are due at once.
    assert handed_s == [0.1, 0.4, 0.4, 0.4, 0.5]
    assert asked_s == [100.0]
