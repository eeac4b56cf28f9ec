"""Transcripts of a WAV file by OpenAI's SDK: sentence by sentence with a key, turns with a secret.

It knows nothing of Speechbus: the SDK reads address and key from `OPENAI_BASE_URL` and
`OPENAI_API_KEY`.
"""

import asyncio
import base64
import sys
import wave

from openai import AsyncOpenAI
from openai.types.realtime import (
    RealtimeTranscriptionSessionAudioInputParam,
    RealtimeTranscriptionSessionCreateRequestParam,
)

TRANSCRIPTION = {"intent": "transcription"}


def read_chunks(path: str, seconds: int) -> list[str]:
    """A file, cut and spelled for an append."""
    with wave.open(path) as audio:
        rate_hz, pcm = audio.getframerate(), audio.readframes(audio.getnframes())
    size = rate_hz * seconds * 2
    return [base64.b64encode(pcm[at : at + size]).decode() for at in range(0, len(pcm), size)]


def build_session(*, has_turns: bool) -> RealtimeTranscriptionSessionCreateRequestParam:
    """The settings of a session."""
    heard: RealtimeTranscriptionSessionAudioInputParam = {
        "format": {"type": "audio/pcm", "rate": 24000},
        "transcription": {"model": "gpt-4o-transcribe", "language": "en", "prompt": "Speechbus"},
        "turn_detection": {"type": "server_vad"} if has_turns else None,
    }
    return {"type": "transcription", "audio": {"input": heard}}


async def show_sentences(path: str) -> None:
    """Commit after each sentence, and print what it was."""
    client = AsyncOpenAI()
    async with client.realtime.connect(extra_query=TRANSCRIPTION) as connection:
        await connection.session.update(session=build_session(has_turns=False))
        for sentence in read_chunks(path, 2):
            await connection.input_audio_buffer.append(audio=sentence)
            await connection.input_audio_buffer.commit()
            text = ""
            async for event in connection:
                if event.type == "conversation.item.input_audio_transcription.delta":
                    text += event.delta or ""
                elif event.type == "conversation.item.input_audio_transcription.completed":
                    assert (event.transcript, event.usage.type) == (text, "duration")
                    print(event.transcript)
                    break
                elif event.type == "error":
                    raise RuntimeError(event.error.message)


async def show_turns(path: str) -> None:
    """Let the server end turns, under a secret that has the settings."""
    secret = await AsyncOpenAI().realtime.client_secrets.create(
        session=build_session(has_turns=True),
        expires_after={"anchor": "created_at", "seconds": 60},
    )
    assert secret.session.type == "transcription"
    client = AsyncOpenAI(api_key=secret.value)
    async with client.realtime.connect(extra_query=TRANSCRIPTION) as connection:
        for chunk in read_chunks(path, 1):
            await connection.input_audio_buffer.append(audio=chunk)
        async for event in connection:
            if event.type == "input_audio_buffer.speech_started":
                print("from", event.audio_start_ms)
            elif event.type == "input_audio_buffer.speech_stopped":
                print("to", event.audio_end_ms)
            elif event.type == "conversation.item.input_audio_transcription.completed":
                print(event.transcript)
                break


asyncio.run(show_sentences(sys.argv[1]))
asyncio.run(show_turns(sys.argv[1]))
