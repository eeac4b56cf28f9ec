import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import (
    ContractError,
    build_stream_id,
    build_transcription_id,
    parse_token,
    parse_transcription_id,
)
from tests.support.contract_strategies import tokens

TIMES = st.integers(0, 2**48 - 1)
ENTROPY = st.binary(min_size=10, max_size=10)


@given(unix_ms=TIMES, entropy=ENTROPY)
def test_a_stream_id_is_a_uuid_of_version_7(unix_ms: int, entropy: bytes) -> None:
    """Any tool that knows UUIDs can read it, its time included, and it fits a subject."""
    stream_id = build_stream_id(unix_ms=unix_ms, entropy=entropy)
    parsed = uuid.UUID(stream_id)

    assert str(parsed) == parse_token(stream_id) == stream_id
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == unix_ms


def test_a_stream_id_is_the_one_of_the_standard() -> None:
    """RFC 9562, appendix A.6: the same time and random bits give the same id."""
    entropy = (0xCC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10)

    assert (
        build_stream_id(unix_ms=0x017F22E279B0, entropy=entropy)
        == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    )


@given(first=TIMES, second=TIMES, entropies=st.tuples(ENTROPY, ENTROPY))
def test_stream_ids_sort_by_time(first: int, second: int, entropies: tuple[bytes, bytes]) -> None:
    """A list of streams is in order of their opening without asking for more."""
    earlier, later = sorted((first, second))
    ids = [
        build_stream_id(unix_ms=unix_ms, entropy=entropy)
        for unix_ms, entropy in zip((earlier, later), entropies, strict=True)
    ]

    assert earlier == later or ids[0] < ids[1]


@given(one=ENTROPY, other=ENTROPY)
def test_74_random_bits_tell_streams_of_one_millisecond_apart(one: bytes, other: bytes) -> None:
    """All but the six bits that version and variant take."""
    kept = int.from_bytes(b"\x0f\xff\x3f" + b"\xff" * 7)
    is_same = int.from_bytes(one) & kept == int.from_bytes(other) & kept

    assert (
        build_stream_id(unix_ms=1, entropy=one) == build_stream_id(unix_ms=1, entropy=other)
    ) == is_same


@pytest.mark.parametrize(
    ("unix_ms", "entropy"), [(-1, bytes(10)), (2**48, bytes(10)), (0, bytes(9)), (0, bytes(11))]
)
def test_a_stream_id_of_other_ingredients_is_refused(unix_ms: int, entropy: bytes) -> None:
    """Fewer random bits would collide, quietly."""
    with pytest.raises(ContractError):
        build_stream_id(unix_ms=unix_ms, entropy=entropy)


@given(stream_id=tokens(), index=st.integers(0, 999_999_999))
def test_a_transcription_id_parses_to_what_built_it(stream_id: str, index: int) -> None:
    """Stream and place of a segment are known from its id alone."""
    assert parse_transcription_id(build_transcription_id(stream_id, index)) == (stream_id, index)


@given(text=st.text(max_size=40) | st.text("ab-0123456789", max_size=20))
def test_what_is_parsed_as_transcription_id_would_be_built_the_same(text: str) -> None:
    """One spelling per segment: a join by id never misses."""
    try:
        stream_id, index = parse_transcription_id(text)
    except ContractError:
        return

    assert build_transcription_id(stream_id, index) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "s",
        "s-",
        "-1",
        "s-01",
        "s-+1",
        "s- 1",
        "s-1\n",
        "s\n-1",
        "s-٣",
        "s-²",
        "s-1000000000",
        "s-" + "9" * 5_000,
        "a.b-1",
        "a*-1",
        "a" * 65 + "-1",
        "\ud800-1",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_what_is_no_transcription_id_is_refused(text: str) -> None:
    """It comes from messages, and becomes a part of dedup ids and logs."""
    with pytest.raises(ContractError) as caught:
        parse_transcription_id(text)

    assert len(text) < 3 or text not in str(caught.value)


@pytest.mark.parametrize(
    ("stream_id", "index"),
    [("", 0), ("a.b", 0), ("a\n", 0), ("٣", 0), ("a" * 65, 0), ("s", -1), ("s", 10**9)],
    ids=ascii,
)
def test_a_transcription_id_that_nobody_could_parse_is_not_built(
    stream_id: str, index: int
) -> None:
    """The mistake shows where it is made."""
    with pytest.raises(ContractError):
        build_transcription_id(stream_id, index)
