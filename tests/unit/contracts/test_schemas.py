import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given, settings

import speechbus_contracts
from speechbus_cli.schema import schema, write_schemas
from speechbus_contracts import (
    EVENT_TYPES,
    INTEGER_MAX,
    Event,
    build_asyncapi,
    build_json_schema,
    encode_event,
    parse_subject,
)
from tests.support.contract_strategies import Json, events, members_of

SCHEMAS = Path(speechbus_contracts.__file__).with_name("schemas")
DOCUMENT: Json = json.loads(json.dumps(build_asyncapi()))
VALIDATOR = jsonschema.Draft202012Validator(build_json_schema())
NAMES = {kind.__name__ for kind in EVENT_TYPES}


def references_in(value: Json) -> Iterator[str]:
    """Every `$ref` of a document."""
    for name, item in members_of(value):
        if name == "$ref":
            yield item
        yield from references_in(item)


def resolved(document: Json, reference: str) -> Json:
    """What a local reference points at; fails the test if it is nothing."""
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        document = document[part]
    return document


@pytest.mark.parametrize("name", ["events.schema.json", "asyncapi.json"])
def test_the_generated_files_are_up_to_date(name: str, tmp_path: Path) -> None:
    """Other languages read the files, not the code."""
    write_schemas(tmp_path)

    assert (SCHEMAS / name).read_bytes() == (tmp_path / name).read_bytes(), (
        "the events changed: run `make schema` (it runs `speechbus schema --write`)"
    )


def test_nothing_but_generated_files_lies_beside_them(tmp_path: Path) -> None:
    """A file that nobody writes any more would look current for ever."""
    assert [path.name for path in sorted(SCHEMAS.iterdir())] == sorted(
        path.name for path in write_schemas(tmp_path)
    )


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        ([], build_json_schema()),
        (["--format", "json-schema"], build_json_schema()),
        (["--format", "asyncapi"], build_asyncapi()),
    ],
)
def test_the_command_prints_the_document(arguments: list[str], document: dict[str, Json]) -> None:
    """Pipes into generators of other languages: JSON on stdout and nothing else."""
    done = CliRunner().invoke(schema, arguments)

    assert done.exit_code == 0
    assert done.output == json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def test_the_command_writes_both_documents_and_names_them(tmp_path: Path) -> None:
    """The folder is made if need be."""
    done = CliRunner().invoke(schema, ["--write", str(tmp_path / "new")])

    assert done.exit_code == 0
    assert [Path(line).name for line in done.output.splitlines()] == [
        "events.schema.json",
        "asyncapi.json",
    ]
    assert json.loads((tmp_path / "new" / "asyncapi.json").read_bytes()) == DOCUMENT


def test_the_command_tells_why_it_cannot_write(tmp_path: Path) -> None:
    """A sentence and an exit code, not a traceback."""
    (tmp_path / "file").touch()
    below_a_file = CliRunner().invoke(schema, ["--write", str(tmp_path / "file" / "new")])
    both = CliRunner().invoke(schema, ["--format", "asyncapi", "--write", str(tmp_path)])

    assert (below_a_file.exit_code, both.exit_code) == (1, 2)
    assert "Not a directory" in below_a_file.output
    assert "leave --format out" in both.output


def test_the_json_schema_is_one() -> None:
    """Validators of other languages are stricter than Python's about the schema itself."""
    document = build_json_schema()

    jsonschema.Draft202012Validator.check_schema(document)
    for reference in references_in(document):
        resolved(document, reference)


@settings(max_examples=50)
@given(event=events())
def test_every_event_fits_the_json_schema(event: Event) -> None:
    """What we write is what generated types of other languages read."""
    VALIDATOR.validate(json.loads(encode_event(event)))  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize(
    "change",
    [{"type": "turn.begun"}, {"at_ms": "1"}, {"at_ms": INTEGER_MAX + 1}, {"stream_id": None}],
    ids=repr,
)
def test_the_json_schema_refuses_what_the_decoder_refuses(change: dict[str, Json]) -> None:
    """A writer that tests against the schema is understood."""
    event = {"type": "turn.ended", "stream_id": "s", "tenant": "t", "epoch": 1, "at_ms": 1}
    VALIDATOR.validate(event | {"a_newer_field": 1})  # pyright: ignore[reportUnknownMemberType]

    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(event | change)  # pyright: ignore[reportUnknownMemberType]
    with pytest.raises(speechbus_contracts.ContractError):
        speechbus_contracts.decode_event(json.dumps(event | change).encode())


def test_the_asyncapi_document_has_the_structure_of_version_3() -> None:
    """Checked by hand against the specification of 3.0.0, whose own schema is not at hand."""
    assert set(DOCUMENT) <= {
        "asyncapi",
        "id",
        "info",
        "servers",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    }
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    assert set(DOCUMENT["components"]) == {"messages", "schemas"}
    for kind in ("channels", "operations"):
        assert all(re.fullmatch(r"[\w.-]+", name) for name in DOCUMENT[kind])
    for components in DOCUMENT["components"].values():
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in components)
    for reference in references_in(DOCUMENT):
        resolved(DOCUMENT, reference)


@pytest.mark.parametrize("name", DOCUMENT["channels"])
def test_a_channel_declares_its_parameters_and_messages(name: str) -> None:
    """Version 3 allows parameters of text only: an enum, a default, a description."""
    channel = DOCUMENT["channels"][name]

    assert set(channel) == {"address", "description", "parameters", "messages"}
    assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
    for parameter in channel["parameters"].values():
        assert set(parameter) <= {"enum", "default", "description", "examples", "location"}
        assert all(isinstance(value, str) for value in parameter.get("enum", ()))
    for message, reference in channel["messages"].items():
        assert reference == {"$ref": f"#/components/messages/{message}"}


@pytest.mark.parametrize("name", DOCUMENT["channels"])
def test_a_channels_address_is_a_subject(name: str) -> None:
    """Who fills in the parameters gets a subject that services use."""
    channel = DOCUMENT["channels"][name]
    kinds = channel["parameters"].get("kind", {}).get("enum", [""])
    for kind in kinds:
        subject = channel["address"].replace("{kind}", kind)
        subject = re.sub(r"{\w+}", "x", subject)

        assert str(parse_subject(subject)) == subject


def test_an_operation_names_an_action_and_a_channel() -> None:
    """A document from the reader's side: every channel can be received."""
    channels = [operation["channel"]["$ref"] for operation in DOCUMENT["operations"].values()]

    assert {operation["action"] for operation in DOCUMENT["operations"].values()} == {"receive"}
    assert sorted(channels) == sorted(f"#/channels/{name}" for name in DOCUMENT["channels"])


def test_every_event_is_a_message_of_some_channel() -> None:
    """An event that no channel carries would be unknown to readers of the document."""
    carried = {name for channel in DOCUMENT["channels"].values() for name in channel["messages"]}
    messages = DOCUMENT["components"]["messages"]

    assert carried == set(messages) == NAMES
    for name, message in messages.items():
        assert message["payload"] == {"$ref": f"#/components/schemas/{name}"}


def test_the_payloads_are_schemas_of_asyncapi() -> None:
    """Without a format of its own, a payload is JSON Schema draft 7 with a few more words."""
    for payload in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(payload)
