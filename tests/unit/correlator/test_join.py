import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import (
    ContractError,
    SegmentFinal,
    TurnStarted,
    encode_event,
)
from speechbus_correlator.join import parse_part
from tests.support.caption_world import translation_of

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


def test_a_final_is_read_from_its_subject() -> None:
    """What a worker writes is what is joined."""
    assert parse_part(SUBJECT, encode_event(FINAL)) == FINAL


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
        parse_part(SUBJECT, encode_event(final))


def test_a_translation_of_another_language_than_its_subject_is_refused() -> None:
    """Readers of one language get that language."""
    translation = translation_of(FINAL, "es", source_sequence=1)
    subject = "speech.v1.write.acme.s1.translation."

    assert parse_part(f"{subject}es", encode_event(translation)) == translation
    with pytest.raises(ContractError):
        parse_part(f"{subject}pt", encode_event(translation))


def test_another_event_on_a_finals_subject_is_refused() -> None:
    """The consumer's filter knows subjects only."""
    event = TurnStarted(stream_id="s1", tenant="acme", at_ms=0, epoch=1)

    with pytest.raises(ContractError):
        parse_part(SUBJECT, encode_event(event))


@given(payload=st.binary(max_size=200))
def test_garbage_raises_a_contract_error_and_nothing_else(payload: bytes) -> None:
    """Anything else would end as a bug, and its message would come again for ever."""
    with pytest.raises(ContractError):
        parse_part(SUBJECT, payload)
