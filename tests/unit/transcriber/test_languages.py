"""Which language is spoken where."""

from hypothesis import given
from hypothesis import strategies as st

from speechbus_transcriber.languages import Languages


@given(
    changes=st.lists(st.tuples(st.integers(0, 20), st.sampled_from([None, "en", "ja"]))),
    before=st.integers(0, 20),
)
def test_the_last_change_before_a_sample_counts_in_whatever_order_they_are_learned(
    changes: list[tuple[int, str | None]], before: int
) -> None:
    """A new worker learns them from the log, and once more from the audio."""
    languages = Languages("de")
    spoken: dict[int, str | None] = {0: "de"}
    for at_sample, language in changes:
        languages.change(at_sample, language)
        spoken[at_sample] = language
    languages.forget(before)

    for sample in range(before, 22):
        assert languages.at(sample) == spoken[max(at for at in spoken if at <= sample)]
