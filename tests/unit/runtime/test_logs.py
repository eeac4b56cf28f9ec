import logging
import sys
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_runtime.logs import JsonFormatter, PrettyFormatter, configure_logs
from speechbus_runtime.redaction import is_private_name, loggable_fields, scrub_text
from speechbus_runtime.secret import Secret


class Heard(msgspec.Struct, frozen=True):
    """An event with private content."""

    text: str
    start_ms: int


def record_of(message: object, *arguments: object, **extra: object) -> logging.LogRecord:
    """Return the record of one warning, 1.5 s after the epoch."""
    record = logging.makeLogRecord({"created": 1.5, **extra})
    record.name, record.levelname, record.levelno = "speechbus_pool.worker", "WARNING", 30
    record.msg, record.args = message, arguments
    return record


def json_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the JSON object that the record becomes."""
    line = JsonFormatter("pool").format(record)
    assert "\n" not in line
    return msgspec.json.decode(line, type=dict[str, object])


def failed_record(error: Exception) -> logging.LogRecord:
    """Return the record of an error that was raised and logged."""
    try:
        raise error
    except type(error):
        return record_of("service failed", exc_info=sys.exc_info())


def test_a_record_is_one_json_object() -> None:
    """Log stores index these names; they are part of what operators rely on."""
    line = JsonFormatter("pool").format(record_of("session ended", finals=12, provider="acme"))

    assert line == (
        '{"ts":"1970-01-01T00:00:01.500Z","level":"WARNING","service":"pool",'
        '"logger":"speechbus_pool.worker","event":"session ended","finals":12,"provider":"acme"}'
    )


def test_a_record_is_one_line_for_people() -> None:
    """On a terminal nobody reads JSON."""
    line = PrettyFormatter("pool").format(record_of("session ended", finals=12, reason="by peer"))

    assert line == "00:00:01.500 WARNING pool session ended finals=12 reason='by peer'"


def test_a_traceback_is_one_field() -> None:
    """A stack over many lines falls apart in a log store."""
    fields = json_of(failed_record(ZeroDivisionError("by zero")))

    assert str(fields["traceback"]).startswith("Traceback (most recent call last):\n")
    assert str(fields["traceback"]).endswith("ZeroDivisionError: by zero")


def test_a_traceback_does_not_quote_what_could_not_be_read() -> None:
    """Python's own errors hold the value, which may be what somebody said."""
    group = ExceptionGroup("one of them", [_misread("ready", "steady"), OSError("no room")])
    told = str(json_of(failed_record(group))["traceback"])

    assert "'ready'" not in told
    assert "'steady'" not in told
    assert "KeyError: [redacted]" in told
    assert "ValueError: [redacted]" in told
    assert "OSError: no room" in told


def _misread(known: str, number: str) -> Exception:
    try:
        try:
            return {"other": ValueError()}[known]
        except KeyError:
            int(number)
            raise
    except ValueError as error:
        return error


def test_an_extra_field_cannot_replace_a_fixed_one() -> None:
    """The level of a line must be the level of the line."""
    fields = json_of(record_of("stored", level="low", service="bus"))

    assert (fields["level"], fields["extra_level"]) == ("WARNING", "low")
    assert (fields["service"], fields["extra_service"]) == ("pool", "bus")


@pytest.mark.parametrize(
    "name",
    [
        *("text", "token", "key", "secret", "authorization"),
        *("source_text", "api_keys", "apiKey", "APIKey", "key2", "Set-Cookie"),
    ],
)
def test_fields_with_private_names_are_redacted(name: str) -> None:
    """The last guard: a careless `extra` must not carry speech or a key into a log store."""
    assert json_of(record_of("heard", **{name: "hush"}))[name] == "[redacted]"


@pytest.mark.parametrize("name", ["text_bytes", "keys_max", "context", "monkey", "stream_id"])
def test_measures_of_private_things_are_shown(name: str) -> None:
    """How much there was is what a log is for."""
    assert not is_private_name(name)


def test_private_values_are_found_inside_others() -> None:
    """A whole event in a field still shows no speech."""
    fields = loggable_fields(
        {
            "heard": Heard("hush", 20),
            "list": [{"token": "hush"}, Secret("hush"), b"hush"],
            "error": ValueError("hush"),
            "unknown": object(),
        }
    )

    assert fields == {
        "heard": {"text": "[redacted]", "start_ms": 20},
        "list": [{"token": "[redacted]"}, "***", "4 bytes"],
        "error": "ValueError",
        "unknown": "object",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /v1/realtime?token=hush 101", "GET /v1/realtime?[redacted] 101"),
        ("GET /v1/realtime?hush", "GET /v1/realtime?[redacted]"),
        ("nats://user:hush@bus:4222", "nats://[redacted]@bus:4222"),
        ("sent Bearer hush.hush", "sent Bearer [redacted]"),
        ("Authorization: Basic hush", "Authorization: [redacted]"),
        ("ready? yes", "ready? yes"),
    ],
)
def test_private_parts_of_texts_are_scrubbed(text: str, shown: str) -> None:
    """Libraries put URLs into warnings and exceptions."""
    assert scrub_text(text) == shown
    assert json_of(record_of("%s", text))["event"] == shown
    assert str(json_of(failed_record(OSError(text)))["traceback"]).endswith(f"OSError: {shown}")


def test_a_message_that_does_not_fit_its_arguments_is_still_logged() -> None:
    """Python would otherwise print the arguments themselves."""
    assert json_of(record_of("%d of %d", "hush"))["event"] == "%d of %d"


def test_values_are_bounded() -> None:
    """A payload that goes astray must not fill the disk, nor one that contains itself the stack."""
    endless: list[object] = []
    endless.append(endless)
    fields = loggable_fields({"long": "x" * 10_000, "many": list(range(99)), "endless": endless})

    assert fields == {
        "long": "x" * 2_048 + "…",
        "many": list(range(32)),
        "endless": [[["list"]]],
    }


def test_ids_and_paths_are_shown() -> None:
    """They are what operators search for."""
    assert loggable_fields({"id": UUID(int=1), "file": Path("/a")}) == {
        "id": "00000000-0000-0000-0000-000000000001",
        "file": "/a",
    }


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(message=st.text(), fields=st.dictionaries(st.text(min_size=1), VALUES, max_size=3))
def test_any_record_can_be_written(message: str, fields: dict[str, object]) -> None:
    """A log call must never be what breaks a service."""
    record = record_of(message)
    for name, value in fields.items():
        record.__dict__.setdefault(name, value)

    json_of(record)
    PrettyFormatter("pool").format(record)


def test_half_a_character_can_be_written() -> None:
    """File names that are no UTF-8 reach Python as half surrogates."""
    assert json_of(record_of("file \udcff", name2="\udcff"))["event"] == "file ?"


def test_an_unknown_level_is_refused() -> None:
    """Silently logging nothing would be found out too late."""
    with pytest.raises(ValueError, match="LOUD"):
        configure_logs(service="pool", level="LOUD", json_lines=True)
