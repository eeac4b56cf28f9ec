"""Whatever happens on the way, the captions are those of the ideal order."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_contracts import CaptionJoined, SegmentFinal, TranslationFinal
from speechbus_correlator.join import ORPHAN_AFTER_MS, Part, Stored
from tests.support.caption_world import (
    WAIT_MS,
    World,
    draw_log,
    missing_of,
    retracted_of,
    translation_of,
)
from tests.support.correlator import final_of

FINAL = final_of(0, target_languages=("es", "pt"))
ES = translation_of(FINAL, "es", source_sequence=1)
PT = translation_of(FINAL, "pt", source_sequence=1)


def log_of(*parts: tuple[int, Part]) -> list[Stored]:
    """Return a log: each event's ms behind the first, and the event."""
    return [Stored(n, 200_000 + at_ms, event) for n, (at_ms, event) in enumerate(parts, start=1)]


def run(log: Sequence[Stored]) -> World:
    world = World(log)
    world.run()
    return world


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    faults=st.integers(0, 2**32),
    instances=st.integers(1, 5),
    outage=st.tuples(st.integers(0, 60_000), st.sampled_from((0, 4_000, 300_000))),
)
def test_the_joined_set_is_that_of_the_ideal_order(
    seed: int, faults: int, instances: int, outage: tuple[int, int]
) -> None:
    """In any order, repeated, lost, by any instance, through deaths, outages and wrong clocks."""
    log = draw_log(random.Random(seed))
    ideal = run(log)
    began_ms = 200_000 + outage[0]
    world = World(
        log,
        faults=random.Random(faults),
        instances=instances,
        outage=(began_ms, began_ms + outage[1]),
    )
    world.run()

    assert world.current() == ideal.current()
    assert world.orphans() == ideal.orphans()


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_final_has_one_caption_and_every_translation_an_end(seed: int) -> None:
    """No caption holds a translation of another segment or of an older revision."""
    log = draw_log(random.Random(seed))
    world = run(log)
    current = world.current()

    for name, finals in _finals(log).items():
        newest = max((final for _, final in finals), key=lambda final: final.revision)
        assert current[name].source == newest
    for caption in current.values():
        own = {
            (each.event.language, each.event.text)
            for each in log
            if isinstance(each.event, TranslationFinal)
            and each.event.transcription_id == caption.transcription_id
            and (caption.source is None or each.event.revision == caption.source.revision)
        }
        assert set(caption.translations.items()) <= own
    for each in log:
        if isinstance(each.event, TranslationFinal):
            assert _has_end(each, each.event, log, world), each


def _finals(log: Sequence[Stored]) -> dict[str, list[tuple[Stored, SegmentFinal]]]:
    found: dict[str, list[tuple[Stored, SegmentFinal]]] = {}
    for each in log:
        if isinstance(each.event, SegmentFinal):
            found.setdefault(each.event.transcription_id, []).append((each, each.event))
    return found


def _has_end(
    stored: Stored, translation: TranslationFinal, log: Sequence[Stored], world: World
) -> bool:
    name = translation.transcription_id
    finals = _finals(log).get(name, [])
    own = [each for each, final in finals if final.revision == translation.revision]
    if not own and any(final.revision > translation.revision for _, final in finals):
        return True
    if not own or own[0].at_ms - stored.at_ms > ORPHAN_AFTER_MS:
        return stored.sequence in world.orphans()
    current: CaptionJoined = world.current()[name]
    assert current.source is not None
    is_unwanted = (
        stored.sequence < own[0].sequence
        and translation.language not in current.source.target_languages
    )
    return (
        translation.language in current.translations
        or current.is_retracted
        or current.source.revision > translation.revision
        or is_unwanted
    )


def tell(*parts: tuple[int, Part]) -> list[tuple[int, int, str, dict[str, str], tuple[str, ...]]]:
    """Return when each caption came (ms), its revision, state, translations, what is missing."""
    world = run(log_of(*parts))
    return [
        (
            world.published_at_ms[key] - 200_000,
            caption.revision,
            caption.state,
            dict(caption.translations),
            caption.missing,
        )
        for key, caption in world.captions.items()
    ]


def test_a_caption_is_published_the_moment_it_is_complete() -> None:
    """Viewers wait for nothing that is there."""
    assert tell((0, FINAL), (300, ES), (700, PT)) == [
        (700, 3, "complete", {"es": ES.text, "pt": PT.text}, ())
    ]


