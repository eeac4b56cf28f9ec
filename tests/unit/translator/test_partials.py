"""Partials of a long segment cost little, and what is shown is always of the partial it names."""

import asyncio
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_contracts import (
    ContractError,
    SegmentFinal,
    SegmentPartial,
    TranslationPartial,
    encode_event,
)
from speechbus_translator.partials import PartialTranslator, parse_partial
from speechbus_translator.pool import Later, Outcome, Translated
from tests.support.correlator import final_of

SAID = "the old man sat down by the road and waited for us to come but we did not"
WORDS = SAID.split()


def partial_of(revision: int, text: str, *, epoch: int = 1, index: int = 0) -> SegmentPartial:
    """A partial in English, wanted in Spanish."""
    final = final_of(index, revision=revision, epoch=epoch, text=text, target_languages=("es",))
    fields = {f.name: getattr(final, f.name) for f in msgspec.structs.fields(SegmentFinal)}
    return SegmentPartial(**fields)


class Engine:
    """Translates words into capitals, some turns of the event loop later; may be down."""

    def __init__(self, chance: random.Random) -> None:
        self.asked: list[str] = []
        self.is_down = False
        self.open = self.most_open = 0
        self._chance = chance

    async def __call__(self, text: str, _source: str | None, _target: str) -> Outcome:
        """Translate one text."""
        self.asked.append(text)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        self.open -= 1
        return Later(1.0) if self.is_down else Translated(text.upper(), "one")


def show(
    partials: Sequence[SegmentPartial], *, seed: int = 0, down_at: Sequence[int] = ()
) -> tuple[list[TranslationPartial], Engine]:
    """Return what is shown of partials, and the engine that was asked."""
    chance = random.Random(seed)
    engine = Engine(chance)
    shown: list[TranslationPartial] = []

    async def run() -> None:
        translator = PartialTranslator(engine, shown.append)
        for number, partial in enumerate(partials):
            engine.is_down = number in down_at
            translator.take(partial)
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
        for _ in range(200):
            await asyncio.sleep(0)
        await translator.close()

    asyncio.run(run())
    return shown, engine


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 2), st.integers(1, len(WORDS))), max_size=30),
    seed=st.integers(0, 2**32),
    down_at=st.lists(st.integers(0, 30)),
)
def test_what_is_shown_is_of_the_partial_it_names(
    lengths: list[tuple[int, int]], seed: int, down_at: list[int]
) -> None:
    """Of several segments at once, with texts that grow and shrink and an engine that fails."""
    partials = [
        partial_of(revision, " ".join(WORDS[:n_words]), index=index)
        for revision, (index, n_words) in enumerate(lengths)
    ]
    texts = {(p.transcription_id, p.revision): p.text for p in partials}

    shown, engine = show(partials, seed=seed, down_at=down_at)

    for each in shown:
        assert each.text == texts[each.transcription_id, each.revision].upper()
    for index in range(3):
        revisions = [e.revision for e in shown if e.transcription_id == f"s1-{index}"]
        assert revisions == sorted(set(revisions))
        own = [p.revision for p in partials if p.index == index]
        if own and not down_at:
            assert revisions[-1] == own[-1]  # the newest is always shown in the end
    assert engine.most_open <= 2


def test_a_settled_beginning_is_translated_once() -> None:
    """The longer the segment, the more it saves."""
    texts = [" ".join(WORDS[:n]) for n in range(1, len(WORDS) + 1)]

    shown, engine = show([partial_of(number, text) for number, text in enumerate(texts)])

    assert shown[-1].text == " ".join(WORDS).upper()
    # Once more when it was settled, and then never again.
    assert engine.asked.count("the old man sat down by the road and waited") == 2
    settled_at = max(n for n, text in enumerate(engine.asked) if text.startswith("the old man"))
    assert engine.asked[settled_at] == "the old man sat down by the road and waited"
    assert len(engine.asked) > settled_at + 2


def test_what_its_provider_translates_and_what_is_said_already_is_not_asked_for() -> None:
    """Palabra's own partials are Palabra's; English needs no English."""
    partial = msgspec.structs.replace(
        partial_of(0, "good morning"),
        target_languages=("es", "en-GB"),
        promised_languages=("es",),
    )

    shown, engine = show([partial])

    assert [(each.language, each.text, each.provider) for each in shown] == [
        ("en-GB", "good morning", "local")
    ]
    assert engine.asked == []


def test_an_older_owner_of_the_stream_is_not_translated() -> None:
    """It may be frozen, and not know it."""
    shown, _ = show([partial_of(0, "new", epoch=2), partial_of(7, "stale", epoch=1)])

    assert [(each.epoch, each.revision, each.text) for each in shown] == [(2, 0, "NEW")]


@pytest.mark.parametrize(
    "changed",
    [{"tenant": "other"}, {"stream_id": "s2"}, {"transcription_id": "s1-5"}, {"index": 5}],
)
def test_a_partial_of_another_stream_than_its_subject_is_refused(
    changed: dict[str, object],
) -> None:
    """Its tenant decides who reads the translation."""
    subject = "speech.v1.live.acme.s1.partial"
    partial = partial_of(0, "good morning")

    assert parse_partial(subject, encode_event(partial)) == partial
    with pytest.raises(ContractError):
        parse_partial(subject, encode_event(msgspec.structs.replace(partial, **changed)))
