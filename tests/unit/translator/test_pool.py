"""Who translates, and what happens when nobody can."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from speechbus_contracts import (
    ContractError,
    SegmentFinal,
    TranslationFinal,
    TranslationMissing,
    encode_event,
)
from speechbus_runtime.publisher import PublishRefusedError
from speechbus_translator.engines.interface import EngineRefusedError, EngineUnavailableError
from speechbus_translator.pool import EnginePool, Later, Translated, Untranslated
from speechbus_translator.translator import StoredFinal, Translator, parse_final
from tests.support.correlator import final_of


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Tell it."""
        return self.now_s


class SpokenEngine:
    """Answers as the test says; a real engine's faults are in tests of their own."""

    def __init__(self, name: str, pairs: Sequence[str], answer: Callable[[str], str]) -> None:
        self.name = name
        self.asked: list[str] = []
        self.open = 0
        self.most_open = 0
        self._pairs = pairs
        self._answer = answer

    def serves(self, source: str | None, target: str) -> bool:
        """Look it up."""
        return f"{source}-{target}" in self._pairs

    async def translate(self, text: str, *, source: str | None, target: str) -> str:
        """Note the text and answer."""
        self.asked.append(text)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        return self._answer(text)

    async def close(self) -> None:
        """Nothing to close."""


def fail(_text: str) -> str:
    raise EngineUnavailableError("down")


def refuse(_text: str) -> str:
    raise EngineRefusedError("no")


def pool_of(*engines: SpokenEngine, clock: Clock | None = None) -> EnginePool:
    return EnginePool(engines, timeout_s=1.0, concurrency=2, now_s=clock or Clock())


def test_the_first_engine_that_serves_the_pair_translates() -> None:
    """An operator's own model goes before the public server."""
    other = SpokenEngine("other", ["de-en"], str.upper)
    first = SpokenEngine("first", ["en-es"], str.upper)
    second = SpokenEngine("second", ["en-es"], str.lower)

    async def run() -> None:
        pool = pool_of(other, first, second)
        assert await pool.translate("Hi", source="en", target="es") == Translated("HI", "first")
        assert await pool.translate("Hi", source="en", target="fr") == Untranslated("no_engine")

    asyncio.run(run())
    assert (other.asked, second.asked) == ([], [])


def test_the_next_engine_helps_out() -> None:
    """One that is down, or does not take the text, is not the end."""

    async def run() -> None:
        for answer in (fail, refuse):
            broken = SpokenEngine("broken", ["en-es"], answer)
            pool = pool_of(broken, SpokenEngine("well", ["en-es"], str.upper))
            translated = await pool.translate("hi", source="en", target="es")
            assert translated == Translated("HI", "well")
        pool = pool_of(SpokenEngine("broken", ["en-es"], refuse))
        assert await pool.translate("hi", source="en", target="es") == Untranslated("refused")

    asyncio.run(run())


def test_a_dead_engine_is_asked_ever_less_often_and_noticed_when_it_is_back() -> None:
    """Its failures are the budget of all texts together, not of each."""
    clock = Clock()
    is_well = False
    engine = SpokenEngine("one", ["en-es"], lambda text: text.upper() if is_well else fail(text))

    async def run() -> None:
        nonlocal is_well
        pool = pool_of(engine, clock=clock)

        async def ask(text: str) -> object:
            return await pool.translate(text, source="en", target="es")

        for number in range(600):  # ten texts a second for a minute
            assert isinstance(await ask(f"text {number}"), Later)
            clock.now_s += 0.1
        n_asked = len(engine.asked)
        assert n_asked < 15

        is_well = True
        clock.now_s += 8.0
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(f"more {number}")) for number in range(5)]
        answers = [task.result() for task in asking]
        assert answers.count(Translated("MORE 0", "one")) == 1
        assert len(engine.asked) == n_asked + 1  # one tries, the others wait for what comes of it
        assert await ask("more 1") == Translated("MORE 1", "one")

    asyncio.run(run())


def test_no_engine_gets_more_at_once_than_it_may() -> None:
    """And what has been translated is not translated again."""
    engine = SpokenEngine("one", ["en-es"], str.upper)

    async def run() -> None:
        pool = pool_of(engine)
        texts = [f"text {number}" for number in range(20)]
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                for text in texts:
                    group.create_task(pool.translate(text, source="en", target="es"))

    asyncio.run(run())
    assert (engine.most_open, len(engine.asked)) == (2, 20)


# --- a final ---------------------------------------------------------------------------------


STEP_IN_S = 2.5


class Log:
    """Says what the test says."""

    def __init__(self, *languages: str) -> None:
        self._languages = frozenset(languages)

    async def find_translated(self, final: SegmentFinal, sequence: int) -> frozenset[str]:
        """Tell it."""
        return self._languages


def handle(
    engine: SpokenEngine,
    final: SegmentFinal,
    *,
    age_ms: int = 0,
    n_delivered: int = 1,
    done: Sequence[str] = (),
) -> tuple[list[TranslationFinal | TranslationMissing], float | None]:
    """Return what is published for a final, and when it wants to be looked at again (s)."""
    published: list[TranslationFinal | TranslationMissing] = []

    async def publish(event: TranslationFinal | TranslationMissing) -> None:
        published.append(event)

    async def run() -> float | None:
        translator = Translator(
            pool_of(engine), Log(*done), publish, retry_for_s=60.0, step_in_s=STEP_IN_S
        )
        stored = StoredFinal(sequence=7, at_ms=1_000, n_delivered=n_delivered, event=final)
        return await translator.handle(stored, now_ms=1_000 + age_ms)

    again_s = asyncio.run(run())
    return published, again_s


