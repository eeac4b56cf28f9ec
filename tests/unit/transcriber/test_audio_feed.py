"""A stream that is behind catches up over its silence, and its times stay right."""

import math
import random
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.audio_feed import BEHIND_S, SENT_AT_ONCE_MS, AudioFeed
from speechbus_transcriber.driver import SessionDriver
from speechbus_transcriber.session_timeline import SessionTimeline
from speechbus_transcriber.silence_skipper import KEPT_AFTER_MS, KEPT_BEFORE_MS

RATE_HZ: Final = 16_000
CHUNK_SAMPLES: Final = RATE_HZ // 10
SOURCE: Final = random.Random(11)
SOUND: Final = SOURCE.randbytes(2 * 5 * RATE_HZ)
SILENCE: Final = bytes(2 * 10 * RATE_HZ)
AUDIO: Final = SOUND + SILENCE + SOUND
BACKLOG: Final = round((BEHIND_S + 1) * RATE_HZ)


class _Heard(SessionDriver):
    """Remembers the audio; nothing else of a session is played."""

    def __init__(self, *, can_end_turns: bool) -> None:
        self.parts: list[bytes] = []
        self.asked: list[tuple[str, int]] = []
        self.can_end_turns = can_end_turns
        self.n_refused = 0
        self.learns_after = math.inf
        """Refused ends of turns until it is known that they can be ended."""

    @property
    def audio(self) -> bytes:
        return b"".join(self.parts)

    def send_audio(self, pcm: memoryview) -> None:
        assert len(pcm) // 2 <= RATE_HZ * 340 // 1000
        self.parts.append(bytes(pcm))

    def flush(self) -> None:
        self.asked.append(("flush", len(self.audio)))

    def end_turn(self) -> bool:
        self.can_end_turns |= self.n_refused >= self.learns_after
        if self.can_end_turns:
            self.asked.append(("end_turn", len(self.audio)))
        else:
            self.n_refused += 1
        return self.can_end_turns

    def finish(self) -> None:
        self.asked.append(("finish", len(self.audio)))


def begin(
    *, turn_pause_ms: int | None = 900, can_end_turns: bool = False
) -> tuple[AudioFeed, _Heard, SessionTimeline]:
    """A session at the beginning of a stream."""
    driver = _Heard(can_end_turns=can_end_turns)
    timeline = SessionTimeline(start_sample=0, sample_rate_hz=RATE_HZ)
    feed = AudioFeed(driver, timeline, sample_rate_hz=RATE_HZ, turn_pause_ms=turn_pause_ms)
    return feed, driver, timeline


def give(feed: AudioFeed, audio: bytes, *, n_behind: int) -> None:
    """Give all of it in chunks; what waits goes out between them, as a stream does it."""
    for at in range(0, len(audio), 2 * CHUNK_SAMPLES):
        while feed.waiting:
            feed.send_waiting()
        chunk = memoryview(audio)[at : at + 2 * CHUNK_SAMPLES]
        feed.give(chunk, n_behind=n_behind)


def test_a_backlog_is_given_without_its_long_silence() -> None:
    """10 s of it take less than one; what comes behind is where it was."""
    feed, driver, timeline = begin()
    give(feed, AUDIO, n_behind=BACKLOG)
    feed.finish()

    given_ms = len(driver.audio) * 500 // RATE_HZ
    assert 10_000 < given_ms < 11_000
    assert driver.audio.startswith(SOUND)
    assert driver.audio.endswith(SOUND)
    assert timeline.to_stream_ms(5_000) == 5_000
    assert timeline.to_stream_ms(given_ms) == 20_000
    assert timeline.to_stream_ms(given_ms - 5_000) == 15_000


