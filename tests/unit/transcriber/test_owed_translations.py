"""What a stream's end waits for."""

from speechbus_contracts import encode_event
from speechbus_transcriber.owed_translations import OwedTranslations
from tests.support.caption_world import missing_of, translation_of
from tests.support.correlator import final_of


def test_what_was_asked_for_is_owed_whoever_promised_it() -> None:
    """A provider may break its promise; then a translator steps in."""
    owed = OwedTranslations()
    owed.add(final_of(0), 3)
    assert owed.first_sequence() is None

    owed.add(final_of(1, target_languages=("es",), promised_languages=("es",)), 5)
    assert owed.first_sequence() == 5


def test_a_translation_or_the_word_that_none_comes_settles_it() -> None:
    """Each for its own final, revision and language."""
    first = final_of(0, target_languages=("es", "pt"))
    second = final_of(1, target_languages=("es", "pt"), promised_languages=("es",))
    owed = OwedTranslations()
    owed.add(first, 3)
    owed.add(second, 7)

    owed.settle(encode_event(translation_of(first, "es", source_sequence=3)))
    owed.settle(encode_event(translation_of(final_of(0, revision=1), "pt", source_sequence=1)))
    owed.settle(b"garbage")
    assert owed.first_sequence() == 3

    owed.settle(encode_event(missing_of(first, "pt", source_sequence=3)))
    assert owed.first_sequence() == 7

    owed.settle(encode_event(translation_of(second, "pt", source_sequence=7)))
    owed.settle(encode_event(missing_of(second, "es", reason="undelivered", source_sequence=7)))
    assert owed.first_sequence() is None
