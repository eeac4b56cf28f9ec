"""What a provider says about a final after it: translations and corrections."""

import msgspec

from speechbus_contracts import SegmentFinal, build_transcription_id
from speechbus_transcriber.providers.interface import Heard, Translated
from speechbus_transcriber.session_finals import FINALS_MAX, SessionFinals

STREAM = "01a1f813-a740-7bf3-a1c9-d27e40816cfe"


def final(index: int, provider_id: str | None, text: str = "Hello.") -> SegmentFinal:
    """A final as the segmenter makes it."""
    return SegmentFinal(
        stream_id=STREAM,
        tenant="acme",
        transcription_id=build_transcription_id(STREAM, index),
        index=index,
        revision=3,
        epoch=1,
        language="en",
        text=text,
        start_ms=1_000 * index,
        end_ms=1_000 * index + 900,
        provider="palabra",
        covered_ms=1_000 * index + 900,
        audio_received_at=1,
        emitted_at=2,
        provider_transcription_id=provider_id,
    )


def heard(provider_id: str, text: str) -> Heard:
    """A final as the provider says it."""
    return Heard(
        text=text, is_final=True, start_ms=0, end_ms=900, provider_transcription_id=provider_id
    )


def spanish(provider_id: str) -> Translated:
    """A translation."""
    return Translated(provider_transcription_id=provider_id, language="es", text="Hola.")


def test_case_03_a_translation_long_after_its_final_finds_it() -> None:
    """It may take seconds, and other finals come meanwhile."""
    finals = SessionFinals()
    for index in range(FINALS_MAX):
        finals.add(final(index, f"p{index}"))
        finals.note_stored(final(index, f"p{index}"), 100 + index)
    translation = finals.translate(spanish("p0"))

    assert translation is not None
    completed = finals.complete(translation)
    assert completed is not None
    assert completed.source_sequence == 100
    assert translation.transcription_id == build_transcription_id(STREAM, 0)
    assert (translation.revision, translation.start_ms, translation.end_ms) == (3, 0, 900)


def test_case_04_a_translation_of_an_unknown_final_is_none() -> None:
    """Ids mean nothing in another session; and memory is bounded."""
    finals = SessionFinals()
    for index in range(FINALS_MAX + 1):
        finals.add(final(index, f"p{index}"))

    assert finals.translate(spanish("p0")) is None
    assert finals.translate(spanish("never said")) is None
    assert SessionFinals().translate(spanish("p5")) is None


def test_case_06_a_changed_final_is_the_next_revision_of_the_last_segment() -> None:
    """Of an older one it cannot be: the log's last final is where the next worker goes on."""
    finals = SessionFinals()
    finals.add(final(4, "a"))
    partial = msgspec.structs.replace(heard("a", "Hell"), is_final=False)
    assert finals.correct(partial, last_index=4, now_ms=9) is None
    corrected = finals.correct(heard("a", "Hello!"), last_index=4, now_ms=9)

    assert corrected == msgspec.structs.replace(
        final(4, "a"), text="Hello!", revision=4, emitted_at=9
    )
    assert finals.correct(heard("a", "Hello!"), last_index=4, now_ms=9) is None
    assert finals.correct(heard("a", ""), last_index=4, now_ms=9) is None
    assert finals.correct(heard("a", "Hallo!"), last_index=5, now_ms=9) is None


def test_a_changed_final_is_translated_by_others() -> None:
    """What its provider translates now may be the old text as well as the new one."""
    finals = SessionFinals()
    finals.add(msgspec.structs.replace(final(4, "a"), promised_languages=("es",)))
    corrected = finals.correct(heard("a", "Hello!"), last_index=4, now_ms=9)

    assert corrected is not None
    assert corrected.promised_languages == ()
    assert finals.translate(spanish("a")) is None
    for index in range(5, 5 + FINALS_MAX):
        finals.add(final(index, f"p{index}"))
        assert finals.translate(spanish(f"p{index}")) is not None


def test_finals_without_an_id_of_the_provider_are_never_corrected() -> None:
    """The local engine has none."""
    finals = SessionFinals()
    finals.add(final(0, None))

    assert not finals.knows(
        msgspec.structs.replace(heard("a", "x"), provider_transcription_id=None)
    )
    assert not finals.knows(heard("a", "x"))


def test_nothing_is_said_about_a_final_that_was_refused() -> None:
    """Its translation may wait behind it already, or come later."""
    finals = SessionFinals()
    finals.add(final(0, "p0"))
    waiting = finals.translate(spanish("p0"))
    assert waiting is not None

    assert not finals.forget(final(0, "p0"))
    assert finals.complete(waiting) is None
    assert finals.translate(spanish("p0")) is None


def test_a_refused_correction_leaves_its_final_stored() -> None:
    """No gap belongs in its place."""
    finals = SessionFinals()
    finals.add(final(0, "p0"))
    finals.note_stored(final(0, "p0"), 7)
    corrected = finals.correct(heard("p0", "Hallo."), last_index=0, now_ms=3)
    assert corrected is not None

    assert finals.forget(corrected)
    assert finals.translate(spanish("p0")) is None
