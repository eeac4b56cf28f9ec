"""Stream a WAV file over the native door and print each final.

    python examples/send_audio.py talk.wav --url ws://127.0.0.1:8080 --key dev

Needs websockets only. The file is sent as fast as the server takes it; the server reads no further
than 30 s ahead of the recognizer, so a long file arrives at the recognizer's pace.
"""
# ruff: noqa: T201 (printing is what it is for)

import argparse
import asyncio
import json
import wave
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)

CHUNK_MS = 100
"""What the bus carries in one message by default; smaller ones would only be joined again."""


def main() -> None:
    """Run from the command line; see `--help`."""
    parser = argparse.ArgumentParser(description="Stream a WAV file, print its finals.")
    parser.add_argument("file", help="WAV, mono, 16 bit, 8 to 48 kHz")
    parser.add_argument("--url", default="ws://127.0.0.1:8080", help="server (ingest)")
    parser.add_argument("--key", default="dev", help="API key")
    parser.add_argument("--language", default=None, help="of the speech, for example en")
    arguments = parser.parse_args()
    try:
        asyncio.run(
            stream_file(
                arguments.file, url=arguments.url, key=arguments.key, language=arguments.language
            )
        )
    except InvalidStatus as refused:
        answer = (refused.response.body or b"").decode(errors="replace")
        raise SystemExit(f"HTTP {refused.response.status_code}: {answer}") from None
    except (OSError, InvalidHandshake, InvalidURI) as error:
        raise SystemExit(
            f"Nothing takes streams at {arguments.url} ({type(error).__name__}): start it with"
            " `speechbus dev`, or name another server by --url."
        ) from None


async def stream_file(path: str, *, url: str, key: str, language: str | None) -> None:
    """Send one file and print what is said in it, until the stream is closed."""
    pcm, rate_hz = read_wav(path)
    credential = {"Authorization": f"Bearer {key}"}
    async with connect(f"{url}/v1/streams", additional_headers=credential) as socket:
        hello = {"type": "hello", "format": "pcm_s16le", "sample_rate_hz": rate_hz}
        await socket.send(json.dumps({**hello, "language": language}))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send_audio(socket, pcm, chunk_bytes=2 * rate_hz * CHUNK_MS // 1000))
            await print_finals(socket)


def read_wav(path: str) -> tuple[bytes, int]:
    """Return a file's PCM s16le mono and its sample rate in Hz.

    Raises:
        SystemExit: it cannot be read or sent as it is; the text says why.
    """
    try:
        with wave.open(path) as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise SystemExit("Only mono with 16 bits per sample is sent as it is.")
            return file.readframes(file.getnframes()), file.getframerate()
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror or 'cannot be read'}.") from None
    except (wave.Error, EOFError):
        raise SystemExit(
            f"{path} is no WAV file with PCM: `ffmpeg -i FILE -ar 16000 -ac 1 -c:a pcm_s16le"
            " OUT.wav` makes one."
        ) from None


async def send_audio(socket: ClientConnection, pcm: bytes, *, chunk_bytes: int) -> None:
    """Send everything, then say that it was everything."""
    try:
        for start in range(0, len(pcm), chunk_bytes):
            await socket.send(pcm[start : start + chunk_bytes])
        await socket.send('{"type":"end"}')
    except ConnectionClosed:
        return  # `print_finals` reads why


async def print_finals(socket: ClientConnection) -> None:
    """Print finals and gaps until the server closes the connection.

    Raises:
        SystemExit: the server refused the stream, or went away before its end.
    """
    try:
        async for message in socket:
            print_event(json.loads(message))
    except ConnectionClosedError as closed:
        code = closed.rcvd.code if closed.rcvd is not None else "none"
        raise SystemExit(
            f"The connection broke before the end (close code {code}): send the file again."
        ) from None


def print_event(event: dict[str, Any]) -> None:
    """Print one event, if it is a final or a gap.

    Raises:
        SystemExit: it is the server's refusal.
    """
    match event["type"]:
        case "segment.final":
            print(f"{event['start_ms'] / 1000:7.1f} s  {event['text']}", flush=True)
        case "gap":
            print(f"{event['from_ms'] / 1000:7.1f} s  [lost: {event['reason']}]", flush=True)
        case "error":
            raise SystemExit(f"{event['code']}: {event['message']}")
        case _:
            pass  # partials, turns, and whatever later versions bring


if __name__ == "__main__":
    main()
