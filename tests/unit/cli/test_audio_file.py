import asyncio
import struct
import wave
from pathlib import Path

import pytest

from speechbus_cli.audio_file import AudioFile, open_audio, read_audio
from speechbus_cli.errors import FailedError
from speechbus_ingest.formats.names import CONTAINERS, Container
from tests.support.encoded import SAMPLE_RATES_HZ, build_tone, encode


def write_wav(path: Path, samples: list[int], *, channels: int = 1, rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


def read_all(audio: AudioFile) -> tuple[bytes, list[str]]:
    """Return the PCM, and what was said of its end."""
    problems: list[str] = []

    async def collect() -> bytes:
        return b"".join([chunk async for chunk in read_audio(audio, on_problem=problems.append)])

    return asyncio.run(collect()), problems


def test_a_file_is_read_sample_for_sample(tmp_path: Path) -> None:
    """Frame-numbered audio goes this way in measurements: not one sample may change."""
    samples = list(range(-2_000, 2_000))
    audio = open_audio(write_wav(tmp_path / "a.wav", samples))

    assert read_all(audio) == (struct.pack(f"<{len(samples)}h", *samples), [])
    assert (audio.seconds, audio.sample_rate_hz) == (0.25, 16_000)


def test_channels_are_averaged(tmp_path: Path) -> None:
    """A stereo recording of one speaker should simply work."""
    audio = open_audio(write_wav(tmp_path / "a.wav", [100, 300, -32_768, -32_768], channels=2))

    assert read_all(audio) == (struct.pack("<2h", 200, -32_768), [])


def test_a_cut_off_file_gives_what_is_there(tmp_path: Path) -> None:
    """Recordings end when a machine does; their header then promises too much."""
    path = write_wav(tmp_path / "a.wav", [1, 2, 3, 4], channels=2)
    path.write_bytes(path.read_bytes()[:-1])

    audio = open_audio(path)

    assert read_all(audio) == (struct.pack("<h", 2), ["it ends in the middle"])
    assert (audio.seconds or 0) * 16_000 < 2


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_are_read_whatever_they_are_called(tmp_path: Path, container: Container) -> None:
    """Browsers' downloads and messengers give files all kinds of names."""
    rate = SAMPLE_RATES_HZ[container]
    path = tmp_path / "voice"
    path.write_bytes(encode(container, build_tone(rate, 1.0), sample_rate_hz=rate))
    audio = open_audio(path)
    pcm, problems = read_all(audio)

    assert (audio.audio_format, audio.sample_rate_hz, audio.seconds) == (container, rate, None)
    assert 0 <= len(pcm) - 2 * rate <= 2 * 2 * 1_152
    assert problems == []


@pytest.mark.parametrize("content", [b"plain text", bytes(8) + b"ftypM4A "])
def test_another_format_is_refused_with_what_works(tmp_path: Path, content: bytes) -> None:
    """The sentence must help somebody with an M4A."""
    path = tmp_path / "a.m4a"
    path.write_bytes(content)

    with pytest.raises(FailedError, match=r"WAV, WebM, Ogg, MP3, AAC .* FLAC work; `ffmpeg"):
        open_audio(path)


def test_a_file_without_audio_or_with_a_broken_beginning_is_named(tmp_path: Path) -> None:
    """Before anything is connected."""
    path = write_wav(tmp_path / "a.wav", [])
    with pytest.raises(FailedError, match=r"a.wav: there is no audio in it"):
        open_audio(path)

    path.write_bytes(b"ID3" + bytes(100))
    with pytest.raises(FailedError, match=r"a.wav cannot be decoded: it is damaged"):
        open_audio(path)


def test_a_rate_the_door_refuses_is_refused_before_connecting(tmp_path: Path) -> None:
    """The person learns it at once, with the command that mends it."""
    with pytest.raises(FailedError, match=r"rate is not between .* makes one that works"):
        open_audio(write_wav(tmp_path / "a.wav", [0], rate=96_000))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With several files it must be clear which."""
    with pytest.raises(FailedError, match=r"nowhere.wav: No such file"):
        open_audio(tmp_path / "nowhere.wav")
