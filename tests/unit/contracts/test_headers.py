from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import (
    WriteSubject,
    build_claim_headers,
    build_dedup_headers,
    build_guard_headers,
    build_transcription_id,
    caption_dedup_id,
    claim_dedup_id,
    event_dedup_id,
    job_dedup_id,
    resumed_dedup_id,
    segment_dedup_id,
    translation_dedup_id,
)
from tests.support.contract_strategies import stream_ids, tokens

STREAMS = ["01a1f813-a740-7bf3-a1c9-d27e40816cfe", "01a1f813-a740-7bf3-a1c9-d27e40816cff"]
SEGMENTS = [build_transcription_id(stream, index) for stream in STREAMS for index in (0, 1, 11)]
COUNTS = [0, 1, 11]
KINDS = ["opened", "reconfigured", "gap", "covered", "flushed", "retracted", "closed"]
TOKENS = ["a", "1", "1-1", "gap", "claim", "closed", "caption"]
COUNT = st.integers(0, 2**53)


def test_dedup_ids_of_differing_writes_to_one_store_differ() -> None:
    """JetStream drops the second of two equal ids: a collision would be a lost final."""
    transcript = [
        *(claim_dedup_id(*inputs) for inputs in product(STREAMS, COUNTS, TOKENS)),
        *(resumed_dedup_id(*inputs) for inputs in product(STREAMS, COUNTS, TOKENS)),
        *(event_dedup_id(*inputs) for inputs in product(STREAMS, KINDS, COUNTS)),
        *(segment_dedup_id(*inputs) for inputs in product(SEGMENTS, COUNTS)),
        *(translation_dedup_id(*inputs) for inputs in product(SEGMENTS, TOKENS, COUNTS)),
    ]
    jobs = [job_dedup_id(*inputs) for inputs in product(STREAMS, COUNTS)]
    captions = [caption_dedup_id(*inputs) for inputs in product(SEGMENTS, COUNTS)]

    for ids in (transcript, jobs, captions):
        assert len(set(ids)) == len(ids)


@given(
    streams=st.tuples(stream_ids(), stream_ids()),
    epochs=st.tuples(COUNT, COUNT),
    workers=st.tuples(tokens(), tokens()),
)
def test_two_claims_have_one_dedup_id_only_if_they_are_one_claim(
    streams: tuple[str, str], epochs: tuple[int, int], workers: tuple[str, str]
) -> None:
    """Two workers that race for an epoch must not be told of each other's success as their own."""
    claims = list(zip(streams, epochs, workers, strict=True))
    ids = [claim_dedup_id(stream, epoch, worker) for stream, epoch, worker in claims]

    assert (ids[0] == ids[1]) == (claims[0] == claims[1])


def test_a_repeated_write_carries_its_dedup_id_and_nothing_to_check() -> None:
    """`opened`, jobs, translations and captions are written by those who own no stream."""
    assert build_dedup_headers("x:1") == {"content-type": "application/json", "Nats-Msg-Id": "x:1"}


def test_a_claim_is_checked_against_the_last_claim() -> None:
    """Of two workers that read the same last claim, one gets the stream."""
    assert build_claim_headers("x:1", last_claim_sequence=0) == {
        "content-type": "application/json",
        "Nats-Msg-Id": "x:1",
        "Nats-Expected-Last-Subject-Sequence": "0",
    }


def test_a_guarded_write_is_checked_against_the_writers_claim() -> None:
    """The guard looks at the claim's subject, not at the one written to."""
    claim = str(WriteSubject("acme", STREAMS[0], "claim"))

    assert build_guard_headers("x:1", token=17, claim_subject=claim) == {
        "content-type": "application/json",
        "Nats-Msg-Id": "x:1",
        "Nats-Expected-Last-Subject-Sequence": "17",
        "Nats-Expected-Last-Subject-Sequence-Subject": claim,
    }
    named = build_guard_headers("x:1", token=17, claim_subject=claim, previous=20)
    assert named["Speechbus-Previous-Sequence"] == "20"
