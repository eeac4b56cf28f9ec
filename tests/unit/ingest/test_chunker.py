"""Whatever a client sends, the same samples leave in whole chunks."""

from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.chunker import Chunker

RATES = st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000])


def chunk_bytes(sample_rate_hz: int, chunk_ms: int) -> int:
    return 2 * (sample_rate_hz * chunk_ms // 1000)


@given(
    pieces=st.lists(
        st.one_of(st.binary(max_size=9), st.binary(max_size=40).map(lambda part: 50 * part)),
        max_size=40,
    ),
    sample_rate_hz=RATES,
    chunk_ms=st.sampled_from([20, 100, 320]),
)
def test_any_cut_gives_the_same_samples(
    pieces: list[bytes], sample_rate_hz: int, chunk_ms: int
) -> None:
    """Chunks are full but for the last; no sample is split, lost or turned round."""
    size = chunk_bytes(sample_rate_hz, chunk_ms)
    chunker = Chunker(sample_rate_hz=sample_rate_hz, chunk_ms=chunk_ms)
    chunks: list[bytes] = []
    for piece in pieces:
        chunks += chunker.split(piece)
        assert chunker.n_waiting < size
    sent = b"".join(pieces)
    rest = chunker.take_rest()

    assert {len(chunk) for chunk in chunks} <= {size}
    assert len(rest) % 2 == 0
    assert b"".join(chunks) + rest == sent[: len(sent) & ~1]
    assert chunker.n_waiting == len(sent) % 2


@given(pieces=st.lists(st.tuples(st.binary(max_size=700), st.booleans()), max_size=30))
def test_a_rest_taken_early_loses_nothing(pieces: list[tuple[bytes, bool]]) -> None:
    """A client that pauses, also in the middle of a sample, is published up to there."""
    chunker = Chunker(sample_rate_hz=16_000, chunk_ms=20)
    published = b""
    for piece, is_pause in pieces:
        published += b"".join(chunker.split(piece))
        if is_pause:
            published += chunker.take_rest()
            assert chunker.n_waiting < 2
        assert len(published) % 2 == 0
    published += chunker.take_rest()
    sent = b"".join(piece for piece, _ in pieces)

    assert published == sent[: len(sent) & ~1]


def test_an_aligned_chunk_is_passed_uncopied() -> None:
    """The usual client sends exactly chunks; a copy of each would be paid for all streams."""
    chunker = Chunker(sample_rate_hz=16_000, chunk_ms=100)
    data = bytes(3_200)

    (chunk,) = chunker.split(data)
    assert chunk is data
