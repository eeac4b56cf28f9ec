import json
import traceback
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import (
    EVENT_TYPES,
    INTEGER_MAX,
    ContractError,
    Event,
    TurnStarted,
    decode_event,
    encode_event,
)
from tests.support.contract_strategies import Json, events, json_values, members_of

SPOKEN = "the password is swordfish"
MAPS = ("translations", "reasons", "consumed")
"""Fields whose object is a map: a further key there is a further entry."""


LEAVES: dict[str, Json] = {
    "string": SPOKEN,
    "integer": 7,
    "number": 0.5,
    "boolean": True,
    "null": None,
}


def sample_of(kind: type[Event]) -> dict[str, Json]:
    """One event as JSON: every text is SPOKEN, every integer 7."""
    schema = msgspec.json.schema(kind)
    sample: dict[str, Json] = _filled(schema, schema["$defs"])
    return sample


def _filled(schema: Json, definitions: Json) -> Json:
    match schema:
        case {"$ref": reference}:
            return _filled(definitions[reference.removeprefix("#/$defs/")], definitions)
        case {"anyOf": [first, *_]}:
            return _filled(first, definitions)
        case {"enum": [first, *_]}:
            return first
        case {"properties": fields}:
            return {name: _filled(field, definitions) for name, field in fields.items()}
        case {"additionalProperties": item}:
            return {SPOKEN: _filled(item, definitions)}
        case {"items": item}:
            return [_filled(item, definitions)]
        case _:
            return LEAVES[schema["type"]]


SAMPLES = [sample_of(kind) for kind in EVENT_TYPES]


def assert_refused(message: bytes) -> None:
    """Refused, and no trace of the input in what a log would show of the error."""
    with pytest.raises(ContractError) as caught:
        decode_event(message)

    shown = "".join(traceback.format_exception(caught.value))
    assert str(caught.value) == "not a valid event of speech.v1"
    assert shown.count("Error:") == 1, "the decoder's own error, which quotes, is shown too"
    assert SPOKEN not in shown


def outcome_of(message: bytes) -> Event | None:
    """The event, or None if refused; anything else that is raised fails the test."""
    try:
        return decode_event(message)
    except ContractError:
        assert_refused(message)
        return None


@given(event=events())
def test_every_event_survives_a_round_trip(event: Event) -> None:
    """What one service says is exactly what another hears."""
    assert decode_event(encode_event(event)) == event


def _with_unknown_fields(value: Json, unknown: Json) -> Json:
    known = {
        name: item if name in MAPS else _with_unknown_fields(item, unknown)
        for name, item in members_of(value)
    }
    if isinstance(value, list):
        return list(known.values())
    return {"newer": unknown, **known, "newest": unknown} if isinstance(value, dict) else value


@given(event=events(), unknown=json_values())
def test_fields_of_a_newer_writer_are_ignored(event: Event, unknown: Json) -> None:
    """A field can be added without telling every reader first, in inner objects too."""
    message = json.dumps(_with_unknown_fields(json.loads(encode_event(event)), unknown))

    assert decode_event(message.encode()) == event


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["type"])
def test_a_missing_field_is_refused_unless_it_has_a_default(sample: dict[str, Json]) -> None:
    """A reader never works with half an event, and an older writer is still understood."""
    for kind in EVENT_TYPES:
        if kind.__struct_config__.tag == sample["type"]:
            required = {field.name for field in msgspec.structs.fields(kind) if field.required}
            for name in required | {"type"}:
                assert_refused(json.dumps({k: v for k, v in sample.items() if k != name}).encode())
            least = {k: v for k, v in sample.items() if k in required | {"type"}}
            assert outcome_of(json.dumps(least).encode()) is not None


