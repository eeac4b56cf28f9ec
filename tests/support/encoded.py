"""Audio in the formats that clients send, made by PyAV: no recordings in the repository."""

import io
import math
import wave
from collections.abc import Callable, Mapping
from typing import Any, Final

import av
import numpy as np

from speechbus_ingest.formats.framing import AdtsFraming, Mp3Framing
from speechbus_ingest.formats.names import Container

__all__ = ["SAMPLE_RATES_HZ", "build_tone", "build_wav", "encode", "find_borders"]

_ENCODERS: Final[Mapping[Container, tuple[str, str]]] = {
    "webm": ("webm", "libopus"),
    "mp3": ("mp3", "libmp3lame"),
    "aac": ("adts", "aac"),
    "ogg": ("ogg", "libopus"),
    "flac": ("flac", "flac"),
}
SAMPLE_RATES_HZ: Final[Mapping[Container, int]] = {
    "webm": 48_000,
    "mp3": 44_100,
    "aac": 44_100,
    "ogg": 48_000,
    "flac": 16_000,
}
"""What each is usually recorded with."""


class _Pipe:
    """Something that can only be written: encoders then write what a live sender would."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


def build_tone(sample_rate_hz: int, seconds: float, *, channels: int = 1) -> bytes:
    """Return PCM s16le, interleaved: two tones that swell, each channel an octave higher."""
    times = np.arange(int(sample_rate_hz * seconds)) / sample_rate_hz
    swell = 0.6 + 0.4 * np.sin(2 * math.pi * 3 * times)
    frames = [
        swell * (np.sin(2 * math.pi * 220 * 2**n * times) + np.sin(2 * math.pi * 331 * times))
        for n in range(channels)
    ]
    return (np.stack(frames, axis=1) * 9_000).astype("<i2").tobytes()


def build_wav(pcm: bytes, *, sample_rate_hz: int, channels: int = 1) -> bytes:
    """Return PCM s16le, interleaved, as the standard library writes it."""
    target = io.BytesIO()
    with wave.open(target, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate_hz)
        writer.writeframes(pcm)
    return target.getvalue()


def encode(
    container: Container,
    pcm: bytes,
    *,
    sample_rate_hz: int,
    channels: int = 1,
    is_live: bool = True,
    move: Callable[[float], float] | None = None,
    **options: str,
) -> bytes:
    """Encode PCM s16le.

    Args:
        container: which.
        pcm: interleaved.
        sample_rate_hz: of the PCM.
        channels: of the PCM.
        is_live: written to a pipe, so without lengths and indexes that are known at the end only.
        move: says when what was spoken at a time, in seconds, is said to have been captured.
        options: of FFmpeg's muxer.
    """
    muxer, encoder = _ENCODERS[container]
    layout = {1: "mono", 2: "stereo"}[channels]
    sink: Any = _Pipe() if is_live else io.BytesIO()
    output: Any = av.open(sink, "w", format=muxer, container_options=options)
    with output:
        track = output.add_stream(encoder, rate=sample_rate_hz)
        track.layout = layout
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout=layout
        )
        frame.sample_rate = sample_rate_hz
        frame.pts = 0
        for packet in (*track.encode(frame), *track.encode(None)):
            if move is not None:
                packet.pts = round(move(float(packet.pts * packet.time_base)) / packet.time_base)
                packet.dts = packet.pts
            output.mux(packet)
    return bytes(sink.data) if is_live else sink.getvalue()


def find_borders(container: Container, data: bytes) -> list[int]:
    """Return where frames of MP3 or AAC begin, without the first."""
    framing = {"mp3": Mp3Framing, "aac": AdtsFraming}[container]()
    borders: list[int] = []
    for at in range(len(data)):
        if at and framing.is_between and not framing.n_unread:
            borders.append(at)
        framing.feed(data[at : at + 1])
    return borders
