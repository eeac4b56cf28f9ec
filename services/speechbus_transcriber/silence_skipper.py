"""Leaves out silence while a stream is behind, so that it catches up. Pure.

Speech that is taken for silence would be lost without a word. So only what two judges call silent
is left out, and never what is near speech: of each pause, `KEPT_AFTER_MS` and `KEPT_BEFORE_MS` are
always given.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from speechbus_transcriber.voice_judge import BLOCK_MS, DIGITAL_SILENCE, VoiceJudge, is_number

__all__ = ["Piece", "SilenceSkipper"]

KEPT_AFTER_MS: Final = 300
"""Of each silence, from its begin: the ends of words are soft, and a recognizer still hears a pause
between two words."""
KEPT_BEFORE_MS: Final = 160
"""Of each silence, up to its end: the beginnings of words are soft."""
FLOOR_RATIO: Final = 3
"""Silence lies within this many times the quietest of late (10 dB); speech is 15 dB above it."""
FLOOR_MIN: Final = 8
"""The floor of muted microphones is not taken at its word."""
LOUD_MIN: Final = 200
"""Where nothing this loud (-44 dBFS) was heard of late, speech may be as quiet as silence is."""
LOUD_FALL: Final = 0.999
"""Per block: half of it is left after 14 s."""
FLOOR_RISE: Final = 1.01
"""Per block: a room that gets louder is known within some seconds."""
_N_AFTER: Final = KEPT_AFTER_MS // BLOCK_MS
_N_BEFORE: Final = KEPT_BEFORE_MS // BLOCK_MS


class Piece(msgspec.Struct, frozen=True):
    """Audio to send, and what was left out before it."""

    n_skipped: int
    """Samples."""
    pcm: bytes
    ends_turn: bool = False
    """The audio is the silence that ends a turn; left out where something else ends it."""


class SilenceSkipper:
    """One run of audio.

    Args:
        sample_rate_hz: of the audio, 8,000 to 48,000.
        turn_pause_ms: silence that ends a turn: of a pause that long, it is told what of it would
            do so, and of a shorter one nothing more is kept than is near speech.
        is_beginning: nothing lies before it: no turn to end, nor a word.
    """

    def __init__(
        self, *, sample_rate_hz: int, turn_pause_ms: int, is_beginning: bool = False
    ) -> None:
        self._n_held_max = max(_N_BEFORE, (turn_pause_ms - KEPT_AFTER_MS) // BLOCK_MS)
        self._judge = VoiceJudge(sample_rate_hz=sample_rate_hz)
        self._block_bytes = self._judge.block_bytes
        self._rest = b""
        self._n_quiet = _N_AFTER if is_beginning else 0
        self._held: deque[bytes] = deque()
        self._is_turn_over = is_beginning
        self._skipped_bytes = 0
        # Not the first block's: audio may begin in the middle of a word.
        self._floor = float(FLOOR_MIN)
        self._loud = 0.0

    def feed(self, pcm: memoryview) -> Iterator[Piece]:
        """Take PCM s16le mono, whole samples; yield what is to be sent of it, if anything.

        Less than `turn_pause_ms` are held back until more comes, or `release`.
        """
        audio = self._rest + pcm
        ready = bytearray()
        n_whole = len(audio) // self._block_bytes * self._block_bytes
        for start in range(0, n_whole, self._block_bytes):
            block = audio[start : start + self._block_bytes]
            is_silent = self._is_silent(block)
            is_held = is_silent and self._n_quiet >= _N_AFTER
            if is_held:
                piece = self._hold(block)
            else:
                self._n_quiet = self._n_quiet + 1 if is_silent else 0
                # The silence has ended. What was left out lies before what is held of it.
                piece = self._take_held() if self._held else None
                if not is_silent:
                    self._is_turn_over = False
            if piece is not None:
                if ready:
                    yield Piece(0, bytes(ready))
                    ready.clear()
                yield piece
            if not is_held:
                ready += block
        self._rest = audio[n_whole:]
        if ready:
            yield Piece(0, bytes(ready))

    def release(self) -> Piece:
        """Give out what is held back: nothing is behind it for now."""
        held = self._take_held()
        rest, self._rest = self._rest, b""
        return Piece(held.n_skipped, held.pcm + rest)

    def _hold(self, block: bytes) -> Piece | None:
        """Keep a block of silence; return what ends the turn, once in a long pause."""
        self._held.append(block)
        if self._is_turn_over:
            self._skip()
        elif len(self._held) >= self._n_held_max:
            self._is_turn_over = True
            n_turn = len(self._held) - _N_BEFORE
            pcm = b"".join(self._held.popleft() for _ in range(n_turn))
            return Piece(0, pcm, ends_turn=True)
        return None

    def _skip(self) -> None:
        while len(self._held) > _N_BEFORE:
            self._skipped_bytes += len(self._held.popleft())

    def _take_held(self) -> Piece:
        self._skip()
        piece = Piece(self._skipped_bytes // 2, b"".join(self._held))
        self._held.clear()
        self._is_turn_over = False
        self._skipped_bytes = 0
        return piece

    def _is_silent(self, block: bytes) -> bool:
        samples = memoryview(block).cast("h")
        highest, lowest = max(samples), min(samples)
        if is_number(highest, lowest):
            return False
        peak = max(highest, -lowest)
        self._floor = max(FLOOR_MIN, min(peak, self._floor * FLOOR_RISE))
        self._loud = max(peak, self._loud * LOUD_FALL)
        if peak <= DIGITAL_SILENCE:
            return True
        if peak > self._floor * FLOOR_RATIO or self._loud < LOUD_MIN:
            return False
        return not self._judge.hears_voice(samples)
