"""The recognizer with a decoder and a detector that say exactly what they heard."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_transcriber.local_engine.decoder import DecodedWord
from speechbus_transcriber.local_engine.priming import PrimedDecoder
from speechbus_transcriber.local_engine.recognizer import Recognizer
from speechbus_transcriber.local_engine.voice_activity import SileroVoiceActivity
from speechbus_transcriber.providers import local_wire as wire

BLOCK = 512
SPEECH = 1_000
QUIET = 10


class LevelVoice:
    """Hears speech in every block that is loud enough."""

    block_samples = BLOCK

    def probability(self, block: bytes) -> float:
        """Be sure of itself."""
        return 1.0 if np.abs(np.frombuffer(block, np.int16)).max() > 100 else 0.0

    def reset(self) -> None:
        """Have nothing to forget."""


class CountingDecoder:
    """Hears one word per 500 ms of an utterance, and keeps all audio it was given."""

    def __init__(self, *, is_deaf: bool = False) -> None:
        self.primed_with: list[bytes] = []
        self.utterances: list[bytes] = []
        self.is_open = False
        self._is_deaf = is_deaf

    def prime(self, pcm: bytes) -> None:
        """Keep what it was given."""
        assert not self.is_open
        self.primed_with.append(pcm)

    def start(self) -> None:
        """Begin an utterance; a second open one is a bug of the caller."""
        assert not self.is_open
        self.is_open = True
        self.utterances.append(b"")

    def hear(self, pcm: bytes) -> None:
        """Keep what it was given."""
        assert self.is_open
        self.utterances[-1] += pcm

    def end(self) -> None:
        """End the utterance."""
        assert self.is_open
        self.is_open = False

    def words(self) -> list[DecodedWord]:
        """Return one word per 500 ms."""
        if self._is_deaf:
            return []
        count = len(self.utterances[-1]) // 16_000
        return [
            DecodedWord(
                text=f"w{index}",
                first_frame=50 * index,
                last_frame=50 * index + 49,
                probability=0.5,
            )
            for index in range(count)
        ]


class Bench:
    """A recognizer, its decoder, and what it emitted."""

    def __init__(self, *, sample_rate_hz: int = 16_000, is_deaf: bool = False) -> None:
        self.decoder = CountingDecoder(is_deaf=is_deaf)
        self.messages: list[wire.EngineMessage] = []
        self.recognizer = Recognizer(
            wire.Open(sample_rate_hz=sample_rate_hz),
            decoder=PrimedDecoder(self.decoder),
            voice=LevelVoice(),
            emit=self.messages.append,
        )

    def hear(self, *chunks: bytes) -> "Bench":
        """Feed the recognizer."""
        for chunk in chunks:
            self.recognizer.hear(chunk)
        return self

    def flush(self) -> "Bench":
        """Flush the recognizer."""
        self.recognizer.flush()
        return self

    def of(self, *kinds: type[wire.EngineMessage]) -> list[wire.EngineMessage]:
        """Return the messages of these kinds."""
        return [message for message in self.messages if isinstance(message, kinds)]


def pcm(level: int, seconds: float, *, sample_rate_hz: int = 16_000) -> bytes:
    """Return audio that counts upwards from its level, so that each sample is known again."""
    count = round(seconds * sample_rate_hz)
    return (np.arange(count) % 80 + level).astype("<i2").tobytes()


SPOKEN = pcm(QUIET, 1.5) + pcm(SPEECH, 2.0) + pcm(QUIET, 0.9) + pcm(SPEECH, 1.1) + pcm(QUIET, 2.0)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(SPOKEN) // 2), max_size=20),
    sample_rate_hz=st.sampled_from([8_000, 16_000, 44_100]),
)
def test_the_result_does_not_depend_on_how_the_audio_was_cut(
    cuts: list[int], sample_rate_hz: int
) -> None:
    """A replay after a fault cuts elsewhere; it must find the same segments again."""
    borders = [0, *sorted(2 * cut for cut in cuts), len(SPOKEN)]
    chunks = [SPOKEN[start:end] for start, end in pairwise(borders)]

    whole = Bench(sample_rate_hz=sample_rate_hz).hear(SPOKEN).flush()
    cut = Bench(sample_rate_hz=sample_rate_hz).hear(*chunks).flush()

    assert cut.messages == whole.messages
    assert cut.decoder.utterances == whole.decoder.utterances


def test_a_turn_is_told_in_order_with_times_of_the_audio() -> None:
    """Turn, partials, final, end of turn: consumers rely on this order."""
    bench = Bench().hear(SPOKEN)
    spoken = bench.of(wire.TurnStarted, wire.Partial, wire.Final, wire.TurnEnded)
    first, *partials, final, last = spoken[: spoken.index(bench.of(wire.TurnEnded)[0]) + 1]

    assert isinstance(first, wire.TurnStarted)
    assert abs(first.at_ms - 1_500) <= 32
    assert partials
    assert all(isinstance(partial, wire.Partial) for partial in partials)
    assert isinstance(final, wire.Final)
    assert [word.text for word in final.words] == final.text.split()
    assert 1_100 <= final.start_ms < final.end_ms <= final.covered_ms <= 4_200
    assert isinstance(last, wire.TurnEnded)
    assert abs(last.at_ms - 3_500) <= 32


def test_the_utterance_holds_its_pre_roll_and_no_sample_twice() -> None:
    """Soft first sounds lie before the detected start; a doubled sample would shift all times."""
    first, second = Bench().hear(SPOKEN).decoder.utterances
    at_first, at_second = SPOKEN.index(first), SPOKEN.index(second)

    assert at_first / 32 == pytest.approx(1_500 - 300, abs=64)
    assert at_second >= at_first + len(first)
    assert at_second <= SPOKEN.index(pcm(SPEECH, 1.1) + pcm(QUIET, 2.0))


def test_who_speaks_without_a_pause_is_cut_without_losing_a_sample() -> None:
    """Utterances are bounded in memory and in delay; the cut itself must not show."""
    audio = pcm(SPEECH, 45.0)
    bench = Bench().hear(audio).flush()
    finals = [final for final in bench.messages if isinstance(final, wire.Final)]

    assert b"".join(bench.decoder.utterances) == audio
    assert [final.covered_ms for final in finals] == [20_000, 40_000, 45_000]
    assert [final.start_ms for final in finals] == [0, 20_000, 40_000]
    assert len(bench.of(wire.TurnStarted)) == len(bench.of(wire.TurnEnded)) == 1


def test_silence_is_covered_about_every_second_and_never_an_open_utterance() -> None:
    """What is covered is never sent again, so it must not reach into what may become speech."""
    bench = Bench().hear(SPOKEN).flush()
    open_at: float | None = None
    for message in bench.messages:
        match message:
            case wire.TurnStarted():
                open_at = message.at_ms
            case wire.Covered():
                assert open_at is None
            case wire.TurnEnded():
                open_at = None
            case _:
                pass
    positions = [
        message.covered_ms
        for message in bench.messages
        if isinstance(message, wire.Covered | wire.Final)
    ]

    assert positions == sorted(set(positions))
    assert positions[-1] == len(SPOKEN) // 32
    assert Bench().hear(bytes(32_000 * 4)).messages == [
        wire.Covered(covered_ms=covered_ms) for covered_ms in (1_024, 2_048, 3_072)
    ]


def test_a_turn_without_a_word_is_covered_instead_of_final() -> None:
    """A cough is no segment, but its audio must not be recognized again after a fault either."""
    bench = Bench(is_deaf=True).hear(pcm(SPEECH, 2.0), pcm(QUIET, 0.7))

    assert bench.of(wire.Final, wire.Partial) == []
    started, covered, ended = bench.messages
    assert isinstance(started, wire.TurnStarted)
    assert isinstance(covered, wire.Covered)
    assert isinstance(ended, wire.TurnEnded)


def test_a_flush_ends_the_open_utterance_with_every_sample_so_far() -> None:
    """Whoever asks for a flush wants the last word too, though it fills no whole block."""
    audio = pcm(SPEECH, 1.51)
    bench = Bench().hear(audio).flush()

    assert bench.decoder.utterances == [audio]
    final, ended = bench.messages[-2:]
    assert isinstance(final, wire.Final)
    assert final.covered_ms == 1_510
    assert isinstance(ended, wire.TurnEnded)


@pytest.mark.parametrize("sample_rate_hz", [8_000, 11_025, 44_100, 48_000])
def test_times_stay_true_through_resampling_and_many_flushes(sample_rate_hz: int) -> None:
    """Rates do not divide evenly; rounding must not add up from flush to flush."""
    bench = Bench(sample_rate_hz=sample_rate_hz)
    for _ in range(40):
        bench.hear(pcm(QUIET, 0.333, sample_rate_hz=sample_rate_hz)).flush()
    quiet_ms = 40 * round(0.333 * sample_rate_hz) * 1000 // sample_rate_hz
    bench.hear(pcm(SPEECH, 1.0, sample_rate_hz=sample_rate_hz)).flush()
    started, final, _ = bench.messages[-3:]

    assert isinstance(started, wire.TurnStarted)
    assert abs(started.at_ms - quiet_ms) <= 32
    assert isinstance(final, wire.Final)
    assert abs(final.covered_ms - quiet_ms - 1_000) <= 1
    assert bench.messages[-4] == wire.Covered(covered_ms=quiet_ms)


def test_the_decoder_is_primed_once_with_the_first_second_of_utterances() -> None:
    """From there on it follows the microphone by itself; priming again would throw that away."""
    bench = Bench().hear(SPOKEN * 3).flush()

    assert [len(speech) for speech in bench.decoder.primed_with] == [-(-32_000 // 1_024) * 1_024]
    assert bench.decoder.utterances[0].startswith(bench.decoder.primed_with[0])


def test_short_first_turns_are_heard_and_add_to_the_priming() -> None:
    """A "yes" must be answered at its end, though it is too short to know the microphone by."""
    short = pcm(SPEECH, 0.2) + pcm(QUIET, 0.1)
    bench = Bench().hear(short).flush().hear(short).flush().hear(SPOKEN).flush()
    lengths = [len(speech) for speech in bench.decoder.primed_with]

    assert lengths[0] < lengths[1] < lengths[2]
    assert len(lengths) == 3
    assert len(bench.decoder.utterances) == 4


def test_empty_audio_changes_nothing() -> None:
    """PocketSphinx raises on it, and a client may well send some."""
    assert Bench().hear(b"", SPOKEN, b"").messages == Bench().hear(SPOKEN).messages
    assert Bench().hear(b"").flush().messages == []


def test_silero_is_not_asked_about_silence() -> None:
    """A muted microphone should cost nothing."""
    assert SileroVoiceActivity().probability(bytes(2 * BLOCK)) == 0.0
