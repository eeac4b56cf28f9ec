"""Kotoba's adapter and simulated server while a stream catches up: turns end as they always do."""

from collections.abc import Sequence
from typing import Final

from speechbus_simulator.kotoba import KotobaStream
from speechbus_simulator.script import parse_script
from speechbus_transcriber.audio_feed import AudioFeed
from speechbus_transcriber.driver import SessionDriver
from speechbus_transcriber.providers.interface import Heard, SessionRequest
from speechbus_transcriber.providers.kotoba import CAPABILITIES, KotobaAccount, KotobaProtocol
from speechbus_transcriber.providers.kotoba_wishes import KotobaWishes
from speechbus_transcriber.session_timeline import SessionTimeline
from speechbus_transcriber.silence_skipper import KEPT_BEFORE_MS
from tests.support.conversation import PAUSE_FRAMES, SPEECH_FRAMES, build_conversation

RATE_HZ: Final = 16_000
CHUNK_BYTES: Final = 3_200
N_FRAMES: Final = 1_500


class _Session(SessionDriver):
    """Adapter and server talk without a socket; the clock goes with the audio."""

    def __init__(self, timeline: SessionTimeline) -> None:
        self.finals: list[Heard] = []
        self.now_s = 0.0
        self._timeline = timeline
        self._server = KotobaStream(
            parse_script(b"segment_ms = 60000", provider="kotoba"), session=1, now_s=0.0
        )
        self._adapter = KotobaProtocol(
            SessionRequest(sample_rate_hz=RATE_HZ, language="ja"),
            KotobaAccount(api_key="key", url="wss://kotoba.example/v1/realtime"),
            KotobaWishes(),
        )
        self._adapter.connect_request()
        self._send(self._adapter.messages_to_open())

    def send_audio(self, pcm: memoryview) -> None:
        self.now_s += len(pcm) / 2 / RATE_HZ
        self._send(self._adapter.audio_to_send(pcm, now_s=self.now_s))

    def end_turn(self) -> bool:
        return False

    def _send(self, messages: Sequence[str | bytes]) -> None:
        for message in messages:
            self._server.receive(message, now_s=self.now_s)
        for answer in self._server.take_due(now_s=self.now_s):
            if isinstance(answer, str):
                self._send(self._adapter.receive_message(answer, now_s=self.now_s))
        for result in self._adapter.results_received():
            if isinstance(result, Heard) and result.is_final:
                self.finals.append(self._timeline.translate(result))


def play(*, n_behind: int) -> list[tuple[str, int, int]]:
    """Give 30 s of speech with pauses; return text and times of each final."""
    timeline = SessionTimeline(start_sample=0, sample_rate_hz=RATE_HZ)
    session = _Session(timeline)
    feed = AudioFeed(
        session, timeline, sample_rate_hz=RATE_HZ, turn_pause_ms=CAPABILITIES.turn_pause_ms
    )
    audio = build_conversation(1, N_FRAMES)
    for at in range(0, len(audio), CHUNK_BYTES):
        while feed.waiting:
            feed.send_waiting()
        feed.give(memoryview(audio)[at : at + CHUNK_BYTES], n_behind=n_behind)
    while feed.waiting:
        feed.send_waiting()
    return [(final.text, final.start_ms, final.end_ms) for final in session.finals]


def test_each_pause_ends_a_turn_also_when_its_silence_is_left_out() -> None:
    """Else nothing is covered while a stream catches up, and the next break repeats all of it."""
    whole = play(n_behind=0)
    assert len(whole) == N_FRAMES // (PAUSE_FRAMES + SPEECH_FRAMES)

    hurried = play(n_behind=3 * RATE_HZ)
    assert [text for text, *_ in hurried] == [text for text, *_ in whole]
    first, *others = zip(hurried, whole, strict=True)
    assert all(abs(a[1] - b[1]) <= 20 for a, b in others)
    # The session begins with what is kept of the silence before its first word, and so does the
    # segment, as this provider tells it.
    assert first[0][1] == first[1][1] - KEPT_BEFORE_MS
