"""The contract for other languages: JSON Schema 2020-12 and AsyncAPI 3, generated."""

from typing import Any, Final, get_args

import msgspec

from speechbus_contracts.codec import EVENT_TYPES
from speechbus_contracts.subjects import ROOT, LiveKind, WriteKind

__all__ = ["build_asyncapi", "build_json_schema"]

_CHANNELS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "transcript": (
        f"{ROOT}.transcript.{{tenant}}.{{stream_id}}.{{kind}}",
        "What services may rely on: stored, in order, each event once.",
        (
            "stream.opened",
            "stream.reconfigured",
            "stream.claimed",
            "stream.resumed",
            "segment.final",
            "segment.retracted",
            "gap",
            "stream.covered",
            "stream.flushed",
            "stream.closed",
        ),
    ),
    "translation": (
        f"{ROOT}.transcript.{{tenant}}.{{stream_id}}.translation.{{language}}",
        "Translations of finals, one per target language, or why there is none.",
        ("translation.final", "translation.missing"),
    ),
    "live": (
        f"{ROOT}.live.{{tenant}}.{{stream_id}}.{{kind}}",
        "Partials, turns, lag, waiting: not stored; ignore epochs lower than the last claim's.",
        (
            "segment.partial",
            "translation.partial",
            "turn.started",
            "turn.ended",
            "stream.lag",
            "stream.waiting",
        ),
    ),
    "caption": (
        f"{ROOT}.caption.{{tenant}}.{{stream_id}}",
        "Segments joined with their translations.",
        ("caption.joined",),
    ),
    "job": (f"{ROOT}.job.open", "Streams that wait for a worker.", ("job.open",)),
    "worker": (
        f"{ROOT}.worker.{{worker_id}}.heartbeat",
        "Liveness of workers.",
        ("worker.heartbeat",),
    ),
}

_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "transcript": get_args(WriteKind),
    "live": get_args(LiveKind),
}


def build_json_schema() -> dict[str, Any]:
    """Return one schema document: any event, with each event type under `$defs`."""
    references, components = msgspec.json.schema_components(
        EVENT_TYPES, ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Speechbus events, version 1",
        "oneOf": list(references),
        "$defs": components,
    }


def build_asyncapi() -> dict[str, Any]:
    """Return an AsyncAPI 3.0 document of the JSON subjects."""
    _, components = msgspec.json.schema_components(
        EVENT_TYPES, ref_template="#/components/schemas/{name}"
    )
    names = {str(kind.__struct_config__.tag): kind.__name__ for kind in EVENT_TYPES}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Speechbus", "version": "1.0.0", "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "channels": {
            channel: {
                "address": address,
                "description": description,
                "parameters": {
                    part[1:-1]: _build_parameter(channel, part[1:-1])
                    for part in address.split(".")
                    if part.startswith("{")
                },
                "messages": {
                    names[tag]: {"$ref": f"#/components/messages/{names[tag]}"} for tag in tags
                },
            }
            for channel, (address, description, tags) in _CHANNELS.items()
        },
        "operations": {
            f"receive_{channel}": {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{channel}"},
            }
            for channel in _CHANNELS
        },
        "components": {
            "messages": {
                name: {
                    "name": tag,
                    "payload": {"$ref": f"#/components/schemas/{name}"},
                }
                for tag, name in names.items()
            },
            "schemas": components,
        },
    }


def _build_parameter(channel: str, name: str) -> dict[str, Any]:
    if name == "kind":
        return {"enum": list(_KINDS[channel]), "description": "Which events"}
    return {"description": "1 to 64 of A-Z a-z 0-9 _ -"}
