import msgspec

from speechbus_cli.transcript import Line, Transcript, format_clock, printable
from speechbus_contracts import (
    AnyEvent,
    SegmentRetracted,
    StreamClaimed,
    TranslationMissing,
    TranslationPartial,
)
from tests.support.stand_in_door import (
    STREAM_ID,
    build_final,
    build_gap,
    build_partial,
    build_translation,
)


def lines_of(events: list[AnyEvent]) -> list[str]:
    transcript = Transcript()
    return [line.text for event in events if (line := transcript.apply(event)) is not None]


def claim(epoch: int) -> StreamClaimed:
    return StreamClaimed(
        stream_id=STREAM_ID,
        tenant="dev",
        epoch=epoch,
        worker="w",
        provider="local",
        from_ms=0,
        reason="opened",
        claimed_at=0,
    )


def test_a_final_seen_twice_is_shown_once() -> None:
    """Readers that reconnect get the same events again."""
    final = build_final("good morning")

    assert lines_of([final, final]) == ["[0:00.0 - 0:00.8] good morning"]


def test_a_partial_never_replaces_a_final() -> None:
    """Partials and finals come by different ways and may overtake each other."""
    transcript = Transcript()
    transcript.apply(build_final("good morning"))

    transcript.apply(build_partial("good", revision=20))

    assert transcript.partials == ()


def test_a_correction_is_shown_and_an_older_revision_is_not() -> None:
    """The highest revision is the truth, whatever the order."""
    assert lines_of(
        [build_final("a", revision=1), build_final("b", revision=2), build_final("a", revision=1)]
    ) == ["[0:00.0 - 0:00.8] a", "[0:00.0 - 0:00.8] b (corrected)"]


def test_partials_of_a_worker_that_lost_the_stream_disappear() -> None:
    """A frozen worker that wakes up must not flicker on anybody's screen."""
    transcript = Transcript()
    transcript.apply(claim(1))
    transcript.apply(build_partial("old", epoch=1))

    transcript.apply(claim(2))
    transcript.apply(build_partial("older", epoch=1, revision=5))

    assert transcript.partials == ()


def test_a_retracted_segment_disappears() -> None:
    """No final will ever replace what was shown."""
    transcript = Transcript()
    transcript.apply(build_partial("uh"))

    transcript.apply(
        SegmentRetracted(
            stream_id=STREAM_ID,
            tenant="dev",
            transcription_id=f"{STREAM_ID}-0",
            index=0,
            epoch=1,
            finals=0,
        )
    )

    assert transcript.partials == ()


def test_a_gap_is_a_line_of_its_own() -> None:
    """What is missing is never missing silently."""
    transcript = Transcript()

    line = transcript.apply(build_gap())

    assert line == Line(kind="gap", text="[0:01.0 - 0:02.5] (not transcribed: lag)")
    assert transcript.gaps == 1


def test_every_provider_that_made_a_final_is_named_once() -> None:
    """Who reads a transcript wants to know whose it is, also when the stream moved."""
    transcript = Transcript()
    for index, provider in enumerate(("palabra", "local", "palabra")):
        final = build_final("x", index=index)
        transcript.apply(msgspec.structs.replace(final, provider=provider))

    assert transcript.providers == ["palabra", "local"]


def test_a_late_translation_names_the_time_of_its_sentence() -> None:
    """It stands under another sentence than its own."""
    assert lines_of(
        [
            build_final("good morning"),
            build_translation("guten Morgen"),
            build_final("how are you", index=1),
            build_final("and you", index=2),
            build_translation("wie geht es dir", index=1),
            build_translation("und dir", index=2),
        ]
    ) == [
        "[0:00.0 - 0:00.8] good morning",
        "    de: guten Morgen",
        "[0:01.0 - 0:01.8] how are you",
        "[0:02.0 - 0:02.8] and you",
        "    de [0:01.0]: wie geht es dir",
        "    de: und dir",
    ]


def build_missing(language: str, reason: str, *, index: int = 0) -> TranslationMissing:
    return TranslationMissing(
        stream_id=STREAM_ID,
        tenant="dev",
        transcription_id=f"{STREAM_ID}-{index}",
        language=language,
        revision=9,
        reason=reason,
    )


def test_a_translation_that_is_missing_says_why() -> None:
    """Else the person waits for it, or looks for the mistake in the wrong place."""
    assert lines_of(
        [
            build_final("good morning"),
            build_missing("ja", "no_engine"),
            build_missing("ja", "no_engine"),
            build_missing("es", "undelivered"),
            build_final("how are you", index=1),
            build_missing("fr", "unavailable"),
            build_missing("fr", "a reason of tomorrow", index=1),
        ]
    ) == [
        "[0:00.0 - 0:00.8] good morning",
        "    ja: no translation (no engine for en-ja)",
        "    es: no translation (the provider has not delivered it)",
        "[0:01.0 - 0:01.8] how are you",
        "    fr [0:00.0]: no translation (no engine answered)",
        "    fr: no translation (a reason of tomorrow)",
    ]


def test_a_translation_that_comes_after_all_is_shown_once() -> None:
    """Whoever made it first: a second one is another wording of the same."""
    final, translation = build_final("good morning"), build_translation("guten Morgen")
    again = msgspec.structs.replace(translation, text="schönen Morgen")
    missing = build_missing("de", "undelivered")

    assert lines_of([final, missing, translation, again, missing])[1:] == [
        "    de: no translation (the provider has not delivered it)",
        "    de: guten Morgen",
    ]


def test_a_translation_of_a_text_that_was_corrected_is_not_shown() -> None:
    """It would stand below words that it does not translate."""
    corrected = build_final("good mourning", revision=10)
    outdated = build_translation("guten Morgen")
    of_it = msgspec.structs.replace(outdated, text="gute Trauer", revision=10)

    assert lines_of([build_final("good morning"), corrected, outdated, of_it])[2:] == [
        "    de: gute Trauer"
    ]


def test_a_partial_is_shown_with_its_newest_translation_until_its_final() -> None:
    """Translators work side by side, and their answers may overtake each other."""

    def translated(text: str, revision: int, *, epoch: int = 1) -> TranslationPartial:
        return TranslationPartial(
            stream_id=STREAM_ID,
            tenant="dev",
            transcription_id=f"{STREAM_ID}-0",
            language="de",
            text=text,
            start_ms=0,
            end_ms=800,
            provider="test",
            revision=revision,
            epoch=epoch,
        )

    transcript = Transcript()
    transcript.apply(translated("zu früh", 0))
    assert transcript.open_lines == []
    transcript.apply(build_partial("good", revision=0))
    transcript.apply(build_partial("good morning", revision=2))
    transcript.apply(translated("guten Morgen", 2))
    transcript.apply(translated("gut", 0))
    assert transcript.open_lines == ["… good morning", "    de: guten Morgen"]

    transcript.apply(build_final("good morning"))
    transcript.apply(translated("guten Morgen", 3))
    assert transcript.open_lines == []


def test_recognized_text_cannot_steer_the_terminal() -> None:
    """A provider's text is input from outside."""
    assert printable("a\x1b[2Jb\nc") == "a [2Jb c"


def test_stream_times_are_spelled_with_tenths_cut_off() -> None:
    """A time may not lie behind what it names."""
    assert [format_clock(at_ms) for at_ms in (0, 999, 61_250, 3_600_000)] == [
        "0:00.0",
        "0:00.9",
        "1:01.2",
        "60:00.0",
    ]
