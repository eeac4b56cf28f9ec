"""Hypothesis strategies for everything that travels on the bus."""

import types
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from speechbus_contracts import (
    EVENT_TYPES,
    INTEGER_MAX,
    SHARDS_MAX,
    AudioChunk,
    AudioSubject,
    CaptionSubject,
    ChunkKind,
    Event,
    GovernKind,
    GovernSubject,
    IngestSubject,
    JobSubject,
    LiveKind,
    LiveSubject,
    ProviderSubject,
    SessionSubject,
    SourceSubject,
    Subject,
    TranscriptSubject,
    WorkerKind,
    WorkerSubject,
    WriteKind,
    WriteSubject,
    build_stream_id,
)

__all__ = [
    "TOKEN_ALPHABET",
    "Json",
    "audio_chunks",
    "events",
    "integers",
    "json_values",
    "members_of",
    "stream_ids",
    "structs",
    "subjects",
    "tokens",
]

Json: TypeAlias = Any
"""What `json.loads` returns."""

TOKEN_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


def tokens() -> st.SearchStrategy[str]:
    """Every token that a subject may hold."""
    return st.text(TOKEN_ALPHABET, min_size=1, max_size=64)


def integers() -> st.SearchStrategy[int]:
    """Every integer that an event may hold."""
    return st.integers(-INTEGER_MAX, INTEGER_MAX)


def stream_ids() -> st.SearchStrategy[str]:
    """Ids as ingest makes them."""
    return st.builds(
        build_stream_id,
        unix_ms=st.integers(0, 2**48 - 1),
        entropy=st.binary(min_size=10, max_size=10),
    )


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Every value of a struct, made from its annotations; optional fields may be left out."""
    hints = get_type_hints(kind)
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(kind):
        fields = required if field.required else optional
        fields[field.name] = _values(hints[field.name])
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: kind(**values))


def events() -> st.SearchStrategy[Event]:
    """Every event of every type."""
    return st.one_of([structs(kind) for kind in EVENT_TYPES])


def audio_chunks() -> st.SearchStrategy[AudioChunk]:
    """Every chunk that may be written."""
    payloads = {
        ChunkKind.AUDIO: st.binary(max_size=400).map(lambda pcm: pcm[: len(pcm) & ~1]),
        ChunkKind.END: st.binary(max_size=40),
        ChunkKind.FLUSH: st.just(b""),
        ChunkKind.RECONFIGURE: st.binary(max_size=40),
        ChunkKind.SILENCE: st.just(b""),
    }
    return st.one_of(
        [
            st.builds(
                AudioChunk,
                kind=st.just(kind),
                number=st.integers(0, 2**64 - 1),
                first_sample=st.integers(0, 2**64 - 1),
                captured_at_ns=st.integers(0, 2**64 - 1),
                payload=payload,
                ingest_epoch=st.integers(0, 2**32 - 1),
                chunks_before=st.integers(0, 2**16 - 1),
            )
            for kind, payload in payloads.items()
        ]
    )


def subjects() -> st.SearchStrategy[Subject]:
    """Every subject of the bus."""
    kinds = st.sampled_from(get_args(WriteKind))
    options: list[st.SearchStrategy[Subject]] = [
        st.builds(AudioSubject, st.integers(0, SHARDS_MAX - 1), tokens(), tokens()),
        st.builds(JobSubject),
        st.builds(LiveSubject, tokens(), tokens(), st.sampled_from(get_args(LiveKind))),
        st.builds(CaptionSubject, tokens(), tokens()),
        st.builds(WorkerSubject, tokens(), st.sampled_from(get_args(WorkerKind))),
        st.builds(SessionSubject, tokens(), tokens()),
        st.builds(IngestSubject, tokens(), st.just("holds")),
        st.builds(SourceSubject, tokens(), tokens()),
        st.builds(GovernSubject, st.sampled_from(get_args(GovernKind)), tokens()),
        st.builds(ProviderSubject, st.sampled_from(get_args(GovernKind)), tokens()),
        st.builds(WriteSubject, tokens(), tokens(), kinds),
        st.builds(WriteSubject, tokens(), tokens(), st.just("translation"), tokens()),
        st.builds(TranscriptSubject, tokens(), tokens(), kinds),
        st.builds(TranscriptSubject, tokens(), tokens(), st.just("translation"), tokens()),
    ]
    return st.one_of(options)


def json_values() -> st.SearchStrategy[Json]:
    """Any JSON, as a newer writer might put it into a field that this reader does not know."""
    leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )


def members_of(value: Json) -> list[tuple[str | int, Json]]:
    """Names and values of a JSON object, places and items of a list; none of anything else."""
    if isinstance(value, dict):
        return list(cast("dict[str | int, Json]", value).items())
    return list(enumerate(cast("Sequence[Json]", value))) if isinstance(value, list) else []


def _values(hint: object) -> st.SearchStrategy[Any]:
    plain: dict[object, st.SearchStrategy[Any]] = {
        str: st.text(max_size=40),
        int: integers(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        type(None): st.none(),
    }
    if hint in plain:
        return plain[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in {Union, types.UnionType}:
        return st.one_of([_values(argument) for argument in arguments])
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=3).map(tuple)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return st.dictionaries(_values(arguments[0]), _values(arguments[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return structs(hint)
    raise TypeError(f"no strategy for {hint}: add one here")
