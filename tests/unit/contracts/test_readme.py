import json
import re
from pathlib import Path

import msgspec
import pytest

import speechbus_contracts
from speechbus_contracts import (
    EVENT_TYPES,
    ChunkKind,
    Event,
    StreamEvent,
    Word,
    encode_event,
    parse_subject,
)
from tests.support.contract_strategies import Json

PACKAGE = Path(speechbus_contracts.__file__).parent
README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `([a-z.]+)`\n(.*?)(?=^##)", README, re.MULTILINE | re.DOTALL))
SAME_FIELDS = {
    "segment.partial": "segment.final",
    "turn.ended": "turn.started",
}
"""Events whose section refers to another one's table."""


def tag_of(kind: type[Event]) -> str:
    """The event's `type`."""
    return str(kind.__struct_config__.tag)


def json_blocks(text: str) -> list[Json]:
    """Every example in a part of the page."""
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


def test_every_event_has_a_section_and_nothing_else_does() -> None:
    """Who reads the page knows everything that can arrive."""
    assert sorted(SECTIONS) == sorted(tag_of(kind) for kind in EVENT_TYPES)


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=tag_of)
def test_the_table_of_an_event_names_its_fields_and_defaults(kind: type[Event]) -> None:
    """A field that the page does not name does not exist for other languages."""
    section = SECTIONS[SAME_FIELDS.get(tag_of(kind), tag_of(kind))]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section, re.MULTILINE)
    told = {name: meaning for names, meaning in rows for name in re.findall(r"`(\w+)`", names)}
    common = {field.name for field in msgspec.structs.fields(StreamEvent)}
    fields = {f.name: f for f in msgspec.structs.fields(kind) if f.name not in common}

    assert set(told) - {"source_sequence"} == set(fields) - {"source_sequence"}
    for name, field in fields.items():
        assert (" = " in told[name]) != field.required, name


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=tag_of)
def test_the_examples_of_an_event_are_example_files(kind: type[Event]) -> None:
    """The page shows messages that the tests of every language decode."""
    folder = PACKAGE / "examples" / tag_of(kind)
    files = [json.loads(path.read_bytes()) for path in folder.iterdir()]
    shown = json_blocks(SECTIONS[tag_of(kind)])

    assert shown
    assert all(example in files for example in shown)


def test_the_fields_of_a_word_are_told() -> None:
    """It is the only inner object that is not an event itself or told in one line."""
    (row,) = re.findall(r"^\| `words` .*$", README, re.MULTILINE)

    assert all(f"`{field.name}`" in row for field in msgspec.structs.fields(Word))


def test_every_subject_of_the_table_is_one() -> None:
    """A subject copied from the page reaches somebody."""
    rows = re.findall(r"^\| `(speech\.v1\.[^`]+)` \|", README, re.MULTILINE)
    subjects = [
        re.sub(r"<\w+>", "x", row.replace("<shard>", "0").replace("<kind>", "final"))
        for row in rows
    ]

    assert len(rows) == 31
    assert [str(parse_subject(subject)) for subject in subjects] == subjects


def test_the_table_of_chunk_kinds_is_complete() -> None:
    """Numbers on the wire have one meaning."""
    rows = re.findall(r"^\| (\d) \| `(\w+)` \|", README, re.MULTILINE)

    assert {int(number): name for number, name in rows} == {
        int(kind): kind.name.lower() for kind in ChunkKind
    }


def test_the_bytes_of_the_audio_example_are_those_of_its_file() -> None:
    """Who writes a reader in another language starts from them."""
    (line,) = re.findall(r"^(01 01 [0-9a-f ]+)…", README, re.MULTILINE)
    shown = bytes.fromhex(line)

    assert len(shown) == 40
    assert (PACKAGE / "examples" / "audio" / "audio.bin").read_bytes().startswith(shown)


def test_every_dedup_id_of_the_table_has_its_function() -> None:
    """Writers call the function; a second spelling would be a second message."""
    told = set(re.findall(r"`(\w+_dedup_id)`", README))

    assert told == {name for name in speechbus_contracts.__all__ if name.endswith("_dedup_id")}


def test_the_python_example_runs() -> None:
    """It is the first thing that is copied."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Json] = {}
    exec(code, names)
    final = speechbus_contracts.decode_event(
        (PACKAGE / "examples" / "segment.final" / "plain.json").read_bytes()
    )

    assert names["text_of"](encode_event(final)) == "Good morning."
    assert names["text_of"](b"garbage") is None


def test_every_link_leads_somewhere() -> None:
    """Headings of the page and files beside it."""
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-").replace("`", "") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("https://"):
            assert (PACKAGE.parent / target).is_file()
