"""A session at Palabra that a test feeds by hand: both the driver's side and the provider's."""

import json
from typing import Any

from speechbus_transcriber.providers.interface import Heard, Result, SessionRequest
from speechbus_transcriber.providers.palabra import PalabraAccount, PalabraProtocol

__all__ = [
    "API",
    "RATE_HZ",
    "URL",
    "WITH_CREDENTIALS",
    "WITH_KEY",
    "Session",
    "build",
    "final",
    "partial",
]

RATE_HZ = 16_000
URL = "wss://stt.example/asr/v1/speech-to-text/stream"
API = "https://api.example/"
WITH_KEY = PalabraAccount(stt_url=URL, api_url=API, api_key="the-key")
WITH_CREDENTIALS = PalabraAccount(
    stt_url=URL, api_url=API, client_id="the-id", client_secret="the-secret"
)


def build(*targets: str, account: PalabraAccount = WITH_KEY) -> PalabraProtocol:
    """An adapter before its session."""
    request = SessionRequest(sample_rate_hz=RATE_HZ, language="en", target_languages=targets)
    return PalabraProtocol(request, account)


def heard(text: str, start_ms: int, end_ms: int, segment_id: str, *, is_final: bool) -> Heard:
    """What the segmenter is told."""
    return Heard(
        text=text,
        is_final=is_final,
        start_ms=start_ms,
        end_ms=end_ms,
        language="en",
        provider_transcription_id=segment_id,
    )


def final(text: str, start_ms: int, end_ms: int, segment_id: str) -> Heard:
    """A final."""
    return heard(text, start_ms, end_ms, segment_id, is_final=True)


def partial(text: str, start_ms: int, end_ms: int, segment_id: str) -> Heard:
    """A partial."""
    return heard(text, start_ms, end_ms, segment_id, is_final=False)


class Session:
    """An open session, fed by hand."""

    def __init__(self, *targets: str) -> None:
        self.protocol = build(*targets)
        self.now_s = 0.0
        self.protocol.connect_request()
        self.protocol.messages_to_open()

    def speak(self, ms: int) -> list[str | bytes]:
        """Send audio in real time."""
        sent: list[str | bytes] = []
        for _ in range(ms // 100):
            sent += self.protocol.audio_to_send(memoryview(bytes(3_200)), now_s=self.now_s)
            self.now_s += 0.1
        return sent

    def say(
        self,
        segment_id: str,
        text: str,
        start_ms: int,
        end_ms: int,
        *,
        is_eos: bool = False,
        language: str = "en",
    ) -> list[Result]:
        """The provider says something."""
        return self.receive(
            {
                "message_type": "transcription",
                "transcription_id": segment_id,
                "language": language,
                "is_eos": is_eos,
                "segment": {"text": text, "start_time": start_ms / 1e3, "end_time": end_ms / 1e3},
            }
        )

    def translate(self, segment_id: str, language: str, text: str) -> list[Result]:
        """The provider translates."""
        return self.receive(
            {
                "message_type": "translated_transcription",
                "transcription_id": segment_id,
                "language": language,
                "is_eos": True,
                "segment": {"text": text, "start_time": 0, "end_time": 1},
            }
        )

    def receive(self, message: dict[str, Any]) -> list[Result]:
        """Hand a message in."""
        self.protocol.receive_message(json.dumps(message), now_s=self.now_s)
        return self.protocol.results_received()

    def finish(self) -> None:
        """Ask for the end."""
        self.protocol.finish(now_s=self.now_s)

    def wait(self, seconds: float) -> list[Result]:
        """Let time pass."""
        until_s = self.now_s + seconds
        while (deadline_s := self.protocol.next_deadline_s()) is not None:
            if deadline_s > until_s:
                break
            self.now_s = max(self.now_s, deadline_s)
            self.protocol.handle_deadline(now_s=self.now_s)
        self.now_s = until_s
        return self.protocol.results_received()
