"""The decoder processes of one ingest."""

import asyncio
from pathlib import Path
from typing import Final

from speechbus_ingest.formats.decoder_wire import Job
from speechbus_ingest.formats.decoding import (
    UNREAD_PCM_BYTES_MAX,
    Decoding,
    ProcessDecoding,
    WavDecoding,
)
from speechbus_ingest.formats.names import EncodedFormat
from speechbus_runtime.kept_process import KeptProcess

__all__ = ["Decoders", "NoDecoderError"]

CONNECT_RETRY_S: Final = 0.1


class NoDecoderError(Exception):
    """As many streams as allowed are being decoded: try again later."""


class Decoders:
    """Opens decodings; those of containers are limited in number.

    Args:
        folder: gets a socket; exists.
        streams_max: streams with containers at a time.
    """

    def __init__(self, folder: Path, *, streams_max: int) -> None:
        self._socket_path = folder / "decoders"
        self._streams_max = streams_max
        self._n_streams = 0
        self._process = KeptProcess(
            "decoders",
            "speechbus_ingest.formats.decoder_process",
            *("--socket", str(self._socket_path)),
            *("--streams-max", str(streams_max)),
        )

    async def run(self) -> None:
        """Keep the process running until cancelled."""
        if self._streams_max:
            await self._process.run()

    async def open(self, audio_format: EncodedFormat, *, channels: int | None) -> Decoding:
        """Begin to decode a stream; waits while the process starts.

        Args:
            audio_format: of what is written.
            channels: give each of so many channels by itself; None: the mean of all.

        Raises:
            NoDecoderError: no room.
        """
        if audio_format == "wav":
            return WavDecoding(channels=channels)
        if self._n_streams >= self._streams_max:
            raise NoDecoderError
        self._n_streams += 1
        try:
            reader, writer = await self._connect()
        except BaseException:
            self._release()
            raise
        job = Job(audio_format, channels)
        return ProcessDecoding(reader, writer, job, self._release)

    def _release(self) -> None:
        self._n_streams -= 1

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            await self._process.ready.wait()
            try:
                return await asyncio.open_unix_connection(
                    self._socket_path, limit=UNREAD_PCM_BYTES_MAX // 2
                )
            except OSError:
                await asyncio.sleep(CONNECT_RETRY_S)  # it has just died; it is started again