def told(events: Sequence[TranslationFinal | TranslationMissing]) -> dict[str, str]:
    return {
        each.language: each.text if isinstance(each, TranslationFinal) else each.reason
        for each in events
    }


def test_only_what_the_provider_did_not_promise_is_translated_at_once() -> None:
    """Else two translations of one final would race."""
    engine = SpokenEngine("one", ["en-es", "en-pt"], str.upper)
    final = final_of(
        0, target_languages=("es", "pt", "es", "fr", "en-GB"), promised_languages=("es",)
    )

    published, again_s = handle(engine, final)

    assert told(published) == {"pt": "SEGMENT 0", "fr": "no_engine", "en-GB": "segment 0"}
    assert again_s == STEP_IN_S
    translation = next(each for each in published if each.language == "pt")
    assert translation == TranslationFinal(
        stream_id="s1",
        tenant="acme",
        transcription_id="s1-0",
        language="pt",
        text="SEGMENT 0",
        start_ms=0,
        end_ms=900,
        provider="one",
        revision=2,
        source_sequence=7,
    )


def test_an_engine_that_is_down_is_tried_again_and_given_up_in_the_end() -> None:
    """Late, not missing; but nobody waits for ever."""
    engine = SpokenEngine("one", ["en-es"], fail)
    final = final_of(0, target_languages=("es", "fr"))

    published, again_s = handle(engine, final)
    assert told(published) == {"fr": "no_engine"}
    assert again_s is not None
    assert 0 < again_s < 10

    published, again_s = handle(engine, final, age_ms=60_001)
    assert (told(published), again_s) == ({"es": "unavailable", "fr": "no_engine"}, None)


PROMISED = final_of(0, target_languages=("es", "pt", "fr"), promised_languages=("es", "fr"))


def test_a_promise_that_is_not_kept_in_time_is_kept_by_the_pool() -> None:
    """A provider may be mute, or its session break between a final and its translation."""
    engine = SpokenEngine("one", ["en-es", "en-pt"], str.upper)

    published, again_s = handle(engine, PROMISED, age_ms=1_000)
    assert (told(published), again_s) == ({"pt": "SEGMENT 0"}, 1.5)

    published, again_s = handle(engine, PROMISED, age_ms=2_500, n_delivered=2, done=("pt",))
    # Nobody here can French; the provider still may.
    assert (told(published), again_s) == ({"es": "SEGMENT 0", "fr": "undelivered"}, None)


def test_a_promise_that_was_kept_costs_no_translation() -> None:
    """The log says so."""
    engine = SpokenEngine("one", ["en-es", "en-pt"], str.upper)

    published, again_s = handle(
        engine, PROMISED, age_ms=2_500, n_delivered=2, done=("es", "pt", "fr")
    )

    assert (published, again_s, engine.asked) == ([], None, [])


def test_a_final_that_was_waited_for_with_a_dead_engine_names_the_broken_promise() -> None:
    """It is not the engine's fault."""
    engine = SpokenEngine("one", ["en-es", "en-pt", "en-fr"], fail)

    published, again_s = handle(engine, PROMISED, age_ms=60_001)

    assert told(published) == {"es": "undelivered", "pt": "unavailable", "fr": "undelivered"}
    assert again_s is None


def test_what_is_translated_already_is_not_translated_again() -> None:
    """A killed translator's finals come again, to others that do not remember them."""
    engine = SpokenEngine("one", ["en-es", "en-pt"], str.upper)
    final = final_of(0, target_languages=("es", "pt"))

    published, again_s = handle(engine, final, n_delivered=2, done=("es",))

    assert (told(published), again_s, engine.asked) == ({"pt": "SEGMENT 0"}, None, ["segment 0"])


def test_a_translation_that_cannot_be_stored_is_missing_and_the_others_are_not() -> None:
    """An engine in a loop makes more of a text than a message may hold."""
    published: list[TranslationFinal | TranslationMissing] = []

    async def publish(event: TranslationFinal | TranslationMissing) -> None:
        await asyncio.sleep(0)
        if isinstance(event, TranslationFinal) and event.language == "es":
            raise PublishRefusedError(10054)
        published.append(event)

    async def run() -> float | None:
        engine = SpokenEngine("one", ["en-es", "en-pt"], str.upper)
        translator = Translator(
            pool_of(engine), Log(), publish, retry_for_s=60.0, step_in_s=STEP_IN_S
        )
        final = final_of(0, target_languages=("es", "pt"))
        stored = StoredFinal(sequence=7, at_ms=1_000, n_delivered=1, event=final)
        return await translator.handle(stored, now_ms=1_000)

    again_s = asyncio.run(run())

    assert (told(published), again_s) == ({"es": "refused", "pt": "SEGMENT 0"}, None)


def test_a_final_of_another_stream_than_its_subject_is_refused() -> None:
    """Its tenant decides who reads the translation."""
    payload = encode_event(final_of(0, tenant="other"))

    with pytest.raises(ContractError):
        parse_final("speech.v1.write.acme.s1.final", payload)
