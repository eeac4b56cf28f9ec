"""PyAudio with a file for a microphone: the calls that programs here make of it.

PyAudio has no wheels for Linux and builds only where PortAudio's headers are. `MICROPHONE_WAV`
names the file. It is read as fast as it is asked for; behind its end is silence, in real time.
"""

import os
import time
import wave
from typing import Final

paInt16: Final = 8  # noqa: N816 - PyAudio's name


class Stream:
    """An open microphone."""

    def __init__(self, *, channels: int, rate: int) -> None:
        self._file = wave.open(os.environ["MICROPHONE_WAV"])  # noqa: SIM115 - closed by `close`
        self._rate = rate
        assert (self._file.getnchannels(), self._file.getframerate()) == (channels, rate)

    def read(self, num_frames: int, *, exception_on_overflow: bool = True) -> bytes:
        """Return exactly so many frames."""
        del exception_on_overflow
        heard: bytes = self._file.readframes(num_frames)
        if not heard:
            time.sleep(num_frames / self._rate)
        return heard.ljust(num_frames * 2, b"\0")

    def stop_stream(self) -> None:
        """Stop listening."""

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class PyAudio:
    """The sound system."""

    def open(
        self,
        *,
        format: int,  # noqa: A002 - PyAudio's name
        channels: int,
        rate: int,
        input: bool,  # noqa: A002 - PyAudio's name
        frames_per_buffer: int,
    ) -> Stream:
        """Open the microphone."""
        assert (format, input, frames_per_buffer > 0) == (paInt16, True, True)
        return Stream(channels=channels, rate=rate)

    def terminate(self) -> None:
        """Leave the sound system."""
