"""A session at Palabra that a test feeds by hand: both the driver's side and the provider's."""

import json
from collections.abc import Iterable
from typing import Any, Final

from speechbus_contracts import SegmentFinal
from speechbus_transcriber.checkpoint import Checkpoint
from speechbus_transcriber.providers.interface import Covered, Heard, Result, SessionRequest
from speechbus_transcriber.providers.palabra import PalabraAccount, PalabraProtocol
from speechbus_transcriber.segmenter import SegmentContext, begin
from speechbus_transcriber.session_finals import SessionFinals

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
    "publish",
]

RATE_HZ = 16_000
URL = "wss://stt.example/asr/v1/speech-to-text/stream"
API = "https://api.example/"
WITH_KEY = PalabraAccount(stt_url=URL, api_url=API, api_key="the-key")
WITH_CREDENTIALS = PalabraAccount(
    stt_url=URL, api_url=API, client_id="the-id", client_secret="the-secret"
)

CONTEXT: Final = SegmentContext(
    stream_id="s", tenant="t", epoch=1, provider="palabra", language="en", target_languages=()
)


def build(*targets: str, account: PalabraAccount = WITH_KEY) -> PalabraProtocol:
    """An adapter before its session."""
    request = SessionRequest(sample_rate_hz=RATE_HZ, language="en", target_languages=targets)
    return PalabraProtocol(request, account)


def final(
    text: str, start_ms: int, end_ms: int, segment_id: str, *, covered_ms: int | None = None
) -> Heard:
    """A final; covers what ends with it unless told otherwise."""
    return Heard(
        text=text,
        is_final=True,
        start_ms=start_ms,
        end_ms=end_ms,
        covered_ms=end_ms if covered_ms is None else covered_ms,
        language="en",
        provider_transcription_id=segment_id,
    )


def partial(text: str, start_ms: int, end_ms: int, segment_id: str) -> Heard:
    """A partial."""
    return Heard(
        text=text,
        is_final=False,
        start_ms=start_ms,
        end_ms=end_ms,
        language="en",
        provider_transcription_id=segment_id,
    )


def publish(results: Iterable[Result]) -> list[SegmentFinal]:
    """The finals that the stream makes of a session's results, corrections left out."""
    segmenter = begin(Checkpoint(), is_shown=False)
    known = SessionFinals()
    finals: list[SegmentFinal] = []
    for result in results:
        if isinstance(result, Heard) and not known.knows(result):
            events, segmenter = segmenter.hear(result, CONTEXT, audio_received_at=0, now_ms=0)
        elif isinstance(result, Covered):
            events, segmenter = segmenter.cover(result.covered_ms, CONTEXT, audio_received_at=0)
        else:
            continue
        for event in events:
            if isinstance(event, SegmentFinal):
                known.add(event)
                finals.append(event)
    return finals


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