def test_a_turn_that_needs_no_silence_is_given_next_to_none() -> None:
    """Its end is told in the pause, behind what was said, and times know what is missing."""
    feed, driver, timeline = begin(can_end_turns=True)
    give(feed, AUDIO, n_behind=BACKLOG)
    feed.finish()

    pause_ms = KEPT_AFTER_MS + KEPT_BEFORE_MS
    given_ms = len(driver.audio) * 500 // RATE_HZ
    assert driver.audio == SOUND + bytes(2 * RATE_HZ * pause_ms // 1000) + SOUND
    told_at = len(SOUND) + 2 * RATE_HZ * KEPT_AFTER_MS // 1000
    assert driver.asked == [("end_turn", told_at), ("finish", len(driver.audio))]
    assert timeline.to_stream_ms(5_000 + KEPT_AFTER_MS) == 5_000 + KEPT_AFTER_MS
    assert timeline.to_stream_ms(given_ms - 5_000) == 15_000


def test_silence_is_given_only_until_the_provider_knows_the_turns_end() -> None:
    """The first pause of a session asks, and the answer comes in the middle of it."""
    feed, driver, timeline = begin(can_end_turns=False)
    driver.learns_after = 2
    give(feed, AUDIO, n_behind=BACKLOG)
    feed.finish()

    pause_ms = KEPT_AFTER_MS + 2 * SENT_AT_ONCE_MS + KEPT_BEFORE_MS
    assert driver.audio == SOUND + bytes(2 * RATE_HZ * pause_ms // 1000) + SOUND
    assert timeline.to_stream_ms(5_000 + pause_ms) == 15_000


def test_a_stream_that_is_not_behind_is_given_whole() -> None:
    """So is one that was told to be, and one whose provider needs no pace."""
    for turn_pause_ms, n_behind in ((900, CHUNK_SAMPLES), (None, BACKLOG)):
        feed, driver, timeline = begin(turn_pause_ms=turn_pause_ms)
        give(feed, AUDIO, n_behind=n_behind)
        feed.finish()

        assert driver.audio == AUDIO
        assert timeline.to_stream_ms(20_000) == 20_000


def test_what_lasts_is_a_backlog_however_small() -> None:
    """Else it would stay for as long as the stream lives; a burst is over before it lasts."""
    small = CHUNK_SAMPLES * 5
    feed, driver, _ = begin()
    give(feed, AUDIO, n_behind=small)
    feed.finish()
    assert len(driver.audio) * 500 // RATE_HZ < 11_000

    feed, driver, _ = begin()
    for at in range(0, len(AUDIO), 2 * CHUNK_SAMPLES * 10):
        give(feed, AUDIO[at : at + 2 * CHUNK_SAMPLES * 9], n_behind=small)
        give(feed, AUDIO[at + 2 * CHUNK_SAMPLES * 9 :][: 2 * CHUNK_SAMPLES], n_behind=0)
    feed.finish()
    assert driver.audio == AUDIO


def test_a_marker_comes_behind_all_audio_before_it() -> None:
    """What is held back of a silence as well: finals of all of it were asked for."""
    feed, driver, timeline = begin()
    give(feed, SOUND + SILENCE, n_behind=BACKLOG)
    feed.flush()
    feed.finish()

    assert driver.asked == [("flush", len(driver.audio)), ("finish", len(driver.audio))]
    assert timeline.to_stream_ms(len(driver.audio) * 500 // RATE_HZ) == 15_000


@given(
    steps=st.lists(
        st.tuples(st.integers(1, 5_000), st.sampled_from([0, BACKLOG]), st.booleans()), max_size=40
    ),
    can_end_turns=st.booleans(),
)
def test_every_sound_given_is_where_it_was(
    steps: list[tuple[int, int, bool]], *, can_end_turns: bool
) -> None:
    """However often the stream falls behind, catches up and is flushed."""
    feed, driver, timeline = begin(can_end_turns=can_end_turns)
    at = 0
    for n_samples, n_behind, is_flushed in steps:
        while feed.waiting:
            feed.send_waiting()
        chunk = AUDIO[2 * at : 2 * (at + n_samples)]
        at += len(chunk) // 2
        feed.give(memoryview(chunk), n_behind=n_behind)
        if is_flushed:
            feed.flush()
    feed.finish()

    heard = driver.audio
    for ms in range(0, len(heard) * 500 // RATE_HZ, 37):
        place = timeline.to_stream_ms(ms) * RATE_HZ // 1000
        session_place = ms * RATE_HZ // 1000
        assert heard[2 * session_place : 2 * session_place + 2] in (
            AUDIO[2 * place : 2 * place + 2],
            bytes(2),  # within a silence, any is like the other
        )
