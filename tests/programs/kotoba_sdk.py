"""Transcripts of a WAV file by Kotoba's SDK, in its two manners: text as it comes, and turns.

It knows nothing of Speechbus: the SDK reads address and key from `KOTOBA_ASR_URL` and
`KOTOBA_API_KEY`.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import json
import sys
import wave
from collections.abc import Iterator

import kotoba  # type: ignore[import-untyped]


def read_chunks(path: str) -> Iterator[bytes]:
    """Yield a file by 200 ms."""
    with wave.open(path) as audio:
        while chunk := audio.readframes(audio.getframerate() // 5):
            yield chunk


def show_text(path: str) -> None:
    """Print deltas on one line, as they come."""
    client = kotoba.KotobaClient()
    for delta in client.asr.transcribe_stream(read_chunks(path), language="en"):
        print(delta, end="", flush=True)
    print()


async def show_turns(path: str) -> None:
    """Print each turn and its times."""
    client = kotoba.AsyncKotobaClient()
    session = client.asr.stream(
        language="en",
        keywords=["Speechbus"],
        turn_detection=kotoba.ServerVAD(silence_duration_ms=600),
        timestamps=True,
    )
    async with session:
        feeder = asyncio.ensure_future(session.feed(read_chunks(path)))
        async for event in session:
            if event.type == "final_transcript":
                times = {k: v for k, v in event.metadata.items() if k.endswith("_ms")}
                print(event.text, json.dumps(times))
        await feeder


show_text(sys.argv[1])
asyncio.run(show_turns(sys.argv[1]))
try:
    next(kotoba.KotobaClient(api_key="wrong").asr.transcribe_stream([], language="en"))
except kotoba.AuthError:
    print("AuthError")
