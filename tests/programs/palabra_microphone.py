"""A live transcript of the microphone, as a client of Palabra would write it.

The program of Palabra's documentation, told again: `requests` for the session, `pyaudio` for the
microphone, `websockets` for the stream. It knows nothing of Speechbus; both addresses are settings,
and Palabra's are their defaults.
"""

import asyncio
import json
import os
import queue
import threading
from typing import Any

import pyaudio  # pyright: ignore[reportMissingModuleSource]
import requests
import websockets

STREAM_URL = os.environ.get(
    "PALABRA_STREAM_URL", "wss://api.palabra.ai/asr/v1/speech-to-text/stream"
)
SESSION_URL = os.environ.get(
    "PALABRA_SESSION_URL", "https://api.palabra.ai/session-storage/session"
)
LANGUAGE = os.environ.get("PALABRA_LANGUAGE", "en")
TARGETS = os.environ.get("PALABRA_TRANSLATE_LANGUAGES", "")
RATE_HZ = 16_000
CHUNK_SAMPLES = 5_120  # 320 ms


def create_session() -> str:
    """Return the token of a new session."""
    answer = requests.post(
        SESSION_URL,
        json={
            "data": {
                "subscriber_count": 0,
                "publisher_count": 1,
                "publisher_can_subscribe": True,
            }
        },
        headers={
            "ClientId": os.environ["PALABRA_CLIENT_ID"],
            "ClientSecret": os.environ["PALABRA_CLIENT_SECRET"],
        },
    )
    answer.raise_for_status()
    return str(answer.json()["data"]["publisher"])


def listen(chunks: "queue.Queue[bytes]", is_over: threading.Event) -> None:
    """Put what the microphone hears into a queue."""
    audio = pyaudio.PyAudio()
    microphone = audio.open(
        format=pyaudio.paInt16,
        channels=1,
        rate=RATE_HZ,
        input=True,
        frames_per_buffer=CHUNK_SAMPLES,
    )
    try:
        while not is_over.is_set():
            chunks.put(microphone.read(CHUNK_SAMPLES, exception_on_overflow=False))
    finally:
        microphone.stop_stream()
        microphone.close()
        audio.terminate()


def show(message: dict[str, Any]) -> None:
    """Print one message of the stream."""
    text, name = message["segment"]["text"], message.get("transcription_id", "")
    match message.get("message_type"), message.get("is_eos"):
        case "transcription", True:
            print(f"\n[EOS] {text} [{name}]", flush=True)
        case "transcription", _:
            print(f"\r {text}", end="", flush=True)
        case "translated_transcription", _:
            print(f"\n[{message.get('language', '?')}] {text} [{name}]", flush=True)
        case _:
            pass


async def transcribe(token: str) -> None:
    """Send the microphone and print what comes back, until interrupted."""
    url = (
        f"{STREAM_URL}?token={token}&language={LANGUAGE}&format=pcm_s16le&sample_rate={RATE_HZ}"
        + (f"&translate_languages={TARGETS}" if TARGETS else "")
    )
    chunks: queue.Queue[bytes] = queue.Queue()
    is_over = threading.Event()
    threading.Thread(target=listen, args=(chunks, is_over), daemon=True).start()
    async with websockets.connect(url) as connection:
        print("connected", flush=True)

        async def send() -> None:
            loop = asyncio.get_event_loop()
            while True:
                await connection.send(await loop.run_in_executor(None, chunks.get))

        async def receive() -> None:
            async for message in connection:
                show(json.loads(message))

        try:
            await asyncio.gather(send(), receive())
        finally:
            is_over.set()


if __name__ == "__main__":
    session_token = create_session()
    print("session created", flush=True)
    try:
        asyncio.run(transcribe(session_token))
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
