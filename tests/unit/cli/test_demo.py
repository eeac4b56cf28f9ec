from pathlib import Path

from speechbus_cli.audio_file import AudioFile
from speechbus_cli.client import Received
from speechbus_cli.demo import Clip, Hearing, describe_hearing
from speechbus_contracts import AnyEvent
from tests.support.stand_in_door import build_final, build_partial, turn_started


def clip(said: str, start_ms: int, end_ms: int) -> Clip:
    audio = AudioFile(path=Path("a.wav"), audio_format="wav", sample_rate_hz=16_000, seconds=1.0)
    return Clip(audio=audio, said=said, start_ms=start_ms, end_ms=end_ms)


def hearing_of(*events: tuple[float, AnyEvent]) -> Hearing:
    hearing = Hearing()
    hearing.begin(100.0)
    for at_s, event in events:
        hearing.note(Received(raw=b"", event=event, at_s=at_s))
    return hearing


def test_the_delay_counts_from_the_first_speech_to_the_first_text() -> None:
    """Silence at the beginning is not the system's delay."""
    hearing = hearing_of(
        (100.9, turn_started(400)), (101.7, build_partial("he")), (102.0, build_partial("he was"))
    )

    assert round(hearing.delay_s() or 0.0, 3) == 1.3


def test_each_sentence_is_compared_with_what_was_heard_at_its_time() -> None:
    """The finals' own borders differ from the sentences'."""
    hearing = hearing_of(
        (101.0, build_final("had he mary", index=0)),
        (102.0, build_final("corrected", index=0, revision=10)),
        (103.0, build_final("a man", index=2)),
    )

    lines = describe_hearing([clip("had he married", 0, 900), clip("a man", 2_100, 3_000)], hearing)

    assert lines[2:8] == [
        "  said   had he married",
        "  heard  corrected",
        "         3 of 3 words wrong (100%)",
        "  said   a man",
        "  heard  a man",
        "         0 of 2 words wrong (0%)",
    ]
    assert lines[8] == "Word error rate of the passage: 60% (3 of 5)."


def test_the_local_engines_quality_is_said_and_only_then() -> None:
    """The demo proves the pipe; nobody should take it for the product."""
    silent = describe_hearing([clip("a", 0, 900)], hearing_of())
    local = describe_hearing([clip("a", 0, 900)], hearing_of((101.0, build_final("a"))))

    assert not any("one word in two" in line for line in silent)
    assert "one word in two" in local[-1]
