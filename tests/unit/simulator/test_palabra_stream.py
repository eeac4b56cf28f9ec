"""The simulated Palabra, message by message: the pure part."""

from itertools import pairwise
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from speechbus_simulator.actions import Action, Close, HalfOpen, Reset
from speechbus_simulator.palabra import PalabraStream
from speechbus_simulator.script import Script, parse_script
from speechbus_wire import palabra as wire
from tests.support.frame_numbers import build_frames

RATE_HZ: Final = 16_000
FINALIZE: Final = wire.encode_message(wire.Finalize())


class Client:
    """Sends audio in real time and collects what is done about it."""

    def __init__(self, script: str = "", *targets: str, session: int = 1) -> None:
        self.now_s = 100.0
        self.actions: list[Action] = []
        self.stream = PalabraStream(
            parse_script(script.encode(), provider="palabra"),
            session=session,
            parameters=wire.StreamParameters(
                format=wire.PCM_S16LE, sample_rate_hz=RATE_HZ, target_languages=targets
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

    def finalize(self) -> None:
        """Ask for a final."""
        self.stream.receive(FINALIZE, now_s=self.now_s)
        self._take()

    def wait(self, seconds: float) -> None:
        """Send nothing."""
        self.now_s += seconds
        self._take()

    @property
    def messages(self) -> list[wire.ServerMessage]:
        """What the server said."""
        found: list[wire.ServerMessage] = []
        for action in self.actions:
            if isinstance(action, str):
                message = wire.decode_server_message(action)
                assert message is not None
                found.append(message)
        return found

    @property
    def finals(self) -> list[str]:
        """Texts of the finals."""
        return [
            m.segment.text for m in self.messages if isinstance(m, wire.Transcription) and m.is_eos
        ]

    def _take(self) -> None:
        self.actions += self.stream.take_due(now_s=self.now_s)


def test_echo_tells_the_frames_and_when_they_were() -> None:
    """Partials every half second, a final every three, the rest at a finalize."""
    client = Client()
    client.speak(1, 175)
    client.finalize()

    assert client.finals == ["1-150", "151-175<fin>"]
    partials = [m for m in client.messages if isinstance(m, wire.Transcription) and not m.is_eos]
    said = [f"1-{last}" for last in range(25, 150, 25)]
    assert [p.segment.text for p in partials] == [*said, "151-175"]
    last = client.messages[-1]
    assert (last.segment.start_time, last.segment.end_time) == (3.0, 3.5)
    client.finalize()
    assert client.messages[-1].segment.text == "<fin>"


def test_silence_between_the_numbers_takes_time_and_no_text() -> None:
    """Clients send it to keep the session."""
    client = Client()
    client.speak(1, 50)
    client.stream.receive(bytes(10_240), now_s=client.now_s + 0.32)
    client.now_s += 0.32
    client.speak(51, 50)
    client.finalize()

    assert client.finals == ["1-100<fin>"]
    assert client.messages[-1].segment.end_time == 2.32


def test_case_28_audio_that_comes_too_fast_is_not_heard() -> None:
    """What is more than half a second ahead of real time is lost, unless the script is patient."""
    for script, finals in (("", ["1-25<fin>"]), ("is_real_time = false", ["1-100<fin>"])):
        client = Client(script)
        client.stream.receive(build_frames(1, 25), now_s=client.now_s)
        client.stream.receive(build_frames(26, 75), now_s=client.now_s)
        client.finalize()
        assert client.finals == finals


@given(cuts=st.lists(st.integers(0, 112_000), max_size=10))
def test_audio_cut_elsewhere_says_the_same(cuts: list[int]) -> None:
    """Also in the middle of a sample."""
    pcm = build_frames(1, 175)
    said: list[list[wire.ServerMessage]] = []
    for borders in ([0, len(pcm)], sorted({0, *cuts, len(pcm)})):
        client = Client("is_real_time = false")
        for low, high in pairwise(borders):
            client.stream.receive(pcm[low:high], now_s=client.now_s)
        client.wait(0)
        said.append(client.messages)

    assert said[0] == said[1]


def test_planned_texts_are_said_in_turn() -> None:
    """Word by word, then whole."""
    client = Client('mode = "text"\ntexts = [{text = "good morning", ms = 1000}]')
    client.speak(1, 100)

    assert [m.segment.text for m in client.messages] == ["good", "good morning"] * 2


def test_faults_of_the_connection_come_once_and_in_their_session() -> None:
    """After so much audio; another session has its own."""
    script = """
    faults = [
      {kind = "reset", session = 1, after_ms = 500},
      {kind = "half_open", session = 2, after_ms = 500},
      {kind = "close", session = 3, after_ms = 500, code = 1008},
      {kind = "garbage", session = 4, after_ms = 500},
    ]
    """
    ends: list[list[Action]] = []
    for session in range(1, 6):
        client = Client(script, session=session)
        client.speak(1, 20)
        assert client.actions == []
        client.speak(21, 25)
        ends.append([a for a in client.actions if not isinstance(a, str) or "1-" not in a])

    garbage = ends[3][0]
    assert ends == [[Reset()], [HalfOpen()], [Close(1008)], [garbage], []]
    assert isinstance(garbage, str)


def test_a_mute_provider_hears_and_says_nothing() -> None:
    """The half-dead session: pings are answered, words are not."""
    client = Client('faults = [{kind = "mute", after_ms = 3000}]')
    client.speak(1, 300)
    client.finalize()

    assert client.finals == ["1-150"]


def test_case_14_a_session_without_audio_is_closed() -> None:
    """After ten seconds, with 1001."""
    client = Client()
    client.speak(1, 5)
    client.wait(9.8)
    assert client.actions == []
    client.wait(0.2)
    assert client.actions == [Close(1001)]


def test_answers_take_as_long_as_the_script_says() -> None:
    """Latency is what most timeouts are about."""
    client = Client("latency_ms = 700")
    client.speak(1, 25)
    client.wait(0.5)
    assert client.messages == []
    client.wait(0.2)
    assert [m.segment.text for m in client.messages] == ["1-25"]


def test_what_is_said_can_go_wrong_too() -> None:
    """Finals twice, tails rewritten, translations early, late or missing."""
    script = """
    segment_ms = 1000
    faults = [
      {kind = "duplicate_final"},
      {kind = "tail_rewrite"},
      {kind = "early_translation", language = "es"},
      {kind = "late_translation", language = "de", delay_ms = 900},
      {kind = "missing_translation", language = "fr"},
    ]
    """
    client = Client(script, "es", "de", "fr")
    client.speak(1, 50)
    client.wait(1)

    assert [(m.language, m.segment.text) for m in client.messages] == [
        ("en", "1-25 uh"),
        ("en", "1-25"),
        ("es", "[es] 1-50"),
        ("en", "1-50"),
        ("en", "1-50"),
        ("de", "[de] 1-50"),
    ]
    assert Script().faults == ()
