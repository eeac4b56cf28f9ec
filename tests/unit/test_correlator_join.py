from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import (
    CaptionJoined,
    ContractError,
    SegmentFinal,
    TurnStarted,
    encode_event,
)
from speechbus_correlator.join import is_told, join_final, parse_final

SUBJECT = "speech.v1.write.acme.s1.final"

FINAL = SegmentFinal(
    stream_id="s1",
    tenant="acme",
    transcription_id="s1-4",
    index=4,
    revision=2,
    epoch=1,
    language="en",
    text="Good morning.",
    start_ms=420,
    end_ms=1380,
    provider="local",
    covered_ms=1500,
    audio_received_at=1,
    emitted_at=2,
)


def tell(finals: Sequence[SegmentFinal]) -> dict[int, CaptionJoined]:
    """Return the captions that one segment's finals leave, by revision.

    The rule of the service, on a dictionary: a caption is stored under the first free revision,
    unless one that is stored tells the final already.
    """
    stored: dict[int, CaptionJoined] = {}
    for final in finals:
        revision = 0
        while revision in stored and not is_told(final, stored[revision]):
            revision += 1
        stored.setdefault(revision, join_final(final, revision=revision))
    return stored


def test_a_final_without_target_languages_is_complete() -> None:
    """Captions work for streams that ask for no translation."""
    caption = join_final(FINAL, revision=0)

    assert caption == CaptionJoined(
        stream_id="s1",
        tenant="acme",
        transcription_id="s1-4",
        revision=0,
        state="complete",
        source=FINAL,
    )


def test_a_final_with_target_languages_says_what_is_missing() -> None:
    """Readers show the source at once and know that more is to come."""
    final = msgspec.structs.replace(FINAL, target_languages=("es", "de", "es"))

    caption = join_final(final, revision=0)

    assert (caption.state, caption.missing, caption.translations) == (
        "incomplete",
        ("es", "de"),
        {},
    )


def test_a_final_is_read_from_its_subject() -> None:
    """What a worker writes is what is joined."""
    assert parse_final(SUBJECT, encode_event(FINAL)) == FINAL


@pytest.mark.parametrize(
    "changed",
    [
        {"tenant": "other"},
        {"stream_id": "s2"},
        {"transcription_id": "s1-5"},
        {"transcription_id": "s2-4"},
        {"transcription_id": "s1-4\r\nNats-Msg-Id: s1-5:caption:0"},
        {"index": 5},
    ],
)
def test_a_final_of_another_stream_than_its_subject_is_refused(changed: dict[str, object]) -> None:
    """A worker with the right to write for one tenant must not reach another's captions."""
    final = msgspec.structs.replace(FINAL, **changed)

    with pytest.raises(ContractError):
        parse_final(SUBJECT, encode_event(final))


def test_another_event_on_a_finals_subject_is_refused() -> None:
    """The consumer's filter knows subjects only."""
    event = TurnStarted(stream_id="s1", tenant="acme", at_ms=0, epoch=1)

    with pytest.raises(ContractError):
        parse_final(SUBJECT, encode_event(event))


@given(payload=st.binary(max_size=200))
def test_garbage_raises_a_contract_error_and_nothing_else(payload: bytes) -> None:
    """Anything else would end as a bug, and its message would come again for ever."""
    with pytest.raises(ContractError):
        parse_final(SUBJECT, payload)


def revisions() -> st.SearchStrategy[list[SegmentFinal]]:
    """Finals of one segment, corrections among them, in any order and any number of times."""
    return st.lists(st.integers(2, 6), min_size=1, max_size=12).map(
        lambda numbers: [
            msgspec.structs.replace(FINAL, revision=number, text=f"text {number}")
            for number in numbers
        ]
    )


@given(finals=revisions(), data=st.data())
def test_duplicates_change_nothing(finals: list[SegmentFinal], data: st.DataObject) -> None:
    """JetStream delivers again what was not acknowledged, to any instance."""
    once = tell(finals)
    again = data.draw(st.lists(st.sampled_from(finals)))

    assert tell([*finals, *again]) == once


@given(finals=revisions())
def test_the_last_caption_tells_the_last_correction(finals: list[SegmentFinal]) -> None:
    """Readers keep the caption of the highest revision, so a correction must have that."""
    captions = tell(finals)

    newest = max(final.revision for final in finals)
    last = captions[max(captions)].source
    assert last is not None
    assert last.revision == newest
    assert sorted(captions) == list(range(len(captions)))
