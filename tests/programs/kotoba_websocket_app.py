"""A transcript of a WAV file, as a client of Kotoba would write it.

The Python program of Kotoba's realtime page, told again and taken to its end: `websocket-client`'s
WebSocketApp, the session's settings when it is created, then audio, then the commit. It knows
nothing of Speechbus; the address is a setting, and Kotoba's is its default.
"""

import base64
import json
import os
import sys
import threading
import wave
from typing import Any

import websocket

url = os.environ.get("KOTOBA_ASR_URL", "wss://api.kotobatech.ai/v1/realtime")
headers = [
    "Authorization: Bearer " + os.environ["KOTOBA_API_KEY"],
]


def send_audio(ws: websocket.WebSocketApp, path: str) -> None:
    """Send a file by 80 ms, then say that it was all."""
    with wave.open(path) as audio:
        while chunk := audio.readframes(audio.getframerate() * 80 // 1000):
            ws.send_text(
                json.dumps(
                    {
                        "type": "input_audio_buffer.append",
                        "audio": base64.b64encode(chunk).decode(),
                    }
                )
            )
    ws.send_text(json.dumps({"type": "input_audio_buffer.commit"}))


def on_open(ws: websocket.WebSocketApp) -> None:
    """Say so."""
    del ws
    print("Connected to server.", file=sys.stderr)


def on_message(ws: websocket.WebSocketApp, message: str) -> None:
    """Do the next step, or show what was recognized."""
    data: dict[str, Any] = json.loads(message)
    print("Received event:", json.dumps(data, indent=2), file=sys.stderr)
    if data["type"] == "transcription_session.created":
        update_event = {
            "type": "transcription_session.update",
            "session": {
                "input_audio_format": "pcm16",
                "input_audio_sample_rate": 24000,
                "input_audio_number_of_channels": 1,
                "input_audio_transcription": {"language": "ja", "target_language": "ja"},
            },
        }
        ws.send_text(json.dumps(update_event))
    if data["type"] == "transcription_session.updated":
        threading.Thread(target=send_audio, args=(ws, sys.argv[1])).start()
    if data["type"] == "conversation.item.input_audio_transcription.delta":
        print(data["delta"], end="", flush=True)
    if data["type"] == "input_audio_buffer.committed":
        ws.close()


ws = websocket.WebSocketApp(
    url,
    header=headers,
    on_open=on_open,
    on_message=on_message,
)
ws.run_forever()  # pyright: ignore[reportUnknownMemberType]
