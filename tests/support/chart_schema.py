"""Settings of the services in the chart's values.schema.json: which there are, and of what form.

    python -m tests.support.chart_schema

writes them anew; `make schema` does so.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import inspect

from speechbus_cli.bootstrap import BOOTSTRAP_PREFIX, BootstrapSettings
from speechbus_correlator.settings import SETTINGS_PREFIX as CORRELATOR_PREFIX
from speechbus_correlator.settings import Settings as CorrelatorSettings
from speechbus_ingest.settings import SETTINGS_PREFIX as INGEST_PREFIX
from speechbus_ingest.settings import Settings as IngestSettings
from speechbus_runtime.secret import Secret
from speechbus_runtime.settings import describe_settings
from speechbus_transcriber.settings import SETTINGS_PREFIX as TRANSCRIBER_PREFIX
from speechbus_transcriber.settings import Settings as TranscriberSettings
from speechbus_translator.settings import SETTINGS_PREFIX as TRANSLATOR_PREFIX
from speechbus_translator.settings import Settings as TranslatorSettings

__all__ = ["COMPONENTS", "SCHEMA_PATH", "build_definitions", "render_schema"]

SCHEMA_PATH: Final = (
    Path(__file__).parents[2] / "deploy" / "kubernetes" / "speechbus" / "values.schema.json"
)
COMPONENTS: Final[Mapping[str, tuple[type[msgspec.Struct], str]]] = {
    "bootstrap": (BootstrapSettings, BOOTSTRAP_PREFIX),
    "ingest": (IngestSettings, INGEST_PREFIX),
    "transcriber": (TranscriberSettings, TRANSCRIBER_PREFIX),
    "correlator": (CorrelatorSettings, CORRELATOR_PREFIX),
    "translator": (TranslatorSettings, TRANSLATOR_PREFIX),
}
CHARTS_OWN: Final = frozenset(
    {
        # Written by the chart, from other values.
        "NATS_URL",
        "NATS_USER",
        "NATS_CA",
        "NATS_CERT",
        "NATS_KEY",
        "SHARDS",
        "LISTEN_HOST",
        "LISTEN_PORT",
        "HEALTH_HOST",
        "HEALTH_PORT",
        "CTRANSLATE2_DIR",
        # Half of a credential: with its other half in a Secret.
        "PALABRA_CLIENT_ID",
        # One for all pods of a Deployment, where each needs its own.
        "WORKER_ID",
    }
)


def build_definitions() -> dict[str, object]:
    """Return a schema for `settings` of each component, by the name of its definition."""
    return {
        f"{component}Settings": {
            "type": "object",
            "additionalProperties": False,
            "properties": dict(_describe_properties(kind, prefix)),
        }
        for component, (kind, prefix) in COMPONENTS.items()
    }


def _describe_properties(
    kind: type[msgspec.Struct], prefix: str
) -> Iterator[tuple[str, Mapping[str, object]]]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    described = describe_settings(kind, prefix)
    for field, description in zip(info.fields, described, strict=True):
        name = description.variable.removeprefix(prefix)
        if name not in CHARTS_OWN and not _is_secret(field.type):
            yield name, {**_describe_type(field.type), "description": description.summary}


def _is_secret(kind: inspect.Type) -> bool:
    match kind:
        case inspect.Metadata():
            return _is_secret(kind.type)
        case inspect.UnionType():
            return any(_is_secret(member) for member in kind.types)
        case inspect.VarTupleType():
            return _is_secret(kind.item_type)
        case inspect.TupleType():
            return any(_is_secret(member) for member in kind.item_types)
        case inspect.CustomType():
            return kind.cls is Secret
        case _:
            return False


def _describe_type(kind: inspect.Type) -> dict[str, object]:
    match kind:
        case inspect.Metadata():
            return _describe_type(kind.type)
        case inspect.UnionType():
            (member,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))
            return _describe_type(member)
        case inspect.IntType() | inspect.FloatType():
            name = "integer" if isinstance(kind, inspect.IntType) else "number"
            bounds = {"minimum": kind.ge, "maximum": kind.le}
            return {"type": name, **{key: b for key, b in bounds.items() if b is not None}}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.LiteralType():
            return {"enum": list(kind.values)}
        case inspect.VarTupleType():
            return {"type": "array", "items": _describe_type(kind.item_type)}
        case inspect.StrType():
            return {"type": "string"}
        case _:  # a mapping, or pairs: written as in a variable
            return {"type": "string"}


def render_schema() -> str:
    """Return the schema with the definitions as they should be."""
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    schema["definitions"] = {**schema["definitions"], **build_definitions()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_text(render_schema(), encoding="utf-8")
