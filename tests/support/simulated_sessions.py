"""Clients of the simulators' streams, without a socket: they send, and collect what is done."""

import json
from typing import Any, Final

from speechbus_simulator.actions import Action
from speechbus_simulator.kotoba import KotobaStream
from speechbus_simulator.palabra import PalabraStream
from speechbus_simulator.script import parse_script
from speechbus_wire import kotoba, palabra
from tests.support.frame_numbers import build_frames

__all__ = ["FINALIZE", "RATE_HZ", "SERVER_VAD", "KotobaClient", "PalabraClient"]

RATE_HZ: Final = 16_000
SERVER_VAD: Final = kotoba.ServerVad(silence_duration_ms=600)
FINALIZE: Final = palabra.encode_message(palabra.Finalize())


class KotobaClient:
    """Sends audio in real time and collects what is done about it."""

    def __init__(
        self,
        script: str = "",
        *,
        turn_detection: bool | kotoba.ServerVad = SERVER_VAD,
        has_timestamps: bool = True,
        session: int = 1,
        is_set_up: bool = True,
        sample_rate_hz: int = RATE_HZ,
        audio_format: str = "pcm16",
    ) -> None:
        self.now_s = 100.0
        self.actions: list[Action] = []
        self.stream = KotobaStream(
            parse_script(script.encode(), provider="kotoba"), session=session, now_s=self.now_s
        )
        self.update = kotoba.SessionUpdate(
            kotoba.Session(
                input_audio_format=audio_format,
                input_audio_sample_rate=sample_rate_hz,
                input_audio_transcription=kotoba.TranscriptionSettings(
                    language="ja", target_language="ja", timestamps=has_timestamps
                ),
                turn_detection=turn_detection,
            )
        )
        self._take()
        if is_set_up:
            self.say(self.update)

    def say(self, message: kotoba.ClientMessage | str) -> None:
        """Send a message."""
        text = message if isinstance(message, str) else kotoba.encode_message(message)
        self.stream.receive(text, now_s=self.now_s)
        self._take()

    def speak(self, pcm: bytes) -> None:
        """Send audio, 100 ms at a time."""
        for at in range(0, len(pcm), 3_200):
            audio = kotoba.encode_audio(pcm[at : at + 3_200])
            self.say(kotoba.Append(audio=audio, event_id="chunk-1"))
            self.now_s += 0.1

    def wait(self, seconds: float) -> None:
        """Send nothing."""
        self.now_s += seconds
        self._take()

    def told(self, kind: type[Any]) -> list[Any]:
        """Messages of one kind."""
        read = [kotoba.decode_server_message(a) for a in self.actions if isinstance(a, str)]
        return [message for message in read if isinstance(message, kind)]

    @property
    def transcripts(self) -> list[str]:
        """Texts of the turns that are completed."""
        return [completed.transcript for completed in self.told(kotoba.Completed)]

    @property
    def kinds(self) -> list[str]:
        """Types of all messages, without repeats in a row."""
        kinds = [json.loads(a)["type"] for a in self.actions if isinstance(a, str)]
        return [k for n, k in enumerate(kinds) if n == 0 or kinds[n - 1] != k]

    def _take(self) -> None:
        self.actions += self.stream.take_due(now_s=self.now_s)


class PalabraClient:
    """Sends audio in real time and collects what is done about it."""

    def __init__(
        self,
        script: str = "",
        *targets: str,
        session: int = 1,
        audio_format: str = palabra.PCM_S16LE,
        has_filler_filter: bool = True,
    ) -> None:
        self.now_s = 100.0
        self.actions: list[Action] = []
        self.stream = PalabraStream(
            parse_script(script.encode(), provider="palabra"),
            session=session,
            parameters=palabra.StreamParameters(
                format=audio_format,
                sample_rate_hz=RATE_HZ,
                target_languages=targets,
                has_filler_filter=has_filler_filter,
            ),
            now_s=self.now_s,
        )
        self._take()

    def speak(self, first: int, n_frames: int) -> None:
        """Send numbered frames, 100 ms at a time."""
        for frame in range(first, first + n_frames, 5):
            self.stream.receive(build_frames(frame, 5), now_s=self.now_s)
            self.now_s += 0.1
            self._take()

    def speak_at_once(self, first: int, n_frames: int) -> None:
        """Send numbered frames in one message, in no time."""
        self.stream.receive(build_frames(first, n_frames), now_s=self.now_s)
        self._take()

    def finalize(self) -> None:
        """Ask for a final."""
        self.stream.receive(FINALIZE, now_s=self.now_s)
        self._take()

    def wait(self, seconds: float) -> None:
        """Send nothing."""
        self.now_s += seconds
        self._take()

    @property
    def messages(self) -> list[palabra.ServerMessage]:
        """What the server said."""
        read = [palabra.decode_server_message(a) for a in self.actions if isinstance(a, str)]
        return [message for message in read if message is not None]

    @property
    def finals(self) -> list[str]:
        """Texts of the finals."""
        return [
            m.segment.text
            for m in self.messages
            if isinstance(m, palabra.Transcription) and m.is_eos
        ]

    def _take(self) -> None:
        self.actions += self.stream.take_due(now_s=self.now_s)
