from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.local_engine.turns import (
    START_PROBABILITY,
    STOP_PROBABILITY,
    SpeechStarted,
    SpeechStopped,
    TurnDetector,
    TurnEvent,
)

BLOCK = 512


def detector() -> TurnDetector:
    return TurnDetector(block_samples=BLOCK, sample_rate_hz=16_000, turn_stop_ms=600)


def events_of(probabilities: list[float]) -> list[TurnEvent]:
    turns = detector()
    found = [turns.next_event(probability) for probability in probabilities]
    return [event for event in found if event is not None]


def test_a_turn_is_dated_to_where_its_speech_began_and_ended() -> None:
    """Detection needs 100 and 600 ms; times say when it happened, not when it was noticed."""
    events = events_of([0.0] * 10 + [0.9] * 20 + [0.1] * 25)

    assert events == [SpeechStarted(10 * BLOCK), SpeechStopped(30 * BLOCK)]


def test_a_click_is_no_turn() -> None:
    """96 ms of something loud would otherwise cost a decoding and maybe invent a word."""
    assert events_of([0.0, 0.9, 0.9, 0.9, 0.0] * 10) == []


def test_a_pause_within_a_sentence_does_not_end_the_turn() -> None:
    """People pause for half a second in the middle of a sentence."""
    assert events_of([0.9] * 10 + [0.0] * 18 + [0.9] * 10) == [SpeechStarted(0)]


def test_a_soft_syllable_keeps_the_turn_open() -> None:
    """Between the two thresholds it is neither a start nor silence."""
    between = (START_PROBABILITY + STOP_PROBABILITY) / 2

    assert events_of([between] * 50) == []
    assert events_of([0.9] * 4 + [between] * 100) == [SpeechStarted(0)]


def test_stopping_by_hand_ends_an_open_turn_where_its_speech_ended() -> None:
    """A flush must not wait 600 ms, and must not call the silence so far speech."""
    turns = detector()
    for probability in [0.9] * 10 + [0.0] * 5:
        turns.next_event(probability)

    assert turns.stop() == SpeechStopped(10 * BLOCK)
    assert turns.stop() is None


@given(probabilities=st.lists(st.floats(0, 1), max_size=400))
def test_starts_and_stops_alternate_and_time_goes_on(probabilities: list[float]) -> None:
    """The recognizer opens and closes utterances by these events without checking them."""
    events = events_of(probabilities)
    times = [event.at_sample for event in events]

    assert [isinstance(event, SpeechStarted) for event in events] == [
        index % 2 == 0 for index in range(len(events))
    ]
    assert times == sorted(set(times))
    assert all(0 <= at <= len(probabilities) * BLOCK for at in times)


@given(
    probabilities=st.lists(st.floats(0, 1), max_size=400),
    cut=st.integers(0, 400),
)
def test_what_comes_later_changes_no_event(probabilities: list[float], cut: int) -> None:
    """Events are published at once, so they can never be taken back."""
    whole, part = events_of(probabilities), events_of(probabilities[:cut])

    assert part == whole[: len(part)]
