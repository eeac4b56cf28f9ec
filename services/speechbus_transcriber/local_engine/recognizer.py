"""One recognition session: audio in; turns, partials and finals out. No socket, no clock."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from speechbus_transcriber.local_engine.blocks import ENGINE_RATE_HZ, BlockCutter
from speechbus_transcriber.local_engine.decoder import FRAME_SAMPLES, DecodedWord
from speechbus_transcriber.local_engine.priming import PrimedDecoder
from speechbus_transcriber.local_engine.turns import (
    START_MS,
    SpeechStarted,
    SpeechStopped,
    TurnDetector,
    blocks_of,
)
from speechbus_transcriber.local_engine.utterance import Utterance
from speechbus_transcriber.local_engine.voice_activity import VoiceActivity
from speechbus_transcriber.providers import local_wire as wire

__all__ = ["COVERED_INTERVAL_MS", "PRE_ROLL_MS", "Recognizer"]

PRE_ROLL_MS: Final = 300
"""Audio before the detected start that belongs to the utterance: soft first sounds."""

COVERED_INTERVAL_MS: Final = 1_000
"""How often silence is reported: what a new session would have to hear again is at most this."""


class Recognizer:
    """Recognizes the audio of one session and emits wire messages as things become known.

    The result depends on the audio and on where it is flushed, never on how it is cut: voice
    activity and decoder see blocks of one size, counted from the first sample or the last flush.
    """

    def __init__(
        self,
        opening: wire.Open,
        *,
        decoder: PrimedDecoder,
        voice: VoiceActivity,
        emit: Callable[[wire.EngineMessage], None],
    ) -> None:
        """Start a session.

        Args:
            opening: What the client asked for, checked.
            decoder: A decoder that no other session uses.
            voice: A voice activity detector of this session's own.
            emit: Called with each message, in order.
        """
        self._sample_rate_hz = opening.sample_rate_hz
        self._turn_stop_ms = opening.turn_stop_ms
        self._decoder = decoder
        self._voice = voice
        self._emit = emit
        self._input_samples = 0
        self._covered_ms = 0
        self._utterance: Utterance | None = None
        # What an utterance may begin with: the pre-roll, and the speech that made it one.
        self._pre_roll: deque[bytes] = deque(
            maxlen=self._blocks(PRE_ROLL_MS) + self._blocks(START_MS)
        )
        self._begin_run()

    def hear(self, pcm: bytes) -> None:
        """Take the next audio: PCM s16le mono at the session's rate, whole samples, any number."""
        self._input_samples += len(pcm) // 2
        for block in self._cutter.cut(pcm):
            self._hear_block(block)

    def flush(self) -> None:
        """Emit what is known of all audio so far; an open utterance ends here."""
        blocks, rest = self._cutter.finish()
        for block in blocks:
            self._hear_block(block)
        if self._utterance is not None:
            self._utterance.hear(rest)
            self._end_utterance(self._utterance)
        stopped = self._detector.stop()
        if stopped is not None:
            self._emit(wire.TurnEnded(at_ms=self._ms(stopped.at_sample)))
        self._begin_run()
        if self._ms(0) > self._covered_ms:
            self._cover(self._ms(0))

    def _begin_run(self) -> None:
        """Count 16 kHz samples anew from here, so that no rounding of rates adds up."""
        self._run_start_samples = self._input_samples
        self._position = 0
        self._cutter = BlockCutter(
            sample_rate_hz=self._sample_rate_hz, block_samples=self._voice.block_samples
        )
        self._detector = TurnDetector(
            block_samples=self._voice.block_samples,
            sample_rate_hz=ENGINE_RATE_HZ,
            turn_stop_ms=self._turn_stop_ms,
        )
        self._voice.reset()
        self._pre_roll.clear()

    def _hear_block(self, block: bytes) -> None:
        event = self._detector.next_event(self._voice.probability(block))
        self._position += len(block) // 2
        if self._utterance is None:
            self._pre_roll.append(block)
        else:
            self._continue_utterance(self._utterance, block)
        match event:
            case SpeechStarted():
                self._emit(wire.TurnStarted(at_ms=self._ms(event.at_sample)))
                pre_roll = list(self._pre_roll)
                self._pre_roll.clear()
                self._start_utterance(self._position - _samples(pre_roll), pre_roll)
            case SpeechStopped():
                assert self._utterance is not None
                self._end_utterance(self._utterance)
                self._emit(wire.TurnEnded(at_ms=self._ms(event.at_sample)))
            case None:
                self._report_silence()

    def _start_utterance(self, start_sample: int, pre_roll: list[bytes]) -> Utterance:
        self._utterance = Utterance(self._decoder, start_sample=start_sample, pre_roll=pre_roll)
        return self._utterance

    def _continue_utterance(self, utterance: Utterance, block: bytes) -> None:
        if utterance.is_full:
            self._end_utterance(utterance)
            utterance = self._start_utterance(utterance.end_sample, [])
        utterance.hear(block)
        words = self._wire_words(utterance, utterance.news())
        if words:
            self._emit(
                wire.Partial(
                    text=_text_of(words), start_ms=words[0].start_ms, end_ms=words[-1].end_ms
                )
            )

    def _end_utterance(self, utterance: Utterance) -> None:
        words = self._wire_words(utterance, utterance.end())
        self._utterance = None
        end_ms = self._ms(utterance.end_sample)
        if not words:
            self._cover(end_ms)
            return
        self._covered_ms = end_ms
        self._emit(
            wire.Final(
                text=_text_of(words),
                start_ms=words[0].start_ms,
                end_ms=words[-1].end_ms,
                words=tuple(words),
                covered_ms=end_ms,
            )
        )

    def _report_silence(self) -> None:
        # What is in the pre-roll may still become part of an utterance.
        silent_ms = self._ms(self._position - _samples(self._pre_roll))
        if self._utterance is None and silent_ms - self._covered_ms >= COVERED_INTERVAL_MS:
            self._cover(silent_ms)

    def _cover(self, covered_ms: int) -> None:
        self._covered_ms = covered_ms
        self._emit(wire.Covered(covered_ms=covered_ms))

    def _wire_words(self, utterance: Utterance, words: list[DecodedWord]) -> list[wire.Word]:
        end_ms = self._ms(utterance.end_sample)

        def at_ms(frame: int) -> int:
            # The decoder pads its last frame; no word may end after the audio did.
            return min(end_ms, self._ms(utterance.start_sample + frame * FRAME_SAMPLES))

        return [
            wire.Word(
                text=word.text,
                start_ms=at_ms(word.first_frame),
                end_ms=at_ms(word.last_frame + 1),
                confidence=round(word.probability, 3),
            )
            for word in words
        ]

    def _ms(self, sample: int) -> int:
        """Return session time of a 16 kHz sample of this run, never beyond the input so far."""
        input_ms = self._input_samples * 1000 // self._sample_rate_hz
        scaled = self._run_start_samples * ENGINE_RATE_HZ + sample * self._sample_rate_hz
        return min(input_ms, scaled * 1000 // (ENGINE_RATE_HZ * self._sample_rate_hz))

    def _blocks(self, span_ms: int) -> int:
        return blocks_of(
            span_ms, block_samples=self._voice.block_samples, sample_rate_hz=ENGINE_RATE_HZ
        )


def _samples(blocks: Iterable[bytes]) -> int:
    return sum(map(len, blocks)) // 2


def _text_of(words: list[wire.Word]) -> str:
    return " ".join(word.text for word in words)
