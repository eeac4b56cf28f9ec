import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import (
    AUDIO_PAYLOAD_BYTES_MAX,
    AUDIO_PREFIX_BYTES,
    AudioChunk,
    ChunkKind,
    ContractError,
    decode_chunk,
    encode_chunk,
    encode_chunk_prefix,
)
from tests.support.contract_strategies import audio_chunks

CHUNK = AudioChunk(
    kind=ChunkKind.AUDIO, number=1, first_sample=160, captured_at_ns=5, payload=bytes(320)
)


@given(chunk=audio_chunks())
def test_every_chunk_survives_a_round_trip(chunk: AudioChunk) -> None:
    """The transcriber hears the samples that ingest accepted, at the place where they were."""
    message = encode_chunk(chunk)

    assert decode_chunk(message) == chunk
    assert len(message) == AUDIO_PREFIX_BYTES + len(chunk.payload)


@given(chunk=audio_chunks())
def test_the_prefix_alone_is_what_a_whole_message_starts_with(chunk: AudioChunk) -> None:
    """The hot path writes prefix and samples separately and must not differ."""
    prefix = encode_chunk_prefix(
        chunk.kind,
        chunk.ingest_epoch,
        chunk.number,
        chunk.first_sample,
        chunk.captured_at_ns,
        chunk.chunks_before,
    )

    assert encode_chunk(chunk).startswith(prefix)


@given(chunk=audio_chunks())
def test_only_audio_takes_stream_time(chunk: AudioChunk) -> None:
    """Times in the transcript count samples; a marker in between must not move them."""
    expected = len(chunk.payload) // 2 if chunk.kind is ChunkKind.AUDIO else 0

    assert decode_chunk(encode_chunk(chunk)).n_samples == expected


def test_decoding_copies_no_audio() -> None:
    """32 kB a second and stream would otherwise be copied once more."""
    message = encode_chunk(CHUNK)

    payload = decode_chunk(message).payload

    assert isinstance(payload, memoryview)
    assert payload.obj is message


@given(message=st.binary(max_size=80))
def test_random_bytes_are_a_chunk_or_refused(message: bytes) -> None:
    """Whoever may write to the subject cannot stop a reader."""
    try:
        chunk = decode_chunk(message)
    except ContractError:
        return

    assert bytes(chunk.payload) == message[AUDIO_PREFIX_BYTES:]


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (b"", "at least 32 bytes"),
        (encode_chunk(CHUNK)[: AUDIO_PREFIX_BYTES - 1], "at least 32 bytes"),
        (b"\x00" + encode_chunk(CHUNK)[1:], "version 1"),
        (b"\x02" + encode_chunk(CHUNK)[1:], "version 1"),
        (b"\x01\x00" + encode_chunk(CHUNK)[2:], "unknown kind"),
        (b"\x01\x06" + encode_chunk(CHUNK)[2:], "unknown kind"),
        (encode_chunk(CHUNK)[:-1], "whole samples"),
        (encode_chunk(CHUNK) + bytes(AUDIO_PAYLOAD_BYTES_MAX), "at most 65,536"),
    ],
    ids=["empty", "short", "version 0", "version 2", "kind 0", "kind 6", "half a sample", "long"],
)
def test_a_broken_chunk_is_refused_by_rule(message: bytes, rule: str) -> None:
    """The text says what to mend in the writer."""
    with pytest.raises(ContractError, match=rule):
        decode_chunk(message)


def test_every_chunk_tells_where_its_ingest_epoch_begins() -> None:
    """Whichever of them comes first: from there on the former ingest's count for nothing."""
    chunk = msgspec.structs.replace(CHUNK, number=1_000, chunks_before=7)

    assert decode_chunk(encode_chunk(chunk)).epoch_start == 993
    assert CHUNK.epoch_start == CHUNK.number


@pytest.mark.parametrize("kind", [ChunkKind.FLUSH, ChunkKind.SILENCE])
def test_a_payload_where_none_belongs_is_not_written_but_read(kind: ChunkKind) -> None:
    """A reader that dropped the chunk would look for its number for ever."""
    chunk = msgspec.structs.replace(CHUNK, kind=kind, payload=b"")

    with pytest.raises(ContractError, match="no payload"):
        encode_chunk(msgspec.structs.replace(chunk, payload=b"later"))
    assert decode_chunk(encode_chunk(chunk) + b"later").number == chunk.number


@pytest.mark.parametrize(
    "field", ["ingest_epoch", "chunks_before", "number", "first_sample", "captured_at_ns"]
)
@pytest.mark.parametrize("value", [-1, 2**64, 2**200])
def test_a_number_that_does_not_fit_its_field_is_refused(field: str, value: int) -> None:
    """Wrapping around would put audio at another place of the stream."""
    with pytest.raises(ContractError, match="out of range"):
        encode_chunk(msgspec.structs.replace(CHUNK, **{field: value}))


@pytest.mark.parametrize("n_bytes", [1, 319, AUDIO_PAYLOAD_BYTES_MAX + 2])
def test_audio_that_no_reader_would_accept_is_not_written(n_bytes: int) -> None:
    """The mistake shows where it is made."""
    with pytest.raises(ContractError):
        encode_chunk(msgspec.structs.replace(CHUNK, payload=bytes(n_bytes)))
