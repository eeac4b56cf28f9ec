"""What is left out is silence, and all the rest is there, in order."""

import random
import wave
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_cli.speech import Recordings
from speechbus_transcriber.resampler import Resampler
from speechbus_transcriber.silence_skipper import (
    KEPT_AFTER_MS,
    KEPT_BEFORE_MS,
    Piece,
    SilenceSkipper,
)
from speechbus_transcriber.voice_judge import BLOCK_MS
from tests.support.frame_numbers import build_frames

pytest_plugins = ["tests.support.speech"]

RATE_HZ = 16_000
PAUSE_MS = 2_000
TURN_PAUSE_MS = 1_000
KEPT_MS = KEPT_AFTER_MS + KEPT_BEFORE_MS + 2 * BLOCK_MS


def play(
    pcm: bytes, *, rate_hz: int, cuts: Iterable[int] = (), needs_silence: bool = False
) -> list[Piece]:
    """Give the audio to a skipper in pieces, and take what is left at the end.

    Turns are ended without silence, unless it is needed.
    """
    skipper = SilenceSkipper(sample_rate_hz=rate_hz, turn_pause_ms=TURN_PAUSE_MS)
    pieces: list[Piece] = []
    at = 0
    for cut in [*cuts, len(pcm)]:
        pieces += skipper.feed(memoryview(pcm)[at:cut])
        at = cut
    pieces.append(skipper.release())
    return [
        Piece(piece.n_skipped + len(piece.pcm) // 2, b"", ends_turn=True)
        if piece.ends_turn and not needs_silence
        else piece
        for piece in pieces
    ]


def check_order(pcm: bytes, pieces: list[Piece]) -> int:
    """Each piece is the audio at its place; return the samples left out."""
    at = skipped = 0
    for piece in pieces:
        skipped += piece.n_skipped
        at += 2 * piece.n_skipped
        assert piece.pcm == pcm[at : at + len(piece.pcm)]
        at += len(piece.pcm)
    assert at == len(pcm)
    return skipped


def converse(
    recordings: Recordings, *, rate_hz: int, noise: int, level_db: float = 0
) -> tuple[bytes, list[tuple[int, int]]]:
    """Five sentences with pauses, this much quieter, in noise of this amplitude.

    Returns:
        PCM, and where the sentences lie in it, in bytes.
    """
    audio: list[bytes] = []
    sentences: list[tuple[int, int]] = []
    n_bytes = 0
    pause = bytes(2 * (rate_hz * PAUSE_MS // 1000))
    for recording in recordings.recordings:
        with wave.open(str(recording.path)) as file:
            pcm: bytes = file.readframes(file.getnframes())
        if rate_hz != RATE_HZ:
            pcm = Resampler(from_hz=RATE_HZ, to_hz=rate_hz, quality="MQ").feed(pcm, is_last=True)
        sentences.append((n_bytes, n_bytes + len(pcm)))
        audio += [pcm, pause]
        n_bytes += len(pcm) + len(pause)
    clean = np.rint(np.frombuffer(b"".join(audio), np.int16) * 10 ** (level_db / 20))
    hiss = np.random.default_rng(7).integers(-noise, noise + 1, clean.size)
    return (clean.astype(np.int32) + hiss).clip(-32_768, 32_767).astype("<i2").tobytes(), sentences


@pytest.mark.parametrize("noise", [0, 10, 100])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_pauses_are_left_out_and_no_speech_is(
    recordings: Recordings, rate_hz: int, noise: int
) -> None:
    """At every rate; what is left out of the recordings themselves is their own silence."""
    pcm, sentences = converse(recordings, rate_hz=rate_hz, noise=noise)
    pieces = play(pcm, rate_hz=rate_hz)

    skipped_ms = check_order(pcm, pieces) * 1000 // rate_hz
    assert skipped_ms >= len(sentences) * (PAUSE_MS - KEPT_MS)
    loudest = np.abs(np.frombuffer(pcm, np.int16).astype(np.int32)).max()
    at = 0
    for piece in pieces:
        left_out = np.frombuffer(pcm[at : at + 2 * piece.n_skipped], np.int16).astype(np.int32)
        # 30 dB below speech: breath and room.
        assert left_out.size == 0 or np.abs(left_out).max() <= max(loudest / 30, noise)
        at += 2 * piece.n_skipped + len(piece.pcm)


@pytest.mark.parametrize("noise", [0, 3, 10])
@pytest.mark.parametrize("level_db", [-30, -36, -40, -44])
def test_quiet_speech_is_no_silence(recordings: Recordings, level_db: float, noise: int) -> None:
    """A far microphone: what is left out of the sentences lies in the noise, or next to nothing."""
    pcm, sentences = converse(recordings, rate_hz=RATE_HZ, noise=noise, level_db=level_db)
    spoken_ms = sum(end - begin for begin, end in sentences) * 500 // RATE_HZ
    left_out_ms = 0
    at = 0
    for piece in play(pcm, rate_hz=RATE_HZ):
        span = (at, at + 2 * piece.n_skipped)
        at = span[1] + len(piece.pcm)
        for sentence in sentences:
            shared = min(span[1], sentence[1]) - max(span[0], sentence[0])
            left_out_ms += max(0, shared) * 500 // RATE_HZ
        left_out = np.frombuffer(pcm[span[0] : span[1]], np.int16).astype(np.int32)
        assert left_out.size == 0 or np.abs(left_out).max() <= 3 * max(noise, 8) * 1.5

    assert left_out_ms <= spoken_ms * 0.1


def test_speech_in_a_loud_room_is_kept_whole(recordings: Recordings) -> None:
    """Rather too little is left out than too much."""
    pcm, _ = converse(recordings, rate_hz=RATE_HZ, noise=3_000)

    assert check_order(pcm, play(pcm, rate_hz=RATE_HZ)) == 0


def test_numbered_frames_are_no_silence() -> None:
    """Who measures what is lost with them (docs/simulators.md) finds every one."""
    pcm = b"".join(build_frames(first, 400) + bytes(2 * RATE_HZ) for first in (1, 401, 801))

    assert check_order(pcm, play(pcm, rate_hz=RATE_HZ)) < 3 * RATE_HZ
    heard = b"".join(piece.pcm for piece in play(pcm, rate_hz=RATE_HZ))
    assert all(build_frames(frame, 1) in heard for frame in range(1, 1_201))


def test_a_muted_microphone_is_silent_whatever_came_before() -> None:
    """Nobody speaks in zeros."""
    pcm = bytes(2 * 60 * RATE_HZ)

    assert check_order(pcm, play(pcm, rate_hz=RATE_HZ)) >= 59 * RATE_HZ


@pytest.mark.parametrize(
    ("pause_ms", "needs_silence", "kept_ms", "n_turns"),
    [
        (400, False, 400, 0),
        (800, False, KEPT_AFTER_MS + KEPT_BEFORE_MS, 0),
        (800, True, KEPT_AFTER_MS + KEPT_BEFORE_MS, 0),
        (1_000, False, KEPT_AFTER_MS + KEPT_BEFORE_MS, 1),
        (1_000, True, TURN_PAUSE_MS, 1),
        (5_000, False, KEPT_AFTER_MS + KEPT_BEFORE_MS, 1),
        (5_000, True, TURN_PAUSE_MS, 1),
    ],
)
def test_a_long_pause_ends_a_turn_and_a_short_one_is_only_shortened(
    *, pause_ms: int, needs_silence: bool, kept_ms: int, n_turns: int
) -> None:
    """Where a turn needs silence, it gets as much as ends it, behind what was said."""
    sound = build_frames(5_000, 50)
    pcm = sound + bytes(2 * RATE_HZ * pause_ms // 1000) + sound
    pieces = play(pcm, rate_hz=RATE_HZ, needs_silence=needs_silence)

    assert check_order(pcm, pieces) * 1000 // RATE_HZ == pause_ms - kept_ms
    ends = [number for number, piece in enumerate(pieces) if piece.ends_turn]
    assert len(ends) == n_turns
    for end in ends:
        given = b"".join(piece.pcm for piece in pieces[:end])
        assert given == sound + bytes(2 * RATE_HZ * KEPT_AFTER_MS // 1000)


NOISE = random.Random(5).randbytes(2 * RATE_HZ)


@settings(max_examples=40)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, RATE_HZ), st.integers(1, 3 * RATE_HZ)), min_size=1, max_size=6
    ),
    cut=st.integers(1, 8_000),
    needs_silence=st.booleans(),
)
def test_what_is_near_a_sound_is_never_left_out(
    lengths: list[tuple[int, int]], cut: int, *, needs_silence: bool
) -> None:
    """However long sounds and pauses are, and however the audio is cut."""
    pcm = b"".join(NOISE[: 2 * sound] + bytes(2 * pause) for sound, pause in lengths)
    cuts = range(2 * cut, len(pcm), 2 * cut)
    pieces = play(pcm, rate_hz=RATE_HZ, cuts=cuts, needs_silence=needs_silence)

    check_order(pcm, pieces)
    at = 0
    left_out: list[tuple[int, int]] = []
    for piece in pieces:
        left_out.append((at, at + piece.n_skipped))
        at += piece.n_skipped + len(piece.pcm) // 2
    begin = 0
    for sound, pause in lengths:
        near_from = begin - KEPT_BEFORE_MS * RATE_HZ // 1000
        near_to = begin + sound + KEPT_AFTER_MS * RATE_HZ // 1000
        assert not any(max(a, near_from) < min(b, near_to) for a, b in left_out)
        begin += sound + pause


AUDIO = random.Random(3)
MIXED = b"".join(
    bytes(2 * n) if n % 2 else AUDIO.randbytes(2 * (n // 4))
    for n in (AUDIO.randrange(30_000) for _ in range(12))
)


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, len(MIXED) // 2 - 1).map(lambda n: 2 * n), max_size=30))
def test_how_audio_is_cut_changes_nothing(cuts: list[int]) -> None:
    """What is given, and where, is the same for any chunks."""
    whole = play(MIXED, rate_hz=RATE_HZ)
    cut = play(MIXED, rate_hz=RATE_HZ, cuts=sorted(cuts))

    assert check_order(MIXED, cut) == check_order(MIXED, whole) > 0
    assert b"".join(p.pcm for p in cut) == b"".join(p.pcm for p in whole)


def test_silence_at_a_sessions_beginning_is_left_out_but_for_what_is_near_speech() -> None:
    """There is no word before it to hear the end of, nor a turn to end."""
    skipper = SilenceSkipper(sample_rate_hz=16_000, turn_pause_ms=TURN_PAUSE_MS, is_beginning=True)
    sound = random.Random(5).randbytes(2 * 16_000)
    pieces = [*skipper.feed(memoryview(bytes(5 * 2 * 16_000) + sound)), skipper.release()]

    kept = bytes(2 * 16 * KEPT_BEFORE_MS)
    assert b"".join(piece.pcm for piece in pieces) == kept + sound
    assert sum(piece.n_skipped for piece in pieces) == 5 * 16_000 - len(kept) // 2
    assert not any(piece.ends_turn for piece in pieces)