def _leaves(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    members = members_of(value)
    for name, item in members:
        yield from _leaves(item, (*path, name))
    if not members:
        yield path


def _replaced(value: Json, path: tuple[str | int, ...], new: Json) -> Json:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["type"])
def test_a_value_of_another_type_is_refused_without_quoting_it(sample: dict[str, Json]) -> None:
    """The error reaches logs, and the event may hold speech."""
    for path in _leaves(sample):
        assert_refused(json.dumps(_replaced(sample, path, [[SPOKEN]])).encode())
        assert_refused(json.dumps(_replaced(sample, path, {"text": SPOKEN})).encode())


@pytest.mark.parametrize("value", [INTEGER_MAX + 1, -INTEGER_MAX - 1, 2**63, 2**64, 10**400])
def test_an_integer_that_other_languages_cannot_hold_is_refused(value: int) -> None:
    """JavaScript would round it, Go would refuse it: readers must agree on what was said."""
    for sample in SAMPLES:
        for path in _leaves(sample):
            if _value_at(sample, path) == 7:
                assert_refused(json.dumps(_replaced(sample, path, value)).encode())


def _value_at(value: Json, path: tuple[str | int, ...]) -> Json:
    for key in path:
        value = value[key]
    return value


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"{}",
        b"7",
        b'"the password is swordfish"',
        b'{"type":"the password is swordfish"}',
        b'{"type":null}',
        b'{"type":["gap"]}',
        b'{"type":"turn.started","type":"gap"}',
        b'{"type":"turn.started","stream_id":"s","tenant":"t","epoch":1,"at_ms":1',
        b'{"type":"turn.started","stream_id":"s","tenant":"t","epoch":1,"at_ms":1}{}',
        b'{"type":"turn.started","stream_id":"s","tenant":"t","epoch":1,"at_ms":1.5}',
        b'{"type":"turn.started","stream_id":"s","tenant":"t","epoch":1,"at_ms":NaN}',
        b'{"type":"turn.started","stream_id":"s","tenant":"t","epoch":1,"at_ms":true}',
        b'{"type":"turn.started","stream_id":"s","tenant":"\\ud800","epoch":1,"at_ms":1}',
        b'{"type":"turn.started","stream_id":"s","tenant":"\xff","epoch":1,"at_ms":1}',
        b'{"type":"turn.started","stream_id":"s","tenant":"\xed\xa0\x80","epoch":1,"at_ms":1}',
        b'{"type":"turn.started","stream_id":"s","tenant":"t","epoch":1,"at_ms":' + b"9" * 10_000,
        b'{"type":"turn.started","x":' + b"9" * 100_000 + b"e999999999}",
        b"\xef\xbb\xbf{}",
        b"[" * 200_000,
        b'{"x":' * 200_000,
        b'{"type":"gap","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
    ids=lambda message: repr(message[-24:]),
)
def test_garbage_is_refused(message: bytes) -> None:
    """A reader drops what it cannot read and keeps running; the error is always the same one."""
    assert_refused(message)


@given(message=st.binary(max_size=200))
def test_random_bytes_are_refused(message: bytes) -> None:
    """Whoever may write to the subject cannot stop a reader."""
    assert outcome_of(message) is None


@given(event=events(), data=st.data())
def test_damaged_events_are_refused_or_read_and_nothing_else(
    event: Event, data: st.DataObject
) -> None:
    """Damage that happens to leave valid JSON is an event that can be written again."""
    message = bytearray(encode_event(event))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(message)))
        end = data.draw(st.integers(start, min(len(message), start + 4)))
        message[start:end] = data.draw(st.binary(max_size=4))

    read = outcome_of(bytes(message))

    if read is not None:
        assert decode_event(encode_event(read)) == read


def test_half_a_surrogate_pair_cannot_be_written() -> None:
    """Providers' texts may be broken; the writer learns it, and the error is silent on speech."""
    event = TurnStarted(stream_id="s", tenant=f"{SPOKEN} \ud83d", epoch=1, at_ms=0)

    with pytest.raises(ContractError) as caught:
        encode_event(event)

    assert SPOKEN not in "".join(traceback.format_exception(caught.value))
