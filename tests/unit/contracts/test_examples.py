import json
from pathlib import Path

import jsonschema
import pytest

import speechbus_contracts
from speechbus_contracts import (
    AUDIO_PREFIX_BYTES,
    EVENT_TYPES,
    AudioChunk,
    ChunkKind,
    build_json_schema,
    build_shard,
    decode_chunk,
    decode_event,
    encode_chunk,
    encode_event,
    parse_token,
    parse_transcription_id,
)
from tests.support.contract_strategies import Json, members_of

EXAMPLES = Path(speechbus_contracts.__file__).with_name("examples")
EVENT_FILES = sorted(path for path in EXAMPLES.glob("*/*.json") if path.parent.name != "audio")
AUDIO_FILES = sorted(EXAMPLES.glob("audio/*.bin"))
TAGS = {str(kind.__struct_config__.tag) for kind in EVENT_TYPES}


def name_of(path: Path) -> str:
    """Folder and case, for test ids."""
    return f"{path.parent.name}/{path.stem}"


def assert_says_all_of(actual: Json, expected: Json) -> None:
    """Whatever `expected` says, `actual` says too; it may say more (fields added since)."""
    assert type(actual) is type(expected)
    for name, value in members_of(expected):
        assert_says_all_of(actual[name], value)
    if not isinstance(expected, dict):
        assert actual == expected


def test_every_event_type_and_chunk_kind_has_an_example() -> None:
    """Writers in other languages test against them; a type without one is not tested anywhere."""
    assert {path.parent.name for path in EVENT_FILES} == TAGS
    assert {decode_chunk(path.read_bytes()).kind for path in AUDIO_FILES} == set(ChunkKind)


def test_every_example_is_used() -> None:
    """A file that no test reads would go stale unseen."""
    used = {*EVENT_FILES, *AUDIO_FILES, *(path.with_suffix(".json") for path in AUDIO_FILES)}

    assert {path for path in EXAMPLES.rglob("*") if path.is_file()} == used


@pytest.mark.parametrize("path", EVENT_FILES, ids=name_of)
def test_an_example_event_is_written_as_it_was_read(path: Path) -> None:
    """Released examples are frozen: what an old writer said keeps its meaning."""
    message = path.read_bytes()
    event = decode_event(message)

    assert event.__struct_config__.tag == path.parent.name
    assert_says_all_of(json.loads(encode_event(event)), json.loads(message))
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("path", EVENT_FILES, ids=name_of)
def test_an_example_event_fits_the_json_schema(path: Path) -> None:
    """Other languages generate their types from it."""
    jsonschema.Draft202012Validator(build_json_schema()).validate(json.loads(path.read_bytes()))  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("path", EVENT_FILES, ids=name_of)
def test_an_example_event_could_have_been_sent(path: Path) -> None:
    """Examples are copied: ids, order of times and shards in them are right."""
    event = json.loads(path.read_bytes())
    if "stream_id" in event:
        assert parse_token(event["stream_id"])
        assert parse_token(event["tenant"])
    if "transcription_id" in event:
        stream_id, index = parse_transcription_id(event["transcription_id"])
        assert stream_id == event["stream_id"]
        assert index == event.get("index", index)
    if "shard" in event:
        assert event["shard"] == build_shard(event["stream_id"], shards=4)
    for earlier, later in [("start_ms", "end_ms"), ("from_ms", "to_ms")]:
        assert event.get(earlier, 0) <= event.get(later, event.get(earlier, 0))


@pytest.mark.parametrize("path", AUDIO_FILES, ids=name_of)
def test_an_example_chunk_is_read_as_the_file_beside_it_says(path: Path) -> None:
    """The bytes are what readers in other languages are tested with."""
    said = json.loads(path.with_suffix(".json").read_bytes())
    expected = AudioChunk(
        kind=ChunkKind[said["kind"].upper()],
        ingest_epoch=said["ingest_epoch"],
        number=said["number"],
        first_sample=said["first_sample"],
        captured_at_ns=int(said["captured_at_ns"]),
        payload=bytes.fromhex(said["payload_hex"]),
    )

    assert decode_chunk(path.read_bytes()) == expected
    assert encode_chunk(expected) == path.read_bytes()


def test_markers_carry_json_or_nothing() -> None:
    """The payload of `end` and `reconfigure` is JSON; the others have none."""
    for path in AUDIO_FILES:
        chunk, payload = decode_chunk(path.read_bytes()), path.read_bytes()[AUDIO_PREFIX_BYTES:]
        match chunk.kind:
            case ChunkKind.END:
                assert not payload or set(json.loads(payload)) == {"reason"}
            case ChunkKind.RECONFIGURE:
                assert set(json.loads(payload)) == {"language"}
            case ChunkKind.FLUSH | ChunkKind.SILENCE:
                assert not payload
            case ChunkKind.AUDIO:
                assert payload
