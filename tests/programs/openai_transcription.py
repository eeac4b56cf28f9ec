"""Transcripts of a WAV file, sentence by sentence, as a client of OpenAI's Realtime API would ask.

The general form: `session.update` with `type: transcription`, no turn detection, a commit for each
sentence. It knows nothing of Speechbus; the address is a setting, and OpenAI's is its default.
"""

import asyncio
import base64
import json
import os
import sys
import wave
from typing import Any

import websockets

URL = os.environ.get("OPENAI_REALTIME_URL", "wss://api.openai.com/v1/realtime")
SECONDS = 2


async def main(path: str) -> None:
    """Send sentences and print what they were."""
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    async with websockets.connect(
        f"{URL}?intent=transcription", additional_headers=headers
    ) as connection:

        async def say(kind: str, **fields: object) -> None:
            await connection.send(json.dumps({"type": kind, **fields}))

        async def hear(kind: str) -> dict[str, Any]:
            async for message in connection:
                event: dict[str, Any] = json.loads(message)
                if event["type"] == "error":
                    raise RuntimeError(event["error"]["message"])
                if event["type"] == kind:
                    return event
            raise EOFError

        await hear("session.created")
        await say(
            "session.update",
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "transcription": {"model": "gpt-realtime-whisper", "language": "en"},
                        "turn_detection": None,
                    }
                },
            },
        )
        await hear("session.updated")
        with wave.open(path) as audio:
            while sentence := audio.readframes(audio.getframerate() * SECONDS):
                await say("input_audio_buffer.append", audio=base64.b64encode(sentence).decode())
                await say("input_audio_buffer.commit")
                item = (await hear("input_audio_buffer.committed"))["item_id"]
                event = await hear("conversation.item.input_audio_transcription.completed")
                assert event["item_id"] == item
                print(event["transcript"])


asyncio.run(main(sys.argv[1]))