def test_at_the_deadline_it_says_what_is_missing_and_later_what_came() -> None:
    """A slow translator holds up nothing."""
    assert tell((0, FINAL), (300, ES), (9_000, PT)) == [
        (WAIT_MS, 2, "incomplete", {"es": ES.text}, ("pt",)),
        (9_000, 3, "late", {"es": ES.text, "pt": PT.text}, ()),
    ]


def test_what_nobody_translates_is_not_waited_for() -> None:
    """The reason is known at once."""
    missing = missing_of(FINAL, "pt", source_sequence=1)
    world = run(log_of((0, FINAL), (10, missing), (300, ES)))

    assert list(world.published_at_ms.values()) == [200_300]
    caption = world.current()["s1-0"]
    assert (caption.state, caption.missing, caption.reasons) == (
        "incomplete",
        ("pt",),
        {"pt": "no_engine"},
    )


def test_what_a_provider_still_owes_is_waited_for_until_the_deadline() -> None:
    """Nobody can step in, and the provider is only slow, perhaps."""
    undelivered = missing_of(FINAL, "pt", reason="undelivered", source_sequence=1)
    told = tell((0, FINAL), (300, ES), (2_500, undelivered), (4_000, PT))
    assert told == [(4_000, 4, "complete", {"es": ES.text, "pt": PT.text}, ())]

    world = run(log_of((0, FINAL), (300, ES), (2_500, undelivered)))
    assert list(world.published_at_ms.values()) == [200_000 + WAIT_MS]
    assert world.current()["s1-0"].reasons == {"pt": "undelivered"}


def test_of_two_translations_the_first_counts_for_good() -> None:
    """A provider that delivers after somebody stepped in changes nothing that is shown."""
    again = translation_of(FINAL, "es", text="otra cosa", source_sequence=1)

    told = tell((0, FINAL), (300, ES), (600, again), (700, PT), (9_000, again))

    assert told == [(700, 4, "complete", {"es": ES.text, "pt": PT.text}, ())]


def test_a_correction_is_translated_anew() -> None:
    """The old words belong to the old text."""
    corrected = final_of(0, revision=3, text="better", target_languages=("es",))
    again = translation_of(corrected, "es", source_sequence=3)
    world = run(log_of((0, FINAL), (100, ES), (200, corrected), (300, PT), (400, again)))

    caption = world.current()["s1-0"]
    assert (caption.source, caption.translations) == (corrected, {"es": again.text})
    assert len(world.captions) == 1


def test_a_final_that_is_taken_back_takes_its_caption_with_it() -> None:
    """What is shown has to go."""
    world = run(log_of((0, FINAL), (100, ES), (200, PT), (300, retracted_of(FINAL)), (400, ES)))

    caption = world.current()["s1-0"]
    assert (caption.revision, caption.is_retracted, caption.translations) == (4, True, {})


def test_a_translation_may_come_before_its_final() -> None:
    """Some providers translate partials; the bus promises no order between two writers."""
    early = translation_of(FINAL, "es", source_sequence=None)
    told = tell((0, early), (3_000, FINAL), (3_500, PT))

    assert [(revision, state) for _, revision, state, *_ in told] == [(3, "complete")]
    assert 3_500 <= told[0][0] <= 4_500


def test_a_translation_of_nothing_ends_as_an_orphan() -> None:
    """It is not lost, and belongs to nobody."""
    told = tell((0, translation_of(FINAL, "es", source_sequence=None)))

    assert [each[1:] for each in told] == [(1, "orphan", {"es": ES.text}, ())]
    assert ORPHAN_AFTER_MS < told[0][0] <= ORPHAN_AFTER_MS + 1_000


def test_a_clock_that_is_an_hour_behind_keeps_the_deadline() -> None:
    """A machine without time service delays nobody's captions by an hour."""
    world = World(log_of((0, FINAL), (300, ES)), wrong_by_ms=-3_600_000)
    world.run()

    assert world.published_at_ms == {("s1-0", 2): 200_000 + WAIT_MS}


@pytest.mark.parametrize("since_ms", [100_000, 200_100])
def test_a_deadline_that_nobody_was_there_for_is_kept_when_somebody_is(since_ms: int) -> None:
    """It lies in the log, not in a process; nor does it begin when a process first sees it."""
    world = World(log_of((0, FINAL), (300, ES)), outage=(since_ms, 260_000))
    world.run()

    assert world.published_at_ms == {("s1-0", 2): 260_000}
    assert world.current()["s1-0"].state == "incomplete"
